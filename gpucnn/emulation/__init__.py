"""The CUDA kernels on the CPU, thread by thread, for tests and for writing kernels without a GPU.

The real .cu files are compiled by g++ and run with one fiber per CUDA thread: real barriers and shuffles, shared memory
that starts as NaN, arrays between inaccessible pages, threads in forward, reversed or random order, and
AddressSanitizer and UBSan on request. Needs g++ on Linux on x86-64. See docs/debugging-kernels.md.
"""

from gpucnn.emulation.compiler import why_not

__all__ = ["get_emulated_backend", "why_not"]


def get_emulated_backend(order="forward", sanitize: bool = False, guard: str | None = "end"):
    """The CUDA backend running on the CPU: slow, with the same bits as every other exact backend.

    `order` of the threads in a block: "forward", "reversed", or an integer from 2 on that seeds a random order.
    `guard`: arrays end ("end") or begin ("front") at an inaccessible page. `sanitize`: kernels compiled under
    AddressSanitizer and UBSan. Raises BackendError if g++ is missing or the machine is not Linux on x86-64.
    """
    from gpucnn.backends.cuda.backend import CudaBackend
    from gpucnn.emulation.launcher import EmulatedLauncher

    backend = CudaBackend(EmulatedLauncher(order, sanitize, guard))
    backend.name = "cupy (emulated)"
    return backend
