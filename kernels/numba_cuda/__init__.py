"""The readable GPU kernels: one thread per value, in Python, for Numba-CUDA.

Where to begin: elementwise.py, then dense.py, then conv.py. All rounding happens in the functions of arithmetic.py, and
all threads of a warp hold the same pixel of 32 different images, so that neighbors read neighboring memory.
"""
