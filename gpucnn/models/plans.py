"""Predictions of a model: plans are made at first use, kept, and shared out among threads.

A plan computes the outputs of so many images in memory of its own. A model keeps the plans that were used last; each
call takes one that nobody uses, or makes another. Plans see every change of weights: while anybody could change them
(weights.py), each call reads them all, be it only to see that a copy in another order is still right. A change of
settings, or of place, makes plans void.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast
from weakref import WeakSet

import numpy as np

from gpucnn.arguments import refuse
from gpucnn.backends.augmentation import NO_AUGMENTATION
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.inference import Plan, Unplannable
from gpucnn.inference.graph import Graph
from gpucnn.models.inputs import check_images
from gpucnn.models.stages import Stage, stages_of
from gpucnn.own_code import OwnCode, own_code
from gpucnn.recordable import attributes, changed_setting, is_recordable, last_change

Finish = Callable[[Batch], Batch]
Known = dict[Any, list[Stage]]  # the stages by what tells `finish` apart
Model = Any  # gpucnn.models.Model, whose module imports this one

# So many plans, and so much of their memory, a model keeps at most while nobody uses them: for batches of any number up
# to 64 whether somebody looks at the weights (`steady`) or not.
_KEPT, _KEPT_BYTES = 128, 256 << 20
_ONCE = range(1)


class Plans:
    """The plans of one model."""

    # Of all models: layers read the mode, and a backend records what any thread launches.
    _alone: ClassVar = threading.RLock()

    def __init__(self) -> None:
        self._begin()
        _every.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._forget()
        self._last_change: object = None
        self._settings: list[tuple[Any, dict[str, Any]]] = []
        self._code = OwnCode()
        self._seal: object | None = self  # of the last call; itself before the first

    def __deepcopy__(self, memo: dict) -> "Plans":
        return Plans()

    def __reduce__(self):
        return Plans, ()

    def _forget(self) -> None:
        self._free: OrderedDict[tuple, list[Plan]] = OrderedDict()
        self._stages: Known = {}
        self.kept = self._bytes = 0  # of the plans that wait for the next call

    # ---- predictions -------------------------------------------------------------------------------------------------

    def predict(self, model: Model, images, batch_size: int, finish: Finish) -> np.ndarray:
        """What `finish` makes of the outputs of `model`, (N, ...) on the host.

        check_images has passed the images but for their values.
        """
        if self._last_change is not last_change() or not self._code.is_same():
            self._look_for_changes(model)
        which, all_stages = _which(finish), self._stages
        stages = all_stages[which] if which in all_stages else self._find(model, finish, which)
        if len(stages) == 1 and stages[0].graph and which is not None:
            try:
                return self._planned(model, images, batch_size, stages[0], all_stages, (which, 0), images)
            except Unplannable:
                stages[0].graph = None
        if not stages[0].graph:
            images = check_images(images, model.image_shape, model.backend.dtype)
        if which is None:
            stages = [*stages, Stage(finish)]
        parts = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return np.concatenate([self._staged(model, part, stages, all_stages, which, images) for part in parts])

    def _staged(self, model: Model, part, stages: list[Stage], all_stages: Known, which, images) -> np.ndarray:
        """Stage by stage, the `part` of all `images` at once. Once a layer, or another thread, has changed a setting no
        plan knows the rest.
        """
        value = part  # an array on the host, or a Batch
        for number, stage in enumerate(stages):
            if number and self._last_change is not last_change():
                self._look_for_changes(model)
            if stage.graph and all_stages is self._stages:
                rows = model.backend.unpack(value) if isinstance(value, Batch) else value
                try:
                    shown = None if number else images
                    value = self._planned(model, rows, len(part), stage, all_stages, (which, number), shown)
                    continue
                except Unplannable:
                    stage.graph = None
            with self._alone, _inference(model):
                if not isinstance(value, Batch):
                    value = _batch(model.backend, value) if number else model.batch(value)
                value = stage.compute(value)
            if not isinstance(value, Batch):  # layers are held to it
                raise refuse("what finish returned", value, "a Batch, such as outputs.like(array)")
        return model.backend.unpack(value) if isinstance(value, Batch) else value

    def _planned(
        self, model: Model, rows, batch_size: int, stage: Stage, all_stages: Known, place: tuple, images
    ) -> np.ndarray:
        """What a stage makes of `rows` (N, C, *spatial): at the start of a network some of `images`, to be prepared;
        else `images` is None.
        """
        backend, count, graph = model.backend, len(rows), cast(Graph, stage.graph)
        most = min(batch_size, stage.most)
        outputs = np.empty((count, *graph.nodes[-1].shape), backend.dtype)
        seal = model._weights.seal() if backend.packs_weights else None
        steady = self._is_steady(seal) and graph.has_dense
        if count <= most:
            parts = [(count, _ONCE)]
        else:
            size = -(-count // -(-count // most))
            parts = [(size, range(0, count - size + 1, size)), (count % size, range(count - count % size, count, size))]
        for length, starts in parts:
            if not length:
                continue
            key = place, length, steady
            plan = self._take(key, all_stages) or self._make(model, graph, length, images is not None, steady)
            again = seal is not None and plan.seal is seal
            plan.seal = seal
            for start in starts:
                part, result = rows, outputs
                if length != count:
                    part, result = rows[start : start + length], outputs[start : start + length]
                if type(part) is not np.ndarray or part.dtype != backend.dtype:  # of images that are mapped
                    part = np.ascontiguousarray(part, backend.dtype)
                if not plan.run(part, result, again or start > starts[0]) and images is not None:
                    check_images(images, model.image_shape, backend.dtype)  # says which image
            self._give_back(key, plan, all_stages)
        return outputs

    def _look_for_changes(self, model: Model) -> None:
        """Forget everything if a setting of the model or one of its layers has changed, or the code of one. Those that
        no plan computes may change at each call.
        """
        with self._lock:
            latest, layers = last_change(), list(filter(is_recordable, model.layer.walk()))
            parts = [model, *layers]
            same = (
                self._code.is_same()
                and len(parts) == len(self._settings)
                and all(
                    part is known and changed_setting(part, before) is None
                    for part, (known, before) in zip(parts, self._settings, strict=True)
                )
            )
            if not same:
                self._forget()
                self._settings = [(part, attributes(part)) for part in parts]
                known = [kind for kind in {type(model), *map(type, layers)} if own_code([kind]).whole]
                self._code = own_code(known)
            self._last_change = latest

    def _find(self, model: Model, finish: Finish, which) -> list[Stage]:
        with self._alone, _inference(model):
            all_stages = self._stages
            all_stages[which] = stages_of(model, finish if which is not None else None)
        return all_stages[which]

    def _is_steady(self, seal: object | None) -> bool:
        """Whether nobody has looked at the weights since the last call, so that they are likely to stay as they are."""
        steady = seal is not None and (seal is self._seal or self._seal is self)
        self._seal = seal
        return steady

    # ---- the store ---------------------------------------------------------------------------------------------------

    def _take(self, key: tuple, all_stages: Known) -> Plan | None:
        with self._lock:
            plans = self._free.get(key)
            if not plans or all_stages is not self._stages:
                return None
            plan = plans.pop()
            self.kept -= 1
            self._bytes -= plan.bytes
            return plan

    def _make(self, model: Model, graph: Graph, count: int, first: bool, steady: bool) -> Plan:
        with self._alone:
            if first:
                return model.backend.plan(graph, count, model.preparation, model.image_shape, steady)
            return model.backend.plan(graph, count, NO_AUGMENTATION, graph.nodes[0].shape, steady)

    def _give_back(self, key: tuple, plan: Plan, all_stages: Known) -> None:
        """Keep a plan for the next call, unless settings have changed since; the longest unused are let go."""
        with self._lock:
            if all_stages is not self._stages:
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


_every: WeakSet[Plans] = WeakSet()


def _leave_parent() -> None:
    """In a child: the thread that held a lock is not there, and leaves what it was changing as it was then."""
    Plans._alone = threading.RLock()
    for plans in _every:
        if plans._lock.locked():
            plans._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parent)


def softmax(outputs: Batch) -> Batch:
    """How a classifier's outputs become probabilities."""
    return outputs.backend.softmax(outputs)


def values(outputs: Batch) -> Batch:
    """A regressor's outputs as they are."""
    return outputs


def _which(finish: Finish):
    """What tells `finish` apart from others; None for one that may do something else each time.

    Our losses' depend on what their targets are alone.
    """
    if finish is softmax or finish is values:
        return finish
    function = getattr(finish, "__func__", None)
    if function is None or function.__module__ != "gpucnn.losses":
        return None
    return function, finish.__self__.targets  # type: ignore[attr-defined]


@contextmanager
def _inference(model: Model) -> Iterator[None]:
    training, model.mode.training = model.mode.training, False
    try:
        yield
    finally:
        model.mode.training = training


def _batch(backend: Backend, rows: np.ndarray) -> Batch:
    """A batch of (N, C, *spatial). Lanes past the last image repeat it: a layer may make no number of zeros."""
    if len(rows) == 1:  # which takes less time than the call of a kernel
        data = np.empty((1, *rows.shape[1:], backend.lanes), rows.dtype)
        data[...] = rows[..., None]
        return Batch(data, 1, backend)
    batch = backend.pack(rows)
    if rest := len(rows) % backend.lanes:
        batch.data[-1, ..., rest:] = batch.data[-1, ..., rest - 1 : rest]
    return batch
