"""Several ways to compute a pooling, and the rule that chooses the fast one by platform while a function is traced.

XLA's own operations are fast on GPUs and TPUs. On CPUs the gradient of its pooling is slow.
tests/functional/test_formulations.py checks every way against the same oracle.
"""
import math
from collections.abc import Callable
from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modern_cnn.functional.formulations import FEW_PIXELS, MORE_CHANNELS, Pads, Size, on_cpu, platform, taps, windows


def choose_pooling() -> str:
    """Return the key of MAX_POOLINGS: 'slices' on CPUs, where XLA's gradient is several times slower, else 'library'.

    For ONNX it is 'flax', the only one that jax2onnx can write: XLA's windows have four axes, ONNX's have two.
    """
    if platform.value == "onnx":
        return "flax"
    return "slices" if on_cpu() else "library"


def _lowest(dtype: jnp.dtype):
    return dtype.type(-jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min)


def _library_max(x, window, strides, pads):
    return lax.reduce_window(x, _lowest(x.dtype), lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))


def _sliced_max(x, window, strides, pads):
    """Take the largest of as many slices as the window has pixels.

    Of a large window, or of few channels, along the width first and then along the height, which takes fewer slices.
    """
    x = lax.pad(x, _lowest(x.dtype), ((0, 0, 0), *((lo, hi, 0) for lo, hi in pads), (0, 0, 0)))
    if math.prod(window) <= FEW_PIXELS and x.shape[3] > MORE_CHANNELS:
        return _largest(lax.optimization_barrier(x), window, strides)
    along_rows = _largest(lax.optimization_barrier(x), (1, window[1]), (1, strides[1]))
    return _largest(lax.optimization_barrier(along_rows), (window[0], 1), (strides[0], 1))


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _largest(x, window, strides):
    return _max_and_tap(x, window, strides)[0]


@_largest.defjvp
def _largest_jvp(window, strides, primals, tangents):
    (x,), (dx,) = primals, tangents
    y, tap = _max_and_tap(x, window, strides)
    return y, _select(dx, tap, window, strides)


def _max_and_tap(x, window, strides):
    """Return the largest value of each window and its tap, in row order: the first among equals; NaN is largest."""
    first, *others = windows(x, window, strides, ((0, 0), (0, 0)), (1, 1))
    tap = jnp.zeros(first.shape, np.min_scalar_type(-math.prod(window)))
    for number, other in enumerate(others, start=1):
        stays = (first >= other) | (first != first)
        first, tap = jnp.where(stays, first, other), jnp.where(stays, tap, tap.dtype.type(number))
    return first, tap


def _select(x, tap, window, strides):
    """Return the value at `tap` of each window of x, in a form whose transpose, the gradient, is fast.

    There each pixel adds up what the windows around it send. Pixels at the same phase of the strides are handled
    together, so that arrays are read and written in order.
    """
    sizes, counts = x.shape[1:3], tap.shape[1:3]
    blocks = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    reaches = [(k - 1) // stride for k, stride in zip(window, strides, strict=True)]
    lengths = [reach + max(both) for reach, *both in zip(reaches, blocks, counts, strict=True)]

    def padded(x, before, size, value=0):  # to `size` pixels, `before` of them in front
        around = [(lo, n - lo - own, 0) for lo, n, own in zip(before, size, x.shape[1:3], strict=True)]
        return lax.pad(x, x.dtype.type(value), [(0, 0, 0), *around, (0, 0, 0)])

    tap = lax.optimization_barrier(padded(tap, reaches, lengths, -1))
    x = padded(lax.optimization_barrier(x), (0, 0), [n * stride for n, stride in zip(blocks, strides, strict=True)])
    x = x.reshape(len(x), blocks[0], strides[0], blocks[1], strides[1], x.shape[3])
    phases = [lax.split(rows, [1] * strides[1], 4) for rows in lax.split(x, [1] * strides[0], 2)]
    total = jnp.zeros((), x.dtype)
    for number, place in enumerate(np.ndindex(*window)):
        row, column = (reach - k // stride for reach, k, stride in zip(reaches, place, strides, strict=True))
        phase = phases[place[0] % strides[0]][place[1] % strides[1]].squeeze((2, 4))
        sent = jnp.where(tap[:, row:row + blocks[0], column:column + blocks[1]] == number, phase, 0)
        total += padded(sent, (row, column), lengths)
    (row, column), (rows, columns) = reaches, counts
    return lax.optimization_barrier(total)[:, row:row + rows, column:column + columns]


def _flax_max(x, window, strides, pads):
    """Pool by flax: jax2onnx recognises these two functions by their names, and the window by its keyword."""
    if any(map(any, pads)):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=_lowest(x.dtype))
    return flax.linen.max_pool(x, window_shape=window, strides=strides, padding="VALID")


# name -> (x, window, strides, pads) -> [N, H', W', C]
MAX_POOLINGS: dict[str, Callable[..., jax.Array]] = {"library": _library_max, "slices": _sliced_max, "flax": _flax_max}


def window_sums(x: jax.Array, window: Size, strides: Size, pads: Pads) -> jax.Array:
    """Return the sum of each window: [N, H, W, C] -> [N, H', W', C]. The padding is zeros."""
    if on_cpu() and window == strides and not any(map(any, pads)):
        few = x.shape[3] <= MORE_CHANNELS and math.prod(window) <= FEW_PIXELS
        return _tile_sums_by_slices(x, window) if few else _tile_sums(x, window)
    return lax.reduce_window(x, x.dtype.type(0), lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _tile_sums_by_slices(x, window):
    """Return `_tile_sums`, faster for few channels; its gradient would be slower, so it has that of `_tile_sums`."""
    x = lax.optimization_barrier(x)  # or XLA computes x pixel by pixel, between the slices
    rows, columns = (taps(n // k * k, k, k) for n, k in zip(x.shape[1:3], window, strict=True))
    return sum(x[:, row, column] for row in rows for column in columns)


_tile_sums_by_slices.defjvp(lambda window, primals, tangents: (
    _tile_sums_by_slices(primals[0], window), _tile_sums(tangents[0], window)))


def _tile_sums(x, window):
    """Return the sums of windows that lie side by side."""
    n, h, w, c = x.shape
    rows, columns = h // window[0], w // window[1]
    x = x[:, :rows * window[0], :columns * window[1]]  # without the pixels that no window holds
    return x.reshape(n, rows, window[0], columns, window[1], c).sum((2, 4))
