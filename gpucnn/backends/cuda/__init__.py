"""The CUDA C++ kernels' backend, whatever launches them: CuPy on a GPU, the host emulation on a CPU."""
