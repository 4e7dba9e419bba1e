"""Whether what computes in a training step may be recorded and repeated.

A backend that records a step (numba as a list of kernel calls, cupy as a CUDA graph) repeats its own operations, and
nothing else: NumPy or CuPy code in a layer, a loss or an optimiser would not run again. So each class declares, by
`recordable = True`, that all it computes goes through backend operations, and that what changes from step to step lies
in device arrays.
"""

from typing import Any

# Methods that never run within a step: when a layer is built, before training starts, between two steps, at the end.
_OUTSIDE_A_STEP = frozenset(
    [
        "__new__",
        "__init__",
        "__init_subclass__",
        "__post_init__",
        "__repr__",
        "__str__",
        "__eq__",
        "__hash__",
        "__reduce__",
        "__reduce_ex__",
        "__getstate__",
        "__setstate__",
        "__copy__",
        "__deepcopy__",
        "build",
        "children",
        "parameters",
        "statistics",
        "walk",
        "need_input_gradient",
        "check_axes",
        "settings",
        "place",
        "measure",
        "set_rates",
        "rates",
        "state_dict",
    ]
)
# These change what other methods do, whether or not a base class defines them.
_FAR_REACHING = ("__getattribute__", "__getattr__", "__setattr__")

_PLAIN = (bool, int, float, str, bytes, type(None), tuple, list)

# Replaced whenever an attribute of a Recordable is set: a recording holds the numbers that it was made with.
_latest_change = [object()]


class Recordable:
    """Base of everything that computes in a training step: layers, losses, optimisers, clipping, models.

    `recordable` is a class's own declaration. A class that overrides a method which runs in a step does not inherit it:
    it says `recordable = True` anew, or its steps are launched one by one. The trainer proves what is declared, see
    gpucnn.training.recording.
    """

    recordable = False

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        _latest_change[0] = object()


def last_change() -> object:
    """Something else after every change of an attribute of any Recordable."""
    return _latest_change[0]


def is_recordable(part: Recordable) -> bool:
    """Whether the class of `part` declares itself recordable, and nothing it inherits from there on is overridden."""
    own = vars(part)
    if "recordable" in own:
        return own["recordable"] is True
    kind = type(part)
    if any(callable(getattr(kind, name, None)) for name in own):  # a method replaced in this one object
        return False
    for place, ancestor in enumerate(kind.__mro__):
        if "recordable" in vars(ancestor):
            return vars(ancestor)["recordable"] is True
        if any(_overrides(name, value, kind.__mro__[place + 1 :]) for name, value in vars(ancestor).items()):
            return False
    return False


def _overrides(name: str, value: Any, ancestors: tuple[type, ...]) -> bool:
    """Whether a class attribute changes what inherited code does within a step."""
    if name in _OUTSIDE_A_STEP or not (callable(value) or hasattr(value, "__get__")):
        return False
    return name in _FAR_REACHING or any(name in vars(ancestor) for ancestor in ancestors if ancestor is not object)


def changed_setting(part: Recordable, before: dict[str, Any]) -> str | None:
    """The first attribute of `part` that is no longer what vars(part) held `before`, as "Class.name"."""
    now = vars(part)
    for name in {**before, **now}:
        if name not in now or name not in before:
            return f"{type(part).__name__}.{name}"
        value, old = now[name], before[name]
        if value is not old and not (isinstance(value, _PLAIN) and type(value) is type(old) and value == old):
            return f"{type(part).__name__}.{name}"
    return None
