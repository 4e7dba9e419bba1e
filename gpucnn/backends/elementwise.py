"""The operations that compute each output from one input of the same position, declared once for all backends."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Elementwise:
    """One of them. `saved`: whether its gradient is computed from its input "x" or its output "y". `settings`: the
    names of its further arguments, which the gradient takes too.
    """

    name: str
    saved: str
    settings: tuple[str, ...] = ()


ELEMENTWISE = {
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
