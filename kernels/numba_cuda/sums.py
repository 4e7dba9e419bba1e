"""The sums of rule 3: over the 16 images of a block, then over the bands of an image, then over the blocks.

All three are trees of adjacent pairs: (0,1) (2,3) ..., then pairs of pairs, an odd one at the end carried up. Level
(a), the sum within a band, belongs to the kernels that know what is summed. They leave `part` (blocks * bands, K):
row n * bands + t holds what band t of block n gives to each of K sums.

Those kernels run in blocks of 32 threads, one a lane, that meet in `cuda.shared.array(0, ...)`: shared memory whose
size, SHARED_BYTES, comes with the launch. (One whose size stands in the kernel does as well on a device, but in the
simulator two threads may then each get an array of their own: it is made at the first call, without a lock.)
"""

from gpucnn.kernels.contract import BLOCK
from gpucnn.kernels.numba_cuda.arithmetic import ZERO, add, add64
from gpucnn.kernels.numba_cuda.compiler import LANES, device, kernel
from numba import cuda

# 32 numbers of 8 bytes at most.
SHARED_BYTES = LANES * 8


@device
def there(image, images):
    """Whether an image is a real one: others only fill up the last block, and no sum may see them."""
    return image < images


def _lane_tree_of(plus):
    @cuda.jit(device=True)
    def lane_tree(shared, lane):
        """Level (b): shared[0] and shared[16] become the sums of the 16 values from there on.

        All 32 threads of a block call this, each having written shared[lane]. In the first round every second one adds
        its neighbor's value to its own, in the next round every fourth one adds the sum two places on, and so forth:

            0 1 2 3 4 5 6 7     after one round  01 . 23 . 45 . 67 .     after two  0123 . . . 4567 . . .

        A round reads what another thread wrote in the round before, so all must have got there: that is the barrier.
        """
        distance = 1
        while distance < BLOCK:
            cuda.syncthreads()
            if lane % (2 * distance) == 0:
                shared[lane] = plus(shared[lane], shared[lane + distance])
            distance *= 2

    return lane_tree


lane_tree, lane_tree64 = _lane_tree_of(add), _lane_tree_of(add64)


@device
def keep(part, k, value, lane_block, band, bands, lane):
    """Write the two sums of 16 that lane_tree leaves at lanes 0 and 16 to their rows; the last block may be missing."""
    row = (lane_block * LANES + lane) // BLOCK * bands + band
    if lane % BLOCK == 0 and row < part.shape[0]:
        part[row, k] = value


def _column_tree_of(plus):
    @device
    def column_tree(part, k, first, terms, apart):
        """The sum of `terms` values of column k, in rows first, first + apart, ...: in place, left in the first row."""
        distance = 1
        while distance < terms:
            for t in range(0, terms - distance, 2 * distance):
                row = first + t * apart
                part[row, k] = plus(part[row, k], part[row + distance * apart, k])
            distance *= 2

    return column_tree


column_tree, column_tree64 = _column_tree_of(add), _column_tree_of(add64)


def _total_of(tree):
    @device
    def total(part, k, bands):
        """Levels (c) and (d): the tree over the bands of each block, then the tree over the blocks."""
        blocks = part.shape[0] // bands
        for block in range(blocks):
            tree(part, k, block * bands, bands, 1)
        tree(part, k, 0, blocks, bands)
        return part[0, k]

    return total


total, total64 = _total_of(column_tree), _total_of(column_tree64)


@kernel
def weight_total(part, out, bands):
    """out[k] = the sum of column k of part, + 0. One thread per weight."""
    k = cuda.grid(1)
    if k < out.size:
        out[k] = add(total(part, k, bands), ZERO)
