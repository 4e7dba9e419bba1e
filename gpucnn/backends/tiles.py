"""Which register tile a CPU kernel uses, by shape.

Time is counted in cycles of a core that issues two vector multiply-adds and two vector loads a cycle and needs about
eight multiply-adds in flight. Tiles at the end of an axis overlap their neighbours, so an uneven axis costs whole tiles.
"""

import functools
import math

# Accumulators that stay in registers beside the operands, by how many registers a 16-lane vector takes.
_ACCUMULATORS = {1: 24, 2: 6, 4: 6}
_TREE_CYCLES = 45
_POSITIONS = 64


@functools.cache
def registers_per_vector() -> int:
    """How many of this processor's registers 16 float32 take, as Numba will compile for it."""
    from numba.core.registry import cpu_target

    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    if "+avx512f" in features:
        return 1
    return 4 if triple.startswith(("aarch64", "arm64")) else 2


def _cycles(products: int, loads: int) -> float:
    """One step of a tile: multiply-adds or loads, whichever port is busier; a little for each load's address."""
    return max(products / 2, loads / 2, 4) + 0.05 * loads


@functools.cache
def broadcast_tile(outputs: int, pixels: int) -> tuple[int, int]:
    """(OB, QB) for `outputs` output channels by rows of `pixels` pixels."""
    most = _ACCUMULATORS[registers_per_vector()]

    def cost(tile):
        ob, qb = tile
        return math.ceil(outputs / ob) * math.ceil(pixels / qb) * _cycles(ob * qb, ob + qb)

    tiles = [(ob, qb) for ob in range(1, most + 1) for qb in range(1, most // ob + 1)]
    return min((t for t in tiles if t[0] <= outputs and t[1] <= pixels), key=cost)


@functools.cache
def product_tile(outputs: int, channels: int, taps: int) -> tuple[int, int, int]:
    """(OB, CB, SB) for the weight gradient of `outputs` by `channels` by rows of `taps` taps."""
    most = _ACCUMULATORS[registers_per_vector()]

    def cost(tile):
        ob, cb, sb = tile
        number = math.ceil(outputs / ob) * math.ceil(channels / cb) * math.ceil(taps / sb)
        trees = math.ceil(ob * cb * sb / 16) * _TREE_CYCLES
        return number * (_POSITIONS * _cycles(ob * cb * sb, ob + cb * sb) + trees)

    sizes = range(1, most + 1)
    tiles = [(ob, cb, sb) for ob in sizes for cb in sizes for sb in sizes if ob * cb * sb <= most]
    return min((t for t in tiles if t[0] <= outputs and t[1] <= channels and t[2] <= taps), key=cost)
