"""JSON that anybody may have written, checked once where it enters."""

import json
import math
from typing import Any

from gpucnn.arguments import shown
from gpucnn.errors import GpucnnError
from gpucnn.storage import decoding, first_line


def parse(text: str | bytes, shape, where, kind: type[GpucnnError]) -> Any:
    """The value that `text` holds, if it has this shape; raises `kind` with the place of what has not.

    A shape is a type (float: any finite number, int: below 2**64, object: anything), a tuple of alternatives with None
    among them, a list of one shape for lists, or a dictionary of them for objects: keys that end in "?" may be missing,
    and keys that are not named may hold anything.
    """
    with decoding(where, kind, "JSON text"):
        value = json.loads(text)
    check(value, shape, where, kind)
    return value


def check(value, shape, where, kind: type[GpucnnError]) -> None:
    """Raises `kind` unless the value has this shape; see `parse`."""
    try:
        wrong = _mismatch(value, shape, "")
    except RecursionError as error:
        wrong = first_line(error)
    if wrong:
        raise kind(f"{where} is damaged, or was not written by gpucnn: {wrong}")


def _mismatch(value, shape, place: str) -> str | None:
    """What does not have its shape, in words; None if all has."""
    if shape is object:
        return None
    if isinstance(shape, tuple):
        found = [_mismatch(value, one, place) for one in shape]
        return None if None in found else found[0]
    if isinstance(shape, list) and isinstance(value, list):
        inside = (_mismatch(entry, shape[0], f"{place}[{i}]") for i, entry in enumerate(value))
        return next(filter(None, inside), None)
    if isinstance(shape, dict) and isinstance(value, dict):
        for key, one in shape.items():
            name = key.removesuffix("?")
            if name not in value:
                if key == name:
                    return f"{f'{place}.{name}'.lstrip('.')} is missing"
            elif wrong := _mismatch(value[name], one, f"{place}.{name}"):
                return wrong
        return None
    if (value is None and shape is None) or (isinstance(shape, type) and _is(value, shape)):
        return None
    kinds = {
        dict: "an object",
        list: "a list",
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "a truth",
    }
    expected = kinds.get(shape if isinstance(shape, type) else type(shape), "true or false")
    return f"{place.lstrip('.') or 'all of it'} is {_short(value)} where {expected} belongs"


def _is(value, kind: type) -> bool:
    if isinstance(value, bool) or kind not in (int, float):
        return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if isinstance(value, int):
        return abs(value) < 1 << 64
    return kind is float and isinstance(value, float) and math.isfinite(value)


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def difference(there: dict, now: dict, words: str = "{} was {} there and is {} now", owner: str = "") -> str | None:
    """The first setting, in the order of `now`, in which two dictionaries of them differ, and its values, in words."""
    for key in sorted({**now, **there}, key=lambda key: key != "name"):  # another class explains all the rest
        old, new = there.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return difference(old, new, words, key)
        what = owner if key == "name" and owner else f"{owner}'s {key}" if owner else key
        values = (value if isinstance(value, str) else shown(value) for value in (old, new))
        return words.format(what, *values)
    return None
