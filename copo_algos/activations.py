"""What lies between the matrix products of a tanh network, in one pass over the memory each, with numba.

Between products of some hundred rows, a sum with the bias, a tanh, a product with its derivative and a sum over the
rows take about as long as the products themselves if each is a pass of its own (and torch's tanh, where it is not
vectorised, longer). Every loop here is over rows of one buffer and vectorised by the compiler; the first use compiles
them, in two seconds, and caches them where numba may write: beside the package, or in the user's cache.

bfloat16 is the upper half of a float32. numba does not know it, so buffers of it come as their bits, uint16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# Sums and products may be fused where the processor can; nothing is reordered but by the loops' vectorisation.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "arcp"},
}
_one, _limit = np.float32(1), np.float32(7.90531110763549805)
_nan, _half_step, _sixteen = np.uint16(0x7FC0), np.uint32(0x7FFF), np.uint32(16)


@intrinsic
def _bits(context: Any, number: Any) -> Any:
    """The bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@intrinsic
def _number(context: Any, bits: Any) -> Any:
    """The float32 that has these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to write: every process compiles
        return njit(**_OPTIONS)(function)


@njit(inline="always")
def _rounded(number):
    """The bits of the bfloat16 next to a float32, of two as near the even one; NaN stays NaN."""
    if number != number:
        return _nan
    bits: Any = _bits(number)  # pyright: ignore[reportCallIssue]  (numba gives the context)
    return np.uint16((bits + _half_step + ((bits >> _sixteen) & np.uint32(1))) >> _sixteen)


@njit(inline="always")
def _widened(bits):
    return _number(np.uint32(bits) << _sixteen)  # pyright: ignore[reportCallIssue]


@njit(inline="always", error_model="numpy", fastmath=_OPTIONS["fastmath"])
def _tanh(x):
    """A quotient of polynomials, right to 3e-7: the one that Eigen, TensorFlow and XLA use for float32."""
    x = -_limit if x < -_limit else (_limit if x > _limit else x)  # so that NaN stays NaN
    y = x * x
    above = np.float32(-2.76076847742355e-16)
    above = above * y + np.float32(2.00018790482477e-13)
    above = above * y + np.float32(-8.60467152213735e-11)
    above = above * y + np.float32(5.12229709037114e-08)
    above = above * y + np.float32(1.48572235717979e-05)
    above = above * y + np.float32(6.37261928875436e-04)
    above = above * y + np.float32(4.89352455891786e-03)
    below = np.float32(1.19825839466702e-06)
    below = below * y + np.float32(1.18534705686654e-04)
    below = below * y + np.float32(2.26843463243900e-03)
    below = below * y + np.float32(4.89352518554385e-03)
    return x * above / below


@_compiled
def tanh(z, bias):
    """z (B, H) <- tanh(z + bias), float32."""
    for row in range(z.shape[0]):
        for unit in range(z.shape[1]):
            z[row, unit] = _tanh(z[row, unit] + bias[unit])


@_compiled
def through_tanh(d, h, by_bias):
    """d (B, H) <- d (1 - h^2), the derivative by what h is the tanh of; by_bias (H,) <- its sum over the rows."""
    by_bias[:] = np.float32(0)
    for row in range(d.shape[0]):
        for unit in range(d.shape[1]):
            slope = _one - h[row, unit] * h[row, unit]
            d[row, unit] *= slope
            by_bias[unit] += d[row, unit]


@_compiled
def tanh_bfloat16(z, bias, h):
    """h (B, H) <- tanh(z + bias) in float32, and the same in bfloat16 in the place of z."""
    for row in range(z.shape[0]):
        for unit in range(z.shape[1]):
            value = _tanh(_widened(z[row, unit]) + bias[unit])
            h[row, unit] = value
            z[row, unit] = _rounded(value)


@_compiled
def through_tanh_bfloat16(d, h, by_bias):
    """`through_tanh` for a d in bfloat16."""
    by_bias[:] = np.float32(0)
    for row in range(d.shape[0]):
        for unit in range(d.shape[1]):
            value = _widened(d[row, unit]) * (_one - h[row, unit] * h[row, unit])
            by_bias[unit] += value
            d[row, unit] = _rounded(value)
