"""What lies between the matrix products of a gradient step, in one pass over the memory each, with numba.

Between products of some hundred rows, a sum with the bias, a tanh, a product with its derivative and a sum over the
rows take about as long as the products themselves if each is a pass of its own (and torch's tanh, where it is not
vectorised, longer); and the derivatives of a loss are thirty small operations in torch, for each of which two threads
that learn side by side may have to wait for Python's lock. Every loop here is over the rows of one buffer; the first
use compiles them, in some seconds, and caches them where numba may write: beside the package, or in the user's cache.

bfloat16 is the upper half of a float32. numba does not know it, so buffers of it come as their bits, uint16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic

from copo_algos.config import LOG_STD_RANGE

# Sums and products may be fused where the processor can; nothing is reordered but by the loops' vectorisation.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "arcp"},
}
_one, _limit = np.float32(1), np.float32(7.90531110763549805)
_half, _two, _log_2_pi = np.float32(0.5), np.float32(2), np.float32(math.log(2 * math.pi))
_low, _high = (np.float32(bound) for bound in LOG_STD_RANGE)
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


def takes(tensor: torch.Tensor) -> bool:
    """Whether there are kernels for it: float32, in the processor's memory."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
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


@njit(inline="always")
def _clamped(log_std):
    return _low if log_std < _low else (_high if log_std > _high else log_std)  # so that NaN stays NaN


@_compiled
def policy_gradient(head, action, log_prob, advantage, old_mean, old_log_std, clip_coef, kl_coef, entropy_coef):
    """`losses.policy_gradient`, row by row; the coefficients as float32."""
    count = head.shape[0]
    share = _one / np.float32(count)
    by_head, ratios = np.empty_like(head), np.empty_like(log_prob)
    for row in range(count):
        new_log_prob = np.float32(0)
        for axis in range(2):
            log_std = _clamped(head[row, 2 + axis])
            z = (action[row, axis] - head[row, axis]) * math.exp(-log_std)
            new_log_prob -= _half * (z * z + _log_2_pi) + log_std
        ratio = math.exp(new_log_prob - log_prob[row])
        ratios[row] = ratio
        held = ratio > _one + clip_coef if advantage[row] > 0 else ratio < _one - clip_coef
        by_log_prob = np.float32(0) if held else -advantage[row] * ratio * share
        for axis in range(2):
            log_std = _clamped(head[row, 2 + axis])
            inverse_std = math.exp(-log_std)
            z = (action[row, axis] - head[row, axis]) * inverse_std
            # the KL's derivatives: (mean - old) / var, and 1 - var_old / var - (mean - old)^2 / var
            distance = head[row, axis] - old_mean[row, axis]
            pull = distance * inverse_std * inverse_std
            grown = _one - math.exp(_two * (old_log_std[row, axis] - log_std)) - distance * pull
            by_head[row, axis] = by_log_prob * z * inverse_std + kl_coef * pull * share
            by_log_std = by_log_prob * (z * z - _one) + (kl_coef * grown - entropy_coef) * share
            by_head[row, 2 + axis] = by_log_std if log_std == head[row, 2 + axis] else by_log_std * np.float32(0)
    return by_head, ratios


@_compiled
def value_gradient(value, old_value, returns, value_clip):
    """`losses.value_gradient`, row by row; `value_clip` as float32."""
    count = value.shape[0]
    scale = _two / np.float32(count)
    by_value = np.empty(count, np.float32)
    for row in range(count):
        error = value[row] - returns[row]
        moved = value[row] - old_value[row]
        clipped = -value_clip if moved < -value_clip else (value_clip if moved > value_clip else moved)
        clipped_error = old_value[row] + clipped - returns[row]
        held = abs(moved) > value_clip and clipped_error * clipped_error > error * error
        by_value[row] = np.float32(0) if held else error * scale
    return by_value
