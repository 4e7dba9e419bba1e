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
        "connect",
        "children",
        "parameters",
        "statistics",
        "walk",
        "leaves",
        "need_input_gradient",
        "multiply_adds",
        "dense_weights",
        "receptive_field",
        "onnx",
        "pytorch",
        "sliding",
        "filter_weights",
        "check_axes",
        "settings",
        "learn",
        "place",
        "measure",
        "set_rates",
        "rates",
        "state_dict",
    ]
)
# These change what other methods do, whether or not a base class defines them.
_FAR_REACHING = ("__getattribute__", "__getattr__", "__setattr__")

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
    return declaration(part, "recordable") is True


def declaration(part: Recordable, name: str) -> Any:
    """What `part` declares as its attribute `name`: a promise about what it computes.

    None where the class, or this one object, overrides something that runs in a step below the class that declares it:
    the promise was made about other code.
    """
    own = vars(part)
    if name in own:
        return own[name]
    kind = type(part)
    if any(callable(getattr(kind, other, None)) for other in own):  # a method replaced in this one object
        return None
    for place, ancestor in enumerate(kind.__mro__):
        if name in vars(ancestor):
            return getattr(part, name)
        if any(_overrides(other, value, kind.__mro__[place + 1 :]) for other, value in vars(ancestor).items()):
            return None
    return None


def _overrides(name: str, value: Any, ancestors: tuple[type, ...]) -> bool:
    """Whether a class attribute changes what inherited code does within a step."""
    if name in _OUTSIDE_A_STEP or not (callable(value) or hasattr(value, "__get__")):
        return False
    return name in _FAR_REACHING or any(name in vars(ancestor) for ancestor in ancestors if ancestor is not object)
