"""What a request may ask for: values of its JSON object, each checked against the type and range that a panel takes.

BadRequest is for what the page never sends; settings that do not fit together are the engine's to refuse.
"""

import base64
import binascii
import json
import math
from typing import Any

import numpy as np

MOST_BYTES = 32 << 20  # of a request's body: a phone's photo has up to 15 MB


class BadRequest(Exception):
    """A request that the page never makes; its message is the answer, with status 400."""


class Body:
    """The JSON object of a request. Raises BadRequest for anything else, NaN and infinities among it."""

    def __init__(self, content: bytes):
        try:
            values = json.loads(content or b"{}", parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {type(error).__name__}") from None
        if not isinstance(values, dict):
            raise BadRequest("the body is not a JSON object")
        self._values = values

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        return _integer(name, self._get(name, default), low, high)

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """The same, or None where it is null or missing."""
        value = self._values.get(name)
        return None if value is None else _integer(name, value, low, high)

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from `low` to `high`."""
        return _number(name, self._get(name, default), low, high)

    def truth(self, name: str) -> bool:
        """True or False, False where it is missing."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise BadRequest(f"{name} must be true or false")
        return value

    def choice(self, name: str, choices, default: str | None = None) -> str:
        """One of the strings `choices`."""
        value = self._get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise BadRequest(f"{name} must be one of {', '.join(choices)}")
        return value

    def objects(self, name: str, most: int) -> list["Body"]:
        """A list of up to `most` JSON objects."""
        value = self._values.get(name)
        if not isinstance(value, list) or len(value) > most or not all(isinstance(item, dict) for item in value):
            raise BadRequest(f"{name} must be a list of at most {most} objects")
        return [self._part(item) for item in value]

    def array(self, name: str, axes: int, most: int, limit: float = 1e6) -> np.ndarray:
        """A nested list of numbers with `axes` axes, none longer than `most`, as float32."""

        def check(value: Any, depth: int) -> Any:
            if depth == axes:
                return _number(name, value, -limit, limit)
            if not isinstance(value, list) or not 1 <= len(value) <= most:
                raise BadRequest(f"{name} must have {axes} axes of 1 to {most} entries")
            return [check(item, depth + 1) for item in value]

        try:
            return np.array(check(self._values.get(name), 0), np.float32)
        except ValueError:
            raise BadRequest(f"{name} has rows of different lengths") from None

    def picture(self, name: str, most: int) -> np.ndarray:
        """Grey values (h, w) uint8 from {"height", "width", "bytes" in base64}, neither side longer than `most`."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise BadRequest(f"{name} must be an object")
        part = self._part(value)
        height, width = (part.integer(side, 8, most) for side in ("height", "width"))
        content = value.get("bytes")
        try:
            pixels = base64.b64decode(content, validate=True) if isinstance(content, str) else b""
        except (binascii.Error, ValueError):
            raise BadRequest(f"{name} is not base64") from None
        if len(pixels) != height * width:
            raise BadRequest(f"{name} must hold {height} x {width} bytes")
        return np.frombuffer(pixels, np.uint8).reshape(height, width)

    def names(self) -> set[str]:
        """The names that it has."""
        return set(self._values)

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name, default)
        if value is None:
            raise BadRequest(f"{name} is missing")
        return value

    @staticmethod
    def _part(values: dict) -> "Body":
        part = object.__new__(Body)
        part._values = values
        return part


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}")
    return value


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise BadRequest(f"{name} must be a number from {low:g} to {high:g}")
    if not math.isfinite(value):
        raise BadRequest(f"{name} must be finite")
    return float(value)
