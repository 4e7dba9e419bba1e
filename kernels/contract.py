"""The contract's sizes (kernels/CONTRACT.md, rule 3). A test compares the CUDA sources and gpucnn.arithmetic."""

BLOCK = 16  # images that are summed together
BAND = 64  # positions of an image, or values of a line, that are summed together, at least
