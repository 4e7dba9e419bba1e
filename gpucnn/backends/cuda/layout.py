"""Sizes and types as the CUDA kernels take them."""

import numpy as np

LANES = 32
HALVES = 2  # blocks of 16 images, the contract's, in a block of 32 lanes
HIGHEST = 65535  # blocks of threads along a grid's second and third axis
i32, i64, u32, u64, f32 = np.int32, np.int64, np.uint32, np.uint64, np.float32


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def line_levels(length: int) -> int:
    """lines.cuh's LEVELS for lines of `length` values: few, which take few registers, as long as they are enough."""
    return 16 if length <= 2**24 else 23


def grid_of_blocks(columns: int, blocks: int) -> tuple[int, int, int]:
    """The grid for common.cuh's block_of_images, `columns` wide."""
    high = min(blocks, HIGHEST)
    return columns, high, ceil_div(blocks, high)


def axes(sizes) -> str:
    """The C++ type with one number per spatial axis."""
    return f"Axes<{', '.join(map(str, sizes))}>"
