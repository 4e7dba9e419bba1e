"""The backend of the CUDA C++ kernels, launched by CuPy on a GPU or by the emulation on a CPU."""
