"""The elementwise activations, each declared once for all backends and layers.

Their expressions are in kernels/numba/elementwise.py, kernels/numba_cuda/elementwise.py, kernels/cuda/operations.cuh
and gpucnn/backends/numpy; kernels/CONTRACT.md, rules 6 and 7, defines their results to the bit.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Elementwise:
    """`saved` is what the gradient is computed from: the input "x" or the output "y". `settings` names the additional
    parameters of value and gradient, each rounded to the backend's dtype once.
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
