"""A network as a list of operations, found out by trace.py."""

import functools
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Node:
    """`operation` of the values of `inputs`, with its settings as gpucnn.inference.recorded computes it; `shape` is
    (C, *spatial).

    Arrays among the settings are the model's own, so that they hold its weights at any time.
    """

    operation: str
    inputs: tuple["Node", ...]
    shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Graph:
    """Operations in the order of their computation, the first being "input"; the last one's value is the result."""

    nodes: list[Node]

    @functools.cached_property
    def largest(self) -> int:
        """How many values the largest map of an image has."""
        return max(math.prod(node.shape) for node in self.nodes)

    @functools.cached_property
    def has_dense(self) -> bool:
        return any(node.operation == "dense" for node in self.nodes)
