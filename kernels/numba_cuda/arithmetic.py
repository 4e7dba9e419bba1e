"""Every operation that rounds, for float32 and, with names that end in 64, for float64: rules 1, 2 and 5.

Kernels add and multiply with these functions and with no operator, because on a device Numba-CUDA turns `a * b + c`
into one fused operation, with other bits. What is used here is never fused, never flushed to zero and always
correctly rounded: libdevice's functions that end in _rn, and `cuda.fma` where the contract says fma.

The simulator has neither: its `cuda.fma` rounds twice and its libdevice computes nothing. So there NumPy's scalars do
the work, which round as IEEE-754 says, and the fma is put together below. There the types are checked too: a float64
that sneaks in (any Python number with a point) would be rounded to float32 without a word on a device.
"""

import math
import struct

import numpy as np
from gpucnn.kernels.numba_cuda.compiler import SIMULATED, device, kernel
from numba import cuda
from numba.cuda import libdevice

ZERO, ONE = np.float32(0), np.float32(1)

if not SIMULATED:

    @device
    def fma(a, b, c):
        """a * b + c, rounded once."""
        return cuda.fma(a, b, c)

    @device
    def add(a, b):
        return libdevice.fadd_rn(a, b)

    @device
    def subtract(a, b):
        return libdevice.fsub_rn(a, b)

    @device
    def multiply(a, b):
        return libdevice.fmul_rn(a, b)

    @device
    def divide(a, b):
        return libdevice.fdiv_rn(a, b)

    @device
    def sqrt(a):
        return libdevice.fsqrt_rn(a)

    @device
    def add64(a, b):
        return libdevice.dadd_rn(a, b)

    @device
    def subtract64(a, b):
        return libdevice.dadd_rn(a, -b)

    @device
    def multiply64(a, b):
        return libdevice.dmul_rn(a, b)

    @device
    def divide64(a, b):
        return libdevice.ddiv_rn(a, b)

    @device
    def sqrt64(a):
        return libdevice.dsqrt_rn(a)

    @device
    def widen(a):
        """float32 to float64, exactly."""
        return np.float64(a)

    @device
    def narrow(a):
        """float64 to the nearest float32."""
        return libdevice.double2float_rn(a)

    @device
    def bits64(a):
        """The bits of a float64, as an int64."""
        return libdevice.double_as_longlong(a)

    @device
    def from_bits64(bits):
        """The float64 that has these bits."""
        return libdevice.longlong_as_double(bits)

else:

    def _take(kind, *values):
        for value in values:
            if type(value) is not kind:
                raise TypeError(f"{value!r} is {type(value).__name__}; this function takes {kind.__name__}")

    def fma(a, b, c):
        """a * b + c, rounded once.

        The product of two float32 is exact in float64. Where the sum is not, it is rounded to odd: of its two float64
        neighbors the one whose last bit is 1. Rounding that to float32 gives what rounding the exact sum would (Boldo
        and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
        """
        _take(np.float32, a, b, c)
        product, addend = float(a) * float(b), float(c)
        total = product + addend
        part = total - product
        rest = (product - (total - part)) + (addend - part)  # Knuth's two-sum: total + rest is exact
        if rest != 0 and math.isfinite(rest) and struct.pack("<d", total)[0] & 1 == 0:
            total = math.nextafter(total, math.copysign(math.inf, rest))
        return np.float32(total)

    def add(a, b):
        _take(np.float32, a, b)
        return a + b

    def subtract(a, b):
        _take(np.float32, a, b)
        return a - b

    def multiply(a, b):
        _take(np.float32, a, b)
        return a * b

    def divide(a, b):
        _take(np.float32, a, b)
        return a / b

    def sqrt(a):
        _take(np.float32, a)
        return np.sqrt(a)

    def add64(a, b):
        _take(np.float64, a, b)
        return a + b

    def subtract64(a, b):
        _take(np.float64, a, b)
        return a - b

    def multiply64(a, b):
        _take(np.float64, a, b)
        return a * b

    def divide64(a, b):
        _take(np.float64, a, b)
        return a / b

    def sqrt64(a):
        _take(np.float64, a)
        return np.sqrt(a)

    def widen(a):
        """float32 to float64, exactly."""
        _take(np.float32, a)
        return np.float64(a)

    def narrow(a):
        """float64 to the nearest float32."""
        _take(np.float64, a)
        return np.float32(a)

    def bits64(a):
        """The bits of a float64, as an int64."""
        _take(np.float64, a)
        return a.view(np.int64)

    def from_bits64(bits):
        """The float64 that has these bits."""
        return np.int64(bits).view(np.float64)


@kernel
def small_product(values):
    """values[2] = values[0] * values[1]: a device that flushes subnormal numbers to zero gives itself away."""
    values[2] = multiply(values[0], values[1])
