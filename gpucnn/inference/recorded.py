"""Plans of backends that record: the network's operations, captured once and replayed on the same arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.inference.ends import joined
from gpucnn.inference.graph import Graph


def _group_norm(backend: Backend, x: Batch, groups: int, **settings: Any) -> Batch:
    mean, var = backend.group_norm_statistics(x, groups)
    return backend.group_norm(x, mean, var, **settings)


# How a backend computes an operation from its inputs and settings.
_OPERATIONS: dict[str, Callable[..., Batch]] = {
    "conv": lambda backend, x, other=None, **settings: backend.conv_inference(x, other=other, **settings),
    "transposed conv": lambda backend, x, **settings: backend.conv_input_gradient(x, **settings),
    "dense": lambda backend, x, **settings: backend.dense(x, **settings),
    "reshape": lambda backend, x, shape: x.reshape(*shape),
    "max pool": lambda backend, x, window: backend.max_pool(x, window)[0],
    "average pool": lambda backend, x, **settings: backend.avg_pool(x, **settings),
    "global average pool": lambda backend, x: backend.global_avg_pool(x),
    "resample": lambda backend, x, **settings: backend.resample_axis(x, **settings),
    "elementwise": lambda backend, x, name, numbers: backend.elementwise(name, x, *numbers),
    "add": lambda backend, a, b, relu: backend.add(a, b, relu=relu),
    "add bias": lambda backend, x, **settings: backend.add_bias(x, **settings),
    "batch norm": lambda backend, x, other=None, **s: backend.batch_norm_inference(x, other=other, **s),
    "group norm": _group_norm,
    "concatenate": lambda backend, *parts: backend.concatenate(list(parts)),
    "take channels": lambda backend, x, first, count: backend.take_channels(x, first, count),
    "softmax": lambda backend, x: backend.softmax(x),
}


def compute(graph: Graph, images: Batch) -> Batch:
    """The graph's result of a batch, by its backend's operations one after the other."""
    values = {id(graph.nodes[0]): images}
    for node in graph.nodes[1:]:
        inputs = [values[id(before)] for before in node.inputs]
        values[id(node)] = _OPERATIONS[node.operation](images.backend, *inputs, **node.settings)
    return values[id(graph.nodes[-1])]


class RecordedPlan:
    """See gpucnn.inference.Plan."""

    seal: object | None = None

    def __init__(
        self, backend: Backend, graph: Graph, count: int, preparation: Augmentation, image_shape: tuple[int, ...]
    ):
        self._backend, graph = backend, joined(graph)
        self._images = backend.zeros((count, *image_shape))
        self._outputs: Any = None
        self._sent = backend.staging(self._images.shape, self._images.dtype)
        self._received = backend.staging((count, *graph.nodes[-1].shape), self._images.dtype)
        indices = backend.array(np.arange(count, dtype=np.int64))
        values = sum(int(np.prod(node.shape)) for node in graph.nodes)
        self.bytes = self._images.nbytes + 4 * values * -(-count // backend.lanes) * backend.lanes

        def work() -> None:
            self._outputs = None  # so that recording finds the memory that the first run took
            images = backend.load_images(self._images, indices, count, preparation)
            self._outputs = backend.rows(compute(graph, images))

        self._replay = backend.capture_step(work)

    def run(self, images: np.ndarray, outputs: np.ndarray, again: bool) -> bool:
        self._sent[...] = images
        self._backend.assign(self._images, self._sent)
        self._replay()
        finite = bool(np.isfinite(images).all())  # while the device computes
        self._backend.host_into(self._outputs, self._received)
        outputs[...] = self._received
        return finite
