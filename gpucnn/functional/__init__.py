"""Single operations on plain arrays: checked, computed on a backend of your choice, and returned as NumPy arrays.

    from gpucnn import functional
    y = functional.conv(x, w, bias, stride=2, padding="same")
    dx, dw, db = functional.conv_backward(dy, x, w, stride=2, padding="same", backend="numba")

Images are (N, C, *spatial) with 1 to 3 spatial axes, as many as the arrays have; weights are (O, C/groups, *K). Arrays
may be NumPy arrays or anything with `__dlpack__` (PyTorch, CuPy, JAX) or `__array__`. All arrays of a call have one
type: float32, or float64 if the math mode takes it (numpy fast). Results have that type.

Every function takes `backend` (a name of `gpucnn.backends`; None is the fastest usable one) and the math mode `math`
("exact", "fast" or None, the backend's default) last. Every function raises ShapeError for sizes that do not fit,
DTypeError for types, ConfigurationError for settings out of their range, and BackendError for a backend that is
unknown, not usable, or lacks the math mode. Gradients are of sum(dy * y), `dy` being the gradient with respect to the
output y.

NaN and infinity are computed with, not refused; the exact math mode guarantees no bits for them.
"""

from gpucnn.functional import convolution, elementwise, linear, loss, norm, pooling, resampling, true_convolution
from gpucnn.functional.convolution import *
from gpucnn.functional.elementwise import *
from gpucnn.functional.linear import *
from gpucnn.functional.loss import *
from gpucnn.functional.norm import *
from gpucnn.functional.pooling import *
from gpucnn.functional.resampling import *
from gpucnn.functional.true_convolution import *

__all__ = [  # noqa: PLE0604 - the lists of names above
    *convolution.__all__,
    *elementwise.__all__,
    *linear.__all__,
    *loss.__all__,
    *norm.__all__,
    *pooling.__all__,
    *resampling.__all__,
    *true_convolution.__all__,
]
