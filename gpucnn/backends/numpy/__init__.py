"""NumPy: the specification in exact math (exact/), and the same operations with BLAS (fast/).

Both have the file names of kernels/; what they share is in this folder.
"""
