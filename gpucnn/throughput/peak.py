"""The processor's peak: register-only multiply-adds, timed in turns with what is compared with it."""

from collections.abc import Iterable

from gpucnn.throughput.timing import Contender, Timing, ratio


class Peak:
    """Register-only multiply-adds on `threads` threads: a contender like the others, to which they are compared."""

    def __init__(self, threads: int):
        from gpucnn.backends.numba.peak import fma_burst

        self.threads = threads
        burst, self._operations = fma_burst(threads)
        burst()  # compiles
        self.contender = Contender(burst)

    def rate(self, timings: Iterable[Timing]) -> float:
        """Operations per second in the best burst."""
        return self._operations / min(seconds for t in timings for s in t.slices for seconds in s.seconds)

    def fraction(self, operations: float, timing: Timing, burst: Timing) -> float:
        """The fraction of the peak that a repetition of `operations` reached.

        Within each round, if enough rounds were quiet, since the machine's speed changes; else relative to the best
        burst, since a disturbed burst would make everything else look good.
        """
        speed = ratio(timing, burst)
        if speed.get("quiet"):
            return operations / self._operations * speed["ratio"]
        return operations / timing.median / self.rate([burst])


def peaks(threads: Iterable[int]) -> dict[int, Peak]:
    """The peak for each thread count except 0, which means a GPU; empty without Numba."""
    try:
        return {number: Peak(number) for number in sorted(set(threads) - {0})}
    except ImportError:
        return {}
