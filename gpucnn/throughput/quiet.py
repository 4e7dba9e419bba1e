"""Whether the machine is quiet enough to measure on."""

import time

from gpucnn.throughput.timing import DISTURBED, Load


def others_now(seconds: float = 0.5) -> float | None:
    """The part of all processors that other processes use during the next `seconds`; None if the system does not say.

    This process should be idle meanwhile: a helper thread that still spins counts as its own.
    """
    load = Load()
    time.sleep(seconds)
    return load.of_others()


def warning(others: float | None) -> str | None:
    """A sentence for the user if the machine is not quiet; None if it is, or nobody knows."""
    if others is None or others < DISTURBED:
        return None
    return (
        f"WARNING: this machine is not quiet: other processes use {others:.0%} of its processors; figures will be too "
        "low, and ratios uncertain. Measure when nothing else runs"
    )
