"""The backend of the readable GPU kernels in kernels/numba_cuda."""
