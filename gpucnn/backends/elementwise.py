"""The elementwise operations with a gradient, each declared once for every backend."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Elementwise:
    """`name`; whether its gradient needs the input ("x") or the output ("y"); the names of its settings."""

    name: str
    saved: str
    settings: tuple[str, ...] = ()


ELEMENTWISE: dict[str, Elementwise] = {
    operation.name: operation
    for operation in (
        Elementwise("relu", "y"),
        Elementwise("tanh", "y"),
        Elementwise("sigmoid", "y"),
        Elementwise("leaky_relu", "x", ("slope",)),
        Elementwise("gelu", "x"),
        Elementwise("silu", "x"),
    )
}
