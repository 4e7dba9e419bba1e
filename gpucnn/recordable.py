"""Which classes a recorded training step may use.

A backend that records a step (numba as a list of kernel calls, cupy as a CUDA graph) repeats its own operations and
nothing else: NumPy or CuPy code in a layer, a loss or an optimizer would not run again. So each class declares, by
`recordable = True`, that it computes only with backend operations, and keeps what changes from step to step in device
arrays.
"""

from typing import Any

from gpucnn.arguments import Checked
from gpucnn.errors import ConfigurationError

# Methods that never run within a step, only when a layer is built, before training, between two steps, or at the end.
OUTSIDE_A_STEP = frozenset(
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
        "__replace__",  # of dataclasses
        "__annotate__",  # both of Python 3.14: they make the annotations
        "__annotate_func__",
        "build",
        "connect",
        "children",
        "parameters",
        "statistics",
        "walk",
        "leaves",
        "trainable",
        "learns",
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
        "truth",
        "learned",
        "set_rates",
        "divide",
        "rates",
        "rates_at",
        "state_dict",
    ]
)
# These change what other methods do, whether or not a base class defines them.
_FAR_REACHING = ("__getattribute__", "__getattr__", "__setattr__")

_PLAIN = (bool, int, float, str, bytes, type(None), tuple, list)

# Replaced whenever an attribute of a Recordable is set: a recording holds the numbers that it was made with.
_latest_change = [object()]


class Recordable(Checked):
    """Base of everything that computes in a training step: layers, losses, optimizers, clipping, models.

    `recordable` is a class's own declaration. A class that overrides a method which runs in a step does not inherit it:
    it declares `recordable = True` again, or its steps are not recorded. The trainer verifies the declaration, see
    gpucnn.training.recording.
    """

    recordable = False
    # Settings that nothing reads within a step: a recording stays right when they change.
    between_steps: tuple[str, ...] = ()
    # Settings that stay as the object was made with.
    _fixed: tuple[str, ...] = ()
    # The methods that a recording calls anew in each repetition where they are the user's, on a backend that splits
    # recordings.
    live: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and name in vars(self):
            kind = type(self).__name__
            raise ConfigurationError(f"{name} of a {kind} cannot be changed; make another {kind}")
        super().__setattr__(name, value)
        notice_change()


def notice_change() -> None:
    """Something that a recording or plan may have been made with has changed."""
    _latest_change[0] = object()


def last_change() -> object:
    """An object that is replaced whenever an attribute of any Recordable is set."""
    return _latest_change[0]


def is_ours(part: Any) -> bool:
    """Whether no user has written its class."""
    return type(part).__module__.startswith("gpucnn.")


def is_recordable(part: Recordable) -> bool:
    """Whether `part` is declared recordable and no subclass overrides what runs in a step."""
    return declaration(part, "recordable") is True


def runs_live(part: Recordable) -> bool:
    """Whether a recording can call anew all that runs in a step of a part that is not recordable."""
    ours = [kind for kind in type(part).__mro__ if kind.__module__.startswith("gpucnn.")]
    own = [kind for kind in type(part).__mro__[:-1] if kind not in ours]  # in any order, where there are several bases
    entries = [entry for place in (part, *own) for entry in vars(place).items()]
    overridden = {name for name, value in entries if _overrides(name, value, tuple(ours))}
    return bool(part.live) and not is_recordable(part) and overridden <= set(part.live)


def declaration(part: Recordable, name: str) -> Any:
    """The attribute `name` of `part`, which declares something about what it computes.

    None if a subclass of the class that declares it, or the object itself, overrides something that runs in a step:
    the declaration was about other code.
    """
    own = vars(part)
    if name in own:
        return own[name]
    kind = type(part)
    if any(callable(getattr(kind, other, None)) for other in own):  # a method replaced in this object
        return None
    for place, ancestor in enumerate(kind.__mro__):
        if name in vars(ancestor):
            return getattr(part, name)
        if any(_overrides(other, value, kind.__mro__[place + 1 :]) for other, value in vars(ancestor).items()):
            return None
    return None


def _overrides(name: str, value: Any, ancestors: tuple[type, ...]) -> bool:
    """Whether a class attribute changes what inherited code does within a step."""
    if name in OUTSIDE_A_STEP or not (callable(value) or hasattr(value, "__get__")):
        return False
    return name in _FAR_REACHING or any(name in vars(ancestor) for ancestor in ancestors if ancestor is not object)


def attributes(part: Any) -> dict[str, Any]:
    """A copy of vars(part); of an object without one, its slots that are set."""
    if hasattr(part, "__dict__"):
        return dict(vars(part))
    slots = (slot for kind in type(part).__mro__ for slot in getattr(kind, "__slots__", ()))
    return {slot: getattr(part, slot) for slot in slots if hasattr(part, slot)}


def changed_setting(part: Any, before: dict[str, Any]) -> str | None:
    """The first attribute of `part` that is no longer what attributes(part) held `before`, as "Class.name"."""
    now = attributes(part)
    for name in {**before, **now}:
        if name not in now or name not in before:
            return f"{type(part).__name__}.{name}"
        if name in getattr(part, "between_steps", ()) and declaration(part, "between_steps"):
            continue
        value, old = now[name], before[name]
        if value is not old and not (isinstance(value, _PLAIN) and type(value) is type(old) and value == old):
            return f"{type(part).__name__}.{name}"
    return None
