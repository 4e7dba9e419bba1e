"""NumPy: the specification in exact math (exact/), and what BLAS makes of the same operations (fast/).

Both have the file names of kernels/; what they share is beside them.
"""
