"""Argument checks, all in one place. Each returns a plain Python value or raises an error of one sentence: what arrived
and what was expected.

Integers and numbers may be Python's or NumPy's. Nothing is converted silently: booleans are not numbers, numbers and
strings are not booleans, strings are not numbers, and numbers that overflow float32, which devices use, are refused.
"""

import inspect
import numbers
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from os import PathLike
from types import MappingProxyType, MemberDescriptorType
from typing import Any, ClassVar

import numpy as np

from gpucnn.errors import CheckpointError, ConfigurationError, DataError, DTypeError, GpucnnError, ShapeError

_UNEVALUATED: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _UNEVALUATED["annotation_format"] = Format.STRING

_LARGEST_INTEGER = 2**31 - 1  # sizes are int32 in kernels
_LARGEST_NUMBER = float(np.finfo(np.float32).max)


def shown(value: Any) -> str:
    """`value` as error messages show it: on one line, shortened."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer with more digits than Python prints; objects whose repr fails
        return f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= 80 else f"{text[:77]}..."


def signature(function: Callable, **settings: Any) -> inspect.Signature:
    """`inspect.signature`, which since Python 3.14 evaluates annotations: some name what is there for type checkers
    alone.
    """
    return inspect.signature(function, **_UNEVALUATED, **settings)


class Checked:
    """Base of objects whose settings are checked whenever they are set."""

    # What checks a setting (name, value) and returns what is kept.
    _checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = MappingProxyType({})

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        own = [entries for kind in cls.__mro__ if "__slots__" in (entries := vars(kind))]
        slots = [name for entries in own for name, value in entries.items() if isinstance(value, MemberDescriptorType)]
        if slots:  # models, copies and checkpoints look into __dict__
            raise ConfigurationError(
                f"{cls.__name__} has a slot {slots[0]}, where no model, copy or checkpoint looks; leave out __slots__, "
                "or slots=True of a dataclass"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, self._checks[name](name, value) if name in self._checks else value)

    def __repr__(self) -> str:
        """The call that makes it, with the settings as they are now."""
        settings = {name: vars(self)[name] for name in signature(type(self)).parameters if name in vars(self)}
        return call(type(self).__name__, settings)


def call(name: str, arguments: dict[str, Any]) -> str:
    """How a call is written."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def refuse(name: str, value: Any, expected: str, error: type[GpucnnError] = ConfigurationError) -> GpucnnError:
    """The error to raise for a `value` that is not `expected`; the message includes its type."""
    if isinstance(value, (bool, np.bool_)):
        return error(f"{name} is {shown(value)}, a boolean; give {expected}")
    kind = "" if value is None else f" of type {type(value).__name__}"
    return error(f"{name} is {shown(value)}{kind}; give {expected}")


def refuse_attribute(owner: Any, name: str, instead: str) -> None:
    """Raises AttributeError for an attribute that `owner`, an object of a class of gpucnn, does not have: a mistyped
    setting must not pass in silence. A subclass of the user's may have any.
    """
    if name[0] != "_" and not hasattr(owner, name) and type(owner).__module__.startswith("gpucnn."):
        raise AttributeError(f"{type(owner).__name__} has no attribute {name!r}; {instead}")


def refuse_frozen(cls: type) -> None:
    """Raises ConfigurationError for a class of the user's whose attributes its model or trainer could not write."""
    if getattr(vars(cls).get("__dataclass_params__"), "frozen", False):
        raise ConfigurationError(
            f"{cls.__name__} is a frozen dataclass, which no model or trainer can write to; leave out frozen=True"
        )


# ---- single values ---------------------------------------------------------------------------------------------------


def integer(name: str, value: Any, least: int = 1, most: int = _LARGEST_INTEGER) -> int:
    """An integer from `least` to `most`."""
    if type(value) is int and least <= value <= most:
        return value
    expected = "a positive integer" if least == 1 else f"an integer of {least} or more"
    if most != _LARGEST_INTEGER:
        expected = f"an integer from {least} to {_power(most)}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise refuse(name, value, expected)
    plain = int(value)
    if not least <= plain <= most:
        limit = f", at most {_power(most)}" if plain > most == _LARGEST_INTEGER else ""
        raise ConfigurationError(f"{name} is {shown(plain)}; give {expected}{limit}")
    return plain


def seed(value: Any) -> int:
    """A seed: 64 bits."""
    return integer("seed", value, 0, 2**64 - 1)


def number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """A finite number within bounds, also in float32; `least` and `most` are inclusive, `above` and `below` are not."""
    expected = _range(least, above, most, below)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise refuse(name, value, expected)
    try:
        wide = float(value)
    except OverflowError:
        wide = float("inf")
    if not abs(wide) <= _LARGEST_NUMBER:
        raise ConfigurationError(f"{name} is {shown(value)}; give {expected}, within the range of float32")
    outside = (least is not None and wide < least) or (most is not None and wide > most)
    single = float(np.float32(wide))
    for bounded in (wide, single):
        if outside or (above is not None and bounded <= above) or (below is not None and bounded >= below):
            rounded = "" if bounded == wide else f", which is {single:g} in float32"
            raise ConfigurationError(f"{name} is {shown(value)}{rounded}; give {expected}")
    return wide


def truth(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise refuse(name, value, "True or False")
    return bool(value)


def one_of(name: str, value: Any, choices: Iterable[str], *, optional: bool = False, note: str = "") -> Any:
    """One of the strings in `choices`, or None if `optional`. `note`, which explains them, ends the error message."""
    if (value is None and optional) or (isinstance(value, str) and value in choices):
        return value
    raise ConfigurationError(f"{name} is {shown(value)}; use one of {', '.join(choices)}{', or None' * optional}{note}")


def instance(name: str, value: Any, kinds: type | tuple[type, ...], example: str, *, optional: bool = False) -> Any:
    """An instance of one of `kinds`, or None if `optional`. `example` describes a valid value."""
    if (value is None and optional) or isinstance(value, kinds):
        return value
    raise refuse(name, value, f"{example}{', or None' * optional}")


def text(name: str, value: Any) -> str:
    """A string."""
    return instance(name, value, str, "text")


def path(name: str, value: Any) -> Any:
    """The path of a file or folder."""
    return instance(name, value, (str, PathLike), "a path")


# ---- several values --------------------------------------------------------------------------------------------------


def sequence(name: str, value: Any, expected: str, error: type[GpucnnError] = ConfigurationError) -> list:
    """The entries of a list, tuple, array or other iterable, but not of a string, dictionary or set, nor of a table's
    column whose rows are in another order than their numbers say, as pandas' value_counts gives them.
    """
    if not _is_iterable(value):
        raise refuse(name, value, expected, error)
    entries, index = list(value), getattr(value, "index", None)
    if isinstance(index, Iterable) and (order := list(index)) != list(range(len(entries))):
        raise error(
            f"{name} is a {type(value).__name__} with the index {shown(order)}, which is not heeded; give a list, "
            "in the order of the numbers from 0"
        )
    return entries


def each_axis(name: str, value: Any, axes: int | None = None, least: int = 1) -> int | tuple[int, ...]:
    """One integer for all spatial axes, or a tuple of one per axis, as passed; `axes` None allows any number."""
    if not _is_iterable(value):
        return integer(name, value, least)
    values = tuple(integer(name, entry, least) for entry in value)
    if axes is not None and len(values) != axes:
        raise ShapeError(
            f"{name} {values} has {len(values)} entries for {axes} spatial axes; give one integer or one per axis"
        )
    return values


def per_axis(name: str, value: Any, axes: int, least: int = 1) -> tuple[int, ...]:
    """One integer per axis, from one integer for all axes or a sequence."""
    values = each_axis(name, value, axes, least)
    return values if isinstance(values, tuple) else (values,) * axes


def each_channel(name: str, value: Any, channels: int, above: float | None = None) -> tuple[float, ...]:
    """A finite number, above `above`, for each of so many channels."""
    values = sequence(name, value, f"a number for each channel, {channels} in all")
    if len(values) != channels:
        raise ShapeError(f"{name} has {len(values)} numbers; give one for each channel, {channels} in all")
    return tuple(number(f"each number of {name}", entry, above=above) for entry in values)


def unique(name: str, values: list, error: type[GpucnnError] = ConfigurationError) -> list:
    """The names of classes, if they can be seen and told apart."""
    for value, count in Counter(map(str, values)).items():
        if count > 1 or not value.strip():
            wrong = "more than once" if count > 1 else "which shows nothing"
            raise error(f"{name} hold {shown(value)}, {wrong}; give each class a name of its own")
    return values


def names(name: str, value: Any, count: int) -> list[str]:
    """So many texts, each another."""
    values = sequence(name, value, f"a text for each class, {count} in all")
    if len(values) != count:
        raise ConfigurationError(f"{name} has {len(values)} entries; give a text for each class, {count} in all")
    return unique(name, [str(text(f"each of {name}", entry)) for entry in values])


def padding(value: Any, axes: int | None = None, words: tuple[str, ...] = ()) -> Any:
    """A padding as passed: one of `words`, one integer, or per axis an integer or a (before, after) pair."""
    forms = "an integer, one per axis, or (before, after) per axis"
    if isinstance(value, str):
        if value in words:
            return value
        quoted = "".join(f'"{word}", ' for word in words)
        raise ConfigurationError(f"padding is {shown(value)}; give {quoted}{forms}")
    if not _is_iterable(value):
        return integer("padding", value, 0)
    sides = tuple(_side(side) for side in value)
    if axes is not None and len(sides) != axes:
        raise ShapeError(
            f"padding {shown(value)} has {len(sides)} entries for {axes} spatial axes; give one integer or one "
            "(before, after) pair per axis"
        )
    return sides


def image_shape(name: str, value: Any) -> tuple[int, ...]:
    """The shape of one image, (C, *spatial), or of flat values, (C,)."""
    sizes = sequence(name, value, "the shape of one image, such as (3, 32, 32)")
    if not sizes:
        raise ShapeError(f"{name} is (); give the shape of one image, such as (3, 32, 32)")
    return tuple(integer(f"each size of {name}", size) for size in sizes)


def array(name: str, value: Any) -> np.ndarray:
    """`value` as a NumPy array: an array, nested lists, anything with __dlpack__ or __array__.

    Raises DTypeError for anything else, DataError for a masked array of which anything is masked.
    """
    if np.ma.is_masked(value):
        raise DataError(f"{name} is a masked array, whose mask is not heeded; leave those entries out or fill them")
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    try:
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            on_cpu = value.__dlpack_device__()[0] == 1  # kDLCPU of dlpack.h
            return np.from_dlpack(value) if on_cpu else np.from_dlpack(value, device="cpu")
        return np.asarray(value)
    except Exception as error:  # foreign arrays raise anything from BufferError to RuntimeError
        reason = " ".join(str(error).split())
        instead = "give a NumPy array, or a detached tensor with __dlpack__ or __array__"
        if "inhomogeneous" in reason and isinstance(value, (list, tuple)):  # NumPy's word
            instead = "bring its entries to one shape, such as with numpy.pad"
            if all(isinstance(entry, tuple) for entry in value):
                instead = "take its tuples apart, as images, labels = zip(*pairs) does"
        raise DTypeError(
            f"{name} is a {type(value).__name__} that cannot be read as an array ({reason}); {instead}"
        ) from error


def weights(name: str, value: Any) -> np.ndarray:
    """The array of a weight, from what `array` takes and from a tensor that tracks its gradient: finite numbers, also
    in float32. Raises CheckpointError for others.
    """
    given = array(name, value.detach() if hasattr(value, "detach") else value)
    if given.dtype.kind not in "fiu":
        raise CheckpointError(f"{name} is {given.dtype}; weights are numbers")
    with np.errstate(over="ignore"):
        finite = np.isfinite(given.astype(np.float32, copy=False)).all()
    if not finite:
        raise CheckpointError(f"{name} holds a NaN or a number beyond float32; weights are finite in it")
    return given


# ---- wording ---------------------------------------------------------------------------------------------------------


def converted(name: str, given: Any, dtype: Any) -> str:
    """The expression that converts what was given to `dtype`: tensors and lists have no astype, and a conversion of
    complex numbers would drop half of each.
    """
    kind = f"numpy.{np.dtype(dtype)}"
    if np.iscomplexobj(given):
        return f"numpy.asarray(numpy.abs({name}), {kind}), or real and imaginary parts as channels of their own"
    return f"{name}.astype({kind})" if hasattr(given, "astype") else f"numpy.asarray({name}, {kind})"


def numbered(name: str, given: Any, dtype: Any) -> str:
    """The expression that makes class numbers of labels of this type: of names, dates and other objects each that
    occurs gets a number, since a conversion fails or, of "007" or a date, gives numbers of another kind.
    """
    if np.dtype(dtype).kind in "biuf":
        return converted(name, given, np.int64)
    return f"those of classes, numbers = numpy.unique({name}, return_inverse=True)"


def a_kind(value: Any) -> str:
    """What a user's code returned, by its type: "an ndarray", "nothing"."""
    kind = type(value).__name__
    return "nothing" if value is None else f"{'an' if kind.startswith((*'aeiou', 'nd')) else 'a'} {kind}"


def _is_iterable(value: Any) -> bool:
    single = isinstance(value, (str, bytes, Mapping, Set)) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return isinstance(value, Iterable) and not single


def _side(side: Any) -> int | tuple[int, int]:
    if not _is_iterable(side):
        return integer("padding", side, 0)
    pair = tuple(integer("padding", entry, 0) for entry in side)
    if len(pair) != 2:
        raise ShapeError(f"padding {shown(side)} of one axis has {len(pair)} entries; give (before, after)")
    return pair


def _power(value: int) -> str:
    bits = value.bit_length()
    return f"2**{bits} - 1" if bits > 30 and value == 2**bits - 1 else str(value)


def _range(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    if above is not None:
        start = f"above {above:g}"
        return f"a number {start}" + (f" and below {below:g}" if below is not None else "")
    if least is None:
        return "a finite number"
    if below is not None:
        return f"a number from {least:g} up to, not including, {below:g}"
    return f"a number of {least:g} or more" if most is None else f"a number from {least:g} to {most:g}"
