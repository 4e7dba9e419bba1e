"""The processor's peak: multiply-adds from registers alone, timed by turns with what is compared with it."""

from collections.abc import Iterable

from gpucnn.throughput.timing import Contender, Timing, ratio


class Peak:
    """The register-only multiply-adds on `threads` threads: a contender like the others, and what it means for them."""

    def __init__(self, threads: int):
        from gpucnn.backends.numba.peak import fma_burst

        self.threads = threads
        burst, self._operations = fma_burst(threads)
        burst()  # compiles
        self.contender = Contender(burst)

    def rate(self, timings: Iterable[Timing]) -> float:
        """Operations a second in the best burst."""
        return self._operations / min(seconds for t in timings for s in t.slices for seconds in s.seconds)

    def fraction(self, operations: float, timing: Timing, burst: Timing) -> float:
        """What part of the peak a repetition of so many operations reached.

        Within each round, if enough rounds were quiet: the machine's speed changes. Else of the best burst, for a
        disturbed burst would make everything else look good.
        """
        met = ratio(timing, burst)
        if met.get("quiet"):
            return operations / self._operations * met["ratio"]
        return operations / timing.median / self.rate([burst])


def peaks(threads: Iterable[int]) -> dict[int, Peak]:
    """The peak for each thread count but 0, which stands for a GPU; empty without Numba."""
    try:
        return {number: Peak(number) for number in sorted(set(threads) - {0})}
    except ImportError:
        return {}
