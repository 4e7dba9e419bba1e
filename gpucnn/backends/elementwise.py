"""The activations that take one value and give one value, each declared once for all backends and layers.

Its expressions stand in kernels/numba/elementwise.py, kernels/numba_cuda/elementwise.py, kernels/cuda/elementwise.cu
and gpucnn/backends/numpy; what they compute to the bit in kernels/CONTRACT.md, rules 6 and 7.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Elementwise:
    """`saved` is what the gradient starts from: the input "x" or the output "y". `settings` names the numbers that
    value and gradient take besides, each rounded to the backend's dtype once.
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
