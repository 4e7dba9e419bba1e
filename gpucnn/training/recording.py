"""Recording a step and repeating it, with a proof that the repetition computes what the step would.

Exact bits allow the proof: the first repetition is compared with the same step run directly from the same state. It
costs one step per recording.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from gpucnn.backends.protocol import Array, Backend
from gpucnn.errors import ConfigurationError
from gpucnn.layers.base import Layer, Parameter, Statistic
from gpucnn.layers.own import runs_live as own_layer
from gpucnn.layers.shared import Shared
from gpucnn.models.model import Model
from gpucnn.own_code import own_code
from gpucnn.recordable import Recordable, attributes, changed_setting, is_ours, is_recordable, last_change, runs_live

# After so many changes of settings during training, steps are no longer recorded.
_MOST_CHANGES = 3
# An epoch has two counts of images. Further ones are recorded while all recordings have less memory than this, about.
_MOST_BYTES = 1 << 30


class RecordedStep:
    """The base of a step that is recorded once for each count of images, of the first counts, and repeated after that.

    A subclass defines `model`, `_work(count)`, the step, and `_parts()`, everything that computes in it; `arrays` are
    further device arrays that a step writes. If one of the parts is not recordable, a repetition differs from the step,
    or `record` is off, every step is run directly. Parts of the user's own may run anew in each repetition, on a
    backend that splits recordings.
    """

    model: Model

    def __init__(self, backend: Backend, arrays: list[Array], record: bool = True):
        self._backend, self._arrays = backend, arrays
        self._recordings: dict[int, Callable[[], None]] = {}
        self._proved: set[int] = set()
        self._seen_counts: set[int] = set()
        self._changes = 0
        self._recording = record and backend.graph and self.obstacle() is None
        self._arrivals = backend.arrivals()
        self._remember()

    def _work(self, count: int) -> None:
        raise NotImplementedError

    def _parts(self) -> list[Recordable]:
        raise NotImplementedError

    def _repeated(self) -> list[Recordable]:
        """The parts but for those that run anew in each repetition; of layers with all below them.

        Not beside a part that is only declared recordable: that takes a proof, which runs a step twice, and who knows
        what a layer does then. And not if one of them may be in other places, too.
        """
        parts = self._parts()
        own = [part for part in parts if (own_layer if isinstance(part, Layer) else runs_live)(part)]
        within = [part.walk() if isinstance(part, Layer) else [part] for part in own]
        live = {id(below): below for found in within for below in found}
        repeated = [part for part in parts if id(part) not in live]
        apart = self._backend.splits and not any(isinstance(part, Shared) for part in live.values())
        return repeated if apart and all(map(is_ours, repeated)) else parts

    def obstacle(self) -> Recordable | None:
        """The first part that is not recordable."""
        return next((part for part in self._repeated() if not is_recordable(part)), None)

    def _is_ours(self) -> bool:
        """Whether no user-defined code takes part, which might keep what it finds in a step that is only prepared."""
        parts = self._parts()
        return all(map(is_ours, parts)) and len(self._repeated()) == len(parts)

    def settled(self, count: int) -> bool:
        """Whether the next step on so many images only computes: no recording, no proof, no compilation."""
        self._notice_arrivals()
        return count in (self._proved if self._records(count) else self._seen_counts)

    def recording(self, count: int) -> Callable[[], None] | None:
        """What repeats a step on so many images, once it is recorded."""
        return self._recordings.get(count)

    def step(self, count: int) -> None:
        """One step on so many images: recorded, compared, repeated or run directly."""
        _held = self.model.values  # while somebody has them, nobody relies on the weights as they were
        self._seen_counts.add(count)
        self._notice_arrivals()
        if self._recording and (self._last_change is not last_change() or not self._code.is_same()):
            self._notice_changes()
        if not self._records(count):
            self._work(count)
        elif count in self._proved:
            self._recordings[count]()
            if self._last_change is not last_change() and (changed := self._changed()):
                raise ConfigurationError(
                    f"{changed} was changed within a step, by code of your own perhaps, and that step was recorded "
                    "with the value before; change it in a callback, or set backend.graph = False"
                )
        elif count in self._recordings:
            self._prove(count)
        else:
            ours = self._is_ours()
            if ours:
                self._backend.prepare(lambda: self._work(count))
            with self.model._weights.trusting() if ours else nullcontext():
                self._recordings[count] = self._backend.capture_step(lambda: self._work(count))
            if len(self._repeated()) < len(self._parts()):
                self._proved.add(count)
                if changed := self._changed():
                    self._stop(f"{changed} changes within a step")
            self._remember()

    def _records(self, count: int) -> bool:
        """Whether a step on so many images is recorded, or was."""
        if not self._recording or count in self._recordings or len(self._recordings) < 2:
            return self._recording
        values = sum(math.prod(layer.output_shape) for layer in self.model.layer.walk() if not layer.chain)
        return 8 * values * (sum(self._recordings) + count) <= _MOST_BYTES  # each with its gradient

    # ---- settings: a recording keeps the numbers it was made with ---------------------------------------------------

    def _remember(self) -> None:
        self._settings = [(part, attributes(part)) for part in self._repeated()] if self._recording else []
        self._anew = [part for part in self._parts() if not isinstance(part, Layer) and runs_live(part)]
        self._code = own_code(map(type, self._repeated()))
        self._last_change = last_change()

    def _changed(self) -> str | None:
        """The first setting that is not as it was."""
        changed = next(filter(None, (changed_setting(part, before) for part, before in self._settings)), None)
        return "which layers are frozen" if changed == "Model._unused" else changed

    def _notice_arrivals(self) -> None:
        """Drop recordings if faster kernels have arrived since."""
        arrivals = self._backend.arrivals()
        if arrivals != self._arrivals:
            self._arrivals = arrivals
            self._recordings.clear()
            self._proved.clear()

    def _notice_changes(self) -> None:
        """Drop recordings made with settings or code that have changed since, by a callback or a notebook perhaps."""
        self._last_change = last_change()
        changed = self._changed()
        if changed is None and not self._code.is_same():
            changed = f"code of {self._suspects()}"
        part = next((part for part in self._anew if not runs_live(part)), None)  # a method was replaced in it
        if changed is None and part is not None:
            changed = f"code of {type(part).__name__}"
        if changed is None:
            return
        self._changes += bool(self._recordings)
        self._recordings.clear()
        self._proved.clear()
        self._recording = self.obstacle() is None
        if self._changes > _MOST_CHANGES:
            self._stop(f"{changed} keeps changing while training runs")
        self._remember()

    # ---- the proof ---------------------------------------------------------------------------------------------------

    def _prove(self, count: int) -> None:
        """Repeat the step, then run it directly from the same state; the state of the direct run stays."""
        before = dict(self._state())
        saved = {place: self._copy(array) for place, array in before.items()}
        self._recordings[count]()
        repeated = {place: self._copy(array) for place, array in before.items()}
        for place, array in before.items():
            self._restore(array, saved[place])
        self._work(count)
        after = dict(self._state())
        replaced = next((place for place in after if after[place] is not before.get(place)), None)
        if replaced is not None:
            self._stop(f"{replaced} is an array that each step allocates again")
        elif not all(_same_bits(self._copy(array), repeated[place]) for place, array in after.items()):
            self._stop(
                f"{self._suspects()} computes outside the backend's operations, which a recording does not repeat"
            )
        else:
            self._proved.add(count)
            self._remember()

    def _copy(self, array: Array) -> np.ndarray:
        return self._backend.host(array) if isinstance(array, self._backend.xp.ndarray) else array.copy()

    def _restore(self, array: Array, values: np.ndarray) -> None:
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            return  # a constant of a layer's, which no step has changed
        if isinstance(array, self._backend.xp.ndarray):
            self._backend.assign(array, values)
        else:
            array[...] = values

    def _state(self) -> Iterator[tuple[str, Array]]:
        """Every array that a step may write, by where it is kept."""
        yield from ((f"array {i}", array) for i, array in enumerate(self._arrays))
        parts = self._parts()
        # Plans belong to whoever predicts meanwhile, and the weights' arrays are parts of the flat ones.
        seen = set(map(id, (*parts, self.model._plans, self.model._weights._arrays)))
        for number, part in enumerate(parts):
            for place, array in _arrays_in(type(part).__name__, vars(part), self._backend, seen):
                yield f"{place} (part {number})", array

    def _suspects(self) -> str:
        """User-defined classes in the step; without any, the whole step."""
        own = {type(p).__name__ for p in self._parts() if not is_ours(p)}
        return " or ".join(sorted(own)) or "the step"

    def _stop(self, reason: str) -> None:
        self._recording = False
        self._recordings.clear()
        print(f"gpucnn: {reason}, so steps are launched one by one from now on; the weights are right", file=sys.stderr)


def _arrays_in(place: str, value: Any, backend: Backend, seen: set[int]) -> Iterator[tuple[str, Array]]:
    """(place, array) of the arrays that `value` holds, also in containers and user-defined objects."""
    if id(value) in seen or isinstance(
        value, (Parameter, Statistic, Backend)
    ):  # these are views of the model's buffers
        return
    seen.add(id(value))
    if isinstance(value, (backend.xp.ndarray, np.ndarray)):
        yield place, value
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _arrays_in(f"{place}.{name}", entry, backend, seen)
    elif isinstance(value, (list, tuple)):
        for i, entry in enumerate(value):
            yield from _arrays_in(f"{place}[{i}]", entry, backend, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, FunctionType, MethodType, ModuleType)):
        yield from _arrays_in(place, vars(value), backend, seen)


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
