"""Logarithm, sine and cosine as PyTorch's vectorised normal numbers have them, bit for bit.

They are those of Cephes in single precision, with fused multiply-adds; NumPy's are more exact, and
so differ in the last bits.
"""

import math

import numpy as np
from jaxtyping import Float32

# Polynomials of Cephes' single precision library (Moshier 1989), the highest power first.
_LOG = np.array(
    [
        *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
        *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    ],
    np.float32,
)
_SIN = np.array([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1], np.float32)
_COS = np.array([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2], np.float32)
# ln 2 and pi / 4 as sums of short float32 numbers: a whole multiple of all but the last is exact.
_LN2 = np.array([0.693359375, -2.12194440e-4], np.float32)
_QUARTER_PI = np.array([0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8], np.float32)


def box_muller(uniform: Float32[np.ndarray, "N 16"]) -> Float32[np.ndarray, "N 16"]:
    """Blocks of 16 uniform numbers as blocks of 16 normal ones, in float32 throughout."""
    radius = np.sqrt(-2 * _log(1 - uniform[:, :8]))
    sine, cosine = _sin_cos(np.float32(2 * math.pi) * uniform[:, 8:])
    return np.concatenate([radius * cosine, radius * sine], axis=1) + 0  # makes -0 into 0


def _log(x: Float32[np.ndarray, "*B"]) -> Float32[np.ndarray, "*B"]:
    """Cephes' natural logarithm: x = m 2^e, m from sqrt(1/2) to sqrt(2), and a polynomial of m."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < np.float32(math.sqrt(0.5))
    power = (exponent - low).astype(np.float32)
    m = np.where(low, 2 * mantissa, mantissa) - 1
    square = m * m
    rest = _fma(_polynomial(_LOG, m) * m, square, power * _LN2[1])
    rest = _fma(square, np.float32(-0.5), rest)
    return _fma(power, _LN2[0], m + rest)


def _sin_cos(angle: Float32[np.ndarray, "*B"]) -> tuple[np.ndarray, np.ndarray]:
    """Cephes' sine and cosine from 0 on: polynomials about the nearest multiple of pi / 2."""
    eighths = (angle * np.float32(4 / math.pi)).astype(np.int32) + 1 & ~1
    x = angle
    for part in _QUARTER_PI:
        x = _fma(eighths.astype(np.float32), -part, x)
    square = x * x
    near_one = _fma(_polynomial(_COS, square) * square, square, -0.5 * square) + 1
    near_zero = _fma(_polynomial(_SIN, square) * square, x, x)
    swapped = (eighths & 2) != 0
    sine = np.where(swapped, near_one, near_zero)
    cosine = np.where(swapped, near_zero, near_one)
    sine = np.where(eighths & 4, -sine, sine)
    return sine, np.where(eighths + 2 & 4, -cosine, cosine)


def _polynomial(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Horner's rule, the highest power first."""
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = _fma(value, x, coefficient)
    return value


def _fma(a, b, c) -> np.ndarray:
    """The float32 `a * b + c` rounded once, as processors with AVX2 compute it.

    In float64 the product is exact; the sum is rounded there, and again to float32. The second
    rounding errs about once in 2^29 sums, where the first made a tie.
    """
    total = np.multiply(a, b, dtype=np.float64)
    total += c
    return total.astype(np.float32)
