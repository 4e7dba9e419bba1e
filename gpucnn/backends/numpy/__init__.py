"""NumPy: the specification in exact math (exact.py), and what BLAS makes of the same operations (fast.py)."""
