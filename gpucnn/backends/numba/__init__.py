"""The CPU backend, which launches kernels/numba. Imports are absolute, so that `numba` is the library."""
