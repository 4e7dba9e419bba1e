"""Plans of the CPU backend: a network as one program of native kernels."""

import math

import numpy as np

from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.numba.channel_blocks import Blocks, aligned
from gpucnn.backends.numba.lowering import Lowered, images_together, multiply_adds
from gpucnn.backends.spatial import three
from gpucnn.inference.graph import Graph
from gpucnn.kernels.numba.channel_images import FACTOR, MEAN, SOURCE_IMAGE, SOURCE_ROW

# The largest map should stay in the second cache, with the next one, for all images at once; or, where a thread takes
# some of the images through all layers, the largest that is kept for all of them in the third. But eight images share
# what is done once for all.
_MAP_BYTES, _KEPT_MAP_BYTES, _FEW, _FEW_BYTES = 1 << 20, 3 << 20, 8, 8 << 20
_MOST_IMAGES = 128


class NumbaInference:
    """Part of NumbaBackend."""

    threads: int

    def images_at_once(self, graph: Graph) -> int:
        """How many images a plan should compute at most."""
        size = 4 * graph.largest
        least = min(_FEW, _FEW_BYTES // size)
        whole = _power_of_two(max(least, _KEPT_MAP_BYTES // _largest_kept(graph)))
        if images_together(whole, self.threads, multiply_adds(graph)):
            return whole
        return _power_of_two(max(least, _MAP_BYTES // size))

    def plan(
        self, graph: Graph, count: int, preparation: Augmentation, image_shape: tuple[int, ...], steady: bool
    ) -> "NativePlan":
        """A plan for `count` images (C, *spatial) that are prepared first. Raises Unplannable."""
        return NativePlan(graph, count, preparation, image_shape, self.threads, steady)


def _power_of_two(count: int) -> int:
    """The largest up to `count`, which can be shared out evenly."""
    return min(_MOST_IMAGES, 1 << max(0, count.bit_length() - 1))


def _largest_kept(graph: Graph) -> int:
    """Bytes of the largest map of an image that is there for all: the input, the result, what dense layers read."""
    read = {id(before) for node in graph.nodes if node.operation == "dense" for before in node.inputs}
    kept = [node for node in graph.nodes if id(node) in read or node is graph.nodes[-1]]
    return max(4 * math.prod(graph.nodes[0].shape), *(Blocks.of(1, node.shape).image for node in kept))


class NativePlan:
    """See gpucnn.inference.Plan."""

    seal: object | None = None

    def __init__(
        self,
        graph: Graph,
        count: int,
        preparation: Augmentation,
        image_shape: tuple[int, ...],
        threads: int,
        steady: bool,
    ):
        same = preparation == NO_AUGMENTATION and image_shape == graph.nodes[0].shape
        lowered = Lowered(graph, count, threads, same, steady)
        self._program, source = lowered.program, lowered.source
        self.bytes = lowered.bytes
        channels, size = image_shape[0], three(image_shape[1:], 1)
        strides = [4 * math.prod((channels, *size)[axis:]) for axis in range(4)]  # of image, channel, plane, row
        for slot, stride in zip(range(SOURCE_IMAGE, SOURCE_ROW + 1), strides, strict=True):
            source[slot] = stride
        # A crop shows the middle.
        room = [i - o for i, o in zip(size, three(graph.nodes[0].shape[1:], 1), strict=True)]
        self._program.skip(sum(r // 2 * stride for r, stride in zip(room, (*strides[2:], 4), strict=True)))
        if preparation.mean is not None:
            for slot, numbers in zip((MEAN, FACTOR), preparation.constants(channels), strict=True):
                constants = aligned(channels)
                constants[...] = numbers
                source[slot] = lowered.program.keep(constants)
        self._sees_all = not any(room)

    def run(self, images: np.ndarray, outputs: np.ndarray, again: bool) -> bool:
        """outputs from images; the slots are this plan's, and one call has it at a time."""
        finite = self._program.run(images, outputs, again)
        return finite if self._sees_all else bool(np.isfinite(images).all())
