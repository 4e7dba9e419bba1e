"""The CPU backend, which launches kernels/numba. Imports here are absolute, so that `numba` is the library."""
