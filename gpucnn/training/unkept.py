"""What the user's own code keeps from step to step and no checkpoint has: a resumed run would go on without it."""

import hashlib
import inspect
import random
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import numpy as np

from gpucnn.layers.own import label
from gpucnn.recordable import is_ours
from gpucnn.training.settings import CHANGEABLE, PLAIN

# Of the class in trainer.py, which imports this module.
Trainer = Any
Memory = dict[tuple[str, str], Any]

_OURS = ("_hypers", "_pieces", "_powers", "_rated", "_size", "backend", "hyper", "state")  # an Optimizer's
_ADVICE = {
    "optimizer": "name its arrays in `states`, and set its numbers in __init__, under names without a leading _",
    "schedule": "set its numbers in __init__, under names without a leading _",
    "loss": "set its numbers in __init__, under names without a leading _",
    "augment": "take random numbers from the generator that it gets",
}
_OF_LAYERS = "keep its arrays as gpucnn.layers.Statistic"
_LARGE = 1 << 24  # bytes of data, rather than of a state


def memory(trainer: Trainer, settings: dict) -> Memory:
    """By part and name: what tells apart the values that optimizer, schedule, loss, augmentation and layers of the
    user's keep beside the settings.
    """
    found = _of_layers(trainer)
    for part in _ADVICE:
        own = getattr(trainer, part)
        if own is None or is_ours(own):
            continue
        known = settings[part] if part in CHANGEABLE else ()
        for name, value in getattr(own, "__dict__", {}).items():
            kept = name in known and isinstance(value, (*PLAIN, type(None)))
            if not kept and not (part == "optimizer" and name in _OURS):
                found[part, f"{type(own).__name__}.{name}"] = _fingerprint(value, trainer.backend)
        for name, value in _read_by(own):
            found[part, name] = _fingerprint(value, trainer.backend)
    return {key: value for key, value in found.items() if value is not None}


def remark(before: Memory, now: Memory) -> str | None:
    """A sentence where the memory has changed."""
    for (part, name), value in now.items():
        cached = part == "layer" and (part, name) not in before  # for the backward pass
        if before.get((part, name)) != value and not cached:
            return (
                f"{name} changes while training runs, and no checkpoint has it: a resumed run would begin it anew and "
                f"end in other weights; {_ADVICE.get(part, _OF_LAYERS)}"
            )
    return None


def _of_layers(trainer: Trainer) -> Memory:
    """Arrays that layers of the user's have, and that are not the model's."""
    backend, values = trainer.backend, trainer.model.values
    return {
        ("layer", f"{label(layer)}.{name}"): _fingerprint(value, backend)
        for layer in trainer.model.layer.walk()
        if not is_ours(layer)
        for name, value in vars(layer).items()
        if isinstance(value, (np.ndarray, backend.xp.ndarray))
        and not (isinstance(value, type(values)) and backend.xp.may_share_memory(value, values))
    }


def _read_by(own: Any) -> Iterator[tuple[str, Any]]:
    """What the function reads from around it, by name."""
    function = own if isinstance(own, FunctionType) else getattr(type(own), "update", type(own).__call__)
    if isinstance(function, FunctionType):
        around = inspect.getclosurevars(function)
        yield from {**around.globals, **around.nonlocals}.items()
        if "random" in function.__code__.co_names and any(value is np for value in around.globals.values()):
            yield "numpy.random", np.random


def _fingerprint(value: Any, backend: Any) -> Any:
    """Equal for equal values; None for objects of which nothing is known."""
    if isinstance(value, (*PLAIN, np.generic)):
        return repr(value)
    if isinstance(value, (np.ndarray, backend.xp.ndarray)):
        if value.nbytes > _LARGE:
            return None
        host = value if isinstance(value, np.ndarray) else backend.host(value)
        return str(host.dtype), host.shape, hashlib.sha256(host.tobytes()).digest()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState) or value is np.random:
        return repr(value.get_state())
    if isinstance(value, random.Random) or value is random:
        return hash(value.getstate())
    if isinstance(value, dict):
        value = [*value.items()]
    return [_fingerprint(entry, backend) for entry in value] if isinstance(value, (list, tuple)) else None
