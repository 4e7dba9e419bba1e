"""Predictions of a model: plans are made at first use, kept, and shared out among threads.

A plan computes the outputs of so many images in memory of its own. A model keeps the plans that were used last; each
call takes one that nobody uses, or makes another. Plans read all of the model's weights in each call, be it only to see
that a copy in another order is still right, so they see every change of weights; a change of settings, or of place,
makes them void.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.arguments import refuse
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.inference import Plan, Unplannable
from gpucnn.inference.graph import Graph
from gpucnn.inference.trace import trace
from gpucnn.models.inputs import check_images
from gpucnn.recordable import attributes, changed_setting, is_recordable, last_change

Finish = Callable[[Batch], Batch]
Model = Any  # gpucnn.models.Model, whose module imports this one

# So many plans, and so much of their memory, a model keeps at most while nobody uses them.
_KEPT, _KEPT_BYTES = 8, 256 << 20
_alone = threading.RLock()
_ONCE = range(1)


class Plans:
    """The plans of one model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forget()
        self._last_change: object = None
        self._settings: list[tuple[Any, dict[str, Any]]] = []
        self._plannable = False

    def __deepcopy__(self, memo: dict) -> "Plans":
        return Plans()

    def __reduce__(self):
        return Plans, ()

    def _forget(self) -> None:
        self._free: OrderedDict[tuple, list[Plan]] = OrderedDict()
        self._graphs: dict[Any, tuple[Graph, int] | None] = {}  # with how many images at most a plan has
        self.kept = self._bytes = 0  # of the plans that wait for the next call

    # ---- predictions -------------------------------------------------------------------------------------------------

    def predict(self, model: Model, images, batch_size: int, finish: Finish) -> np.ndarray:
        """What `finish` makes of the outputs of `model`, (N, ...) on the host.

        check_images has passed the images but for their values.
        """
        if self._last_change is not last_change():
            self._look_for_changes(model)
        which, graphs = _which(finish), self._graphs
        found = graphs[which] if which in graphs else self._find(model, finish, which)
        if found is not None:
            try:
                return self._planned(model, images, batch_size, *found, which)
            except Unplannable:
                self._graphs[which] = None
        images = check_images(images, model.image_shape, model.backend.dtype)
        return _unplanned(model, images, batch_size, finish)

    def _planned(self, model: Model, images, batch_size: int, graph: Graph, most: int, which) -> np.ndarray:
        backend, count, graphs = model.backend, len(images), self._graphs
        most = min(batch_size, most)
        outputs = np.empty((count, *graph.nodes[-1].shape), backend.dtype)
        if count <= most:
            parts = [(count, _ONCE)]
        else:
            size = -(-count // -(-count // most))
            parts = [(size, range(0, count - size + 1, size)), (count % size, range(count - count % size, count, size))]
        for length, starts in parts:
            if not length:
                continue
            key = which, length
            plan = self._take(key) or self._make(model, graph, length)
            for start in starts:
                part, result = images, outputs
                if length != count:
                    part, result = images[start : start + length], outputs[start : start + length]
                if type(part) is not np.ndarray:  # of images that are mapped
                    part = np.ascontiguousarray(part, backend.dtype)
                if not plan.run(part, result, start > starts[0]):
                    check_images(images, model.image_shape, backend.dtype)  # says which image
            self._give_back(key, plan, graphs)
        return outputs

    def _look_for_changes(self, model: Model) -> None:
        """Forget everything if a setting of the model or one of its layers has changed."""
        with self._lock:
            latest, parts = last_change(), [model, *model.layer.walk(), *model.parameters, *model.running]
            same = len(parts) == len(self._settings) and all(
                part is known and changed_setting(part, before) is None
                for part, (known, before) in zip(parts, self._settings, strict=True)
            )
            if not same:
                self._forget()
                self._settings = [(part, attributes(part)) for part in parts]
                self._plannable = all(map(is_recordable, [model, *model.layer.walk()]))
            self._last_change = latest

    def _find(self, model: Model, finish: Finish, which) -> tuple[Graph, int] | None:
        """What the model computes, and how many images a plan should have at most; None where only its layers know."""
        with _alone:
            graphs, found = self._graphs, None
            if self._plannable and which is not None:
                training, model.mode.training = model.mode.training, False
                try:
                    graph = trace(lambda x: finish(model.layer(x)[0]), model.input_shape, _owned_by(model))
                    found = graph, model.backend.images_at_once(graph)
                except Exception:  # whatever a layer raises that looks for values: by itself it raises it again
                    found = None
                finally:
                    model.mode.training = training
            graphs[which] = found
        return found

    # ---- the store ---------------------------------------------------------------------------------------------------

    def _take(self, key: tuple) -> Plan | None:
        with self._lock:
            plans = self._free.get(key)
            if not plans:
                return None
            plan = plans.pop()
            self.kept -= 1
            self._bytes -= plan.bytes
            return plan

    def _make(self, model: Model, graph: Graph, count: int) -> Plan:
        with _alone:
            return model.backend.plan(graph, count, model.preparation, model.image_shape)

    def _give_back(self, key: tuple, plan: Plan, graphs: dict) -> None:
        """Keep a plan for the next call, unless settings have changed since; the longest unused are let go."""
        with self._lock:
            if graphs is not self._graphs:
                return
            self._free.setdefault(key, []).append(plan)
            self._free.move_to_end(key)
            self.kept += 1
            self._bytes += plan.bytes
            while self.kept > _KEPT or (self._bytes > _KEPT_BYTES and self.kept > 1):
                oldest = next(iter(self._free))
                if self._free[oldest]:
                    self._bytes -= self._free[oldest].pop(0).bytes
                    self.kept -= 1
                else:
                    del self._free[oldest]


def softmax(outputs: Batch) -> Batch:
    """How a classifier's outputs become probabilities."""
    return outputs.backend.softmax(outputs)


def values(outputs: Batch) -> Batch:
    """A regressor's outputs as they are."""
    return outputs


def _which(finish: Finish):
    """What tells `finish` apart from others; None for one that may do something else each time.

    Our losses' depend on their class alone.
    """
    if finish is softmax or finish is values:
        return finish
    function = getattr(finish, "__func__", None)
    return function if function is not None and function.__module__ == "gpucnn.losses" else None


def _owned_by(model: Model) -> Callable[[Array], bool]:
    """Whether an array is a part of the model's weights or statistics that kernels may read in whole vectors."""
    ranges = [(_address(flat), flat.nbytes) for flat in (model.values, model.statistics)]

    def owned(array: Array) -> bool:
        place = _address(array)
        return (
            array.dtype == np.float32
            and array.flags.c_contiguous
            and any(first <= place < first + size and (place - first) % 64 == 0 for first, size in ranges)
        )

    return owned


def _address(array: Array) -> int:
    """Where an array begins; CuPy's have no __array_interface__."""
    interface = "__cuda_array_interface__" if hasattr(array, "__cuda_array_interface__") else "__array_interface__"
    return getattr(array, interface)["data"][0]


def _batch(result: Any) -> Batch:
    if not isinstance(result, Batch):
        raise refuse("what finish returned", result, "a Batch, such as outputs.like(array)")
    return result


def _unplanned(model: Model, images, batch_size: int, finish: Finish) -> np.ndarray:
    """Layer by layer, one call at a time: layers read the mode, and a backend records what any thread launches."""
    with _alone:
        training, model.mode.training = model.mode.training, False
        try:
            parts = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
            finished = (finish(model(part)[0]) for part in parts)
            return np.concatenate([model.backend.unpack(_batch(result)) for result in finished])
        finally:
            model.mode.training = training
