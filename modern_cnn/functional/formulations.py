"""The same convolution and the same pooling, computed in several ways, and the table that says where each is fast.

GPUs and TPUs have one good way, XLA's own operation. On CPUs XLA's compiler is fast for most convolutions and very slow
for some, and for the gradient of pooling. `convolution` and `pooling` choose while a function is traced, by shape and
platform; every way is held to the same oracle by tests/functional/test_formulations.py.

Shapes: images [N, H, W, C], kernels [kh, kw, C // groups, O]; pads ((top, bottom), (left, right)).
"""
import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

Size = tuple[int, int]
Pads = tuple[Size, Size]
LAYOUT = ("NHWC", "HWIO", "NHWC")
FEW_PIXELS = 9  # of output: up to here patches times matrix is faster than XLA's convolution
# Channels on one side, on the other, pixels of a row: up to here products with a banded matrix are faster.
FEW_CHANNELS, MORE_CHANNELS, NARROW = 8, 16, 32
BLOCK = 5  # outputs of a row that one such matrix makes, at least


_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def platform(name: str) -> Iterator[None]:
    """What is traced inside is meant for this platform ('cpu', 'gpu', 'tpu', 'onnx'), not for the one JAX runs on."""
    token = _platform.set(name)
    try:
        yield
    finally:
        _platform.reset(token)


def _on_cpu() -> bool:
    return (_platform.get() or jax.default_backend()) == "cpu"


def convolution(kernel_shape: Sequence[int], strides: Size, pads: Pads, groups: int, channels: int,
                output: Size) -> str:
    """The key of CONVOLUTIONS that is fast for these shapes, of which `output` is the result's height and width.

    GPUs and TPUs: always 'library'. CPUs (milliseconds are of two cores of a Xeon, jax 0.10.2, float32, forward):

    - 'product', 1x1 without padding: as fast as the library and sooner compiled;
    - 'patches', at most FEW_PIXELS of output: 5 ms against 560 for 3x3 and 512 channels on 64x2x2, 1.6 against 21 for
      5x5 and 48 to 128 channels on 64x3x3;
    - 'shifts', depthwise;
    - 'bands', few channels and short rows: LeNet's first layer, batch 256, 2.3 ms instead of 7.7, and the gradient of
      its second layer's input 2.1 instead of 5.0;
    - 'canonical', any other of one group: as fast outside of loops, and its gradients ten times faster inside.
    """
    if not _on_cpu():
        return "library"
    if groups > 1:
        return "shifts" if groups == channels else "library"
    if tuple(kernel_shape[:2]) == (1, 1) and not any(map(any, pads)):
        return "product"
    if math.prod(output) <= FEW_PIXELS:
        return "patches"
    few, more = sorted(kernel_shape[2:])
    return "bands" if few <= FEW_CHANNELS and more <= MORE_CHANNELS and output[1] <= NARROW else "canonical"


def _library(x, kernel, strides, pads, dilation, groups=1):
    return lax.conv_general_dilated(x, kernel, strides, pads, rhs_dilation=dilation, feature_group_count=groups,
                                    dimension_numbers=LAYOUT)


def _product(x, kernel, strides, pads, dilation, groups):
    """A 1x1 convolution is a dense layer at every pixel."""
    return _dense(x[:, ::strides[0], ::strides[1]], kernel[0, 0])


@jax.custom_jvp
def _dense(x, kernel):
    return x @ kernel


def _dense_jvp(primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    y, parts = x @ kernel, []
    if type(dx) is not SymbolicZero:
        parts.append(dx @ kernel)
    if type(dkernel) is not SymbolicZero:
        parts.append(_transpose(partial(_dense_gradient, x), y, dkernel))
    return y, sum(parts[1:], parts[0])


_dense.defjvp(_dense_jvp, symbolic_zeros=True)


def _dense_gradient(x, dy):
    """[N, H, W, O] -> [C, O]: a product of two matrices; over three axes XLA would turn x around first."""
    x, dy = (each.reshape(-1, each.shape[3]) for each in (x, dy))
    return lax.dot_general(x, dy, (((0,), (0,)), ((), ())))


def _transpose(gradient: Callable, y: jax.Array, tangent: jax.Array) -> jax.Array:
    """A tangent of y by a linear function, given as that function's transpose: a gradient that we have written.

    JAX transposes what this returns to find gradients, and is back at ours.
    """
    return jax.linear_transpose(gradient, jax.ShapeDtypeStruct(y.shape, y.dtype))(tangent)[0]


def _windows(x: jax.Array, window: Size, strides: Size, pads: Pads, dilation: Size) -> list[jax.Array]:
    """For each tap of the window in row order, what it sees: [N, H', W', C]."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    (rows, columns) = (_taps(n, k, s, d) for n, k, s, d in zip(x.shape[1:3], window, strides, dilation, strict=True))
    return [x[:, row, column] for row in rows for column in columns]


def _taps(size: int, window: int, stride: int, dilation: int = 1) -> list[slice]:
    """Along one axis of padded length `size`: the positions that each tap of the window visits."""
    span = size - (window - 1) * dilation
    return [slice(tap * dilation, tap * dilation + span, stride) for tap in range(window)]


def _patches(x, kernel, strides, pads, dilation, groups):
    """Each window as a row of a matrix, times the kernel as a matrix ("im2col", Chellapilla et al. 2006)."""
    patches = jnp.concatenate(_windows(x, kernel.shape[:2], strides, pads, dilation), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[3])


def _bands(x, kernel, strides, pads, dilation, groups, bias=None):
    """Rows at once: along the width a convolution is a product with a banded matrix, made of the kernel.

    A row of outputs is cut into equal blocks of at least BLOCK. The matrix is zero but for a share of about kw / W, W
    pixels seen by a block, so the arithmetic grows by W / kw; but its rows and columns are as many times as long as the
    channels, and where those are few that is what a matrix product needs to be fast. The bias is a row of the matrix.
    """
    (kh, kw, c, o), dtype = kernel.shape, kernel.dtype
    x = lax.optimization_barrier(x)  # its gradient is a sum over taps: not to be done anew for each that reads it
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    count = len(range(x.shape[2])[_taps(x.shape[2], kw, strides[1], dilation[1])[0]])
    block = min(n for n in range(1, count + 1) if count % n == 0 and n >= min(count, BLOCK))
    width = (block - 1) * strides[1] + (kw - 1) * dilation[1] + 1
    place = np.zeros((kw, width, block))  # 1 where a tap of an output's window sees a pixel
    for output in range(block):
        place[range(kw), range(output * strides[1], width, dilation[1])[:kw], output] = 1
    matrix = jnp.einsum("ijco,jpv->ipcvo", kernel, jnp.asarray(place, dtype), precision="highest")
    matrix = matrix.reshape(kh * width * c, block * o)
    blocks = [x[:, :, first * strides[1]:][:, :, :width].reshape(*x.shape[:2], 1, width * c)
              for first in range(0, count, block)]
    rows = lax.optimization_barrier(jnp.concatenate(blocks, axis=2))
    rows = [rows[:, tap] for tap in _taps(x.shape[1], kh, strides[0], dilation[0])]
    if bias is not None:
        rows.append(jnp.ones((*rows[0].shape[:3], 1), dtype))
        matrix = jnp.concatenate([matrix, jnp.tile(bias, block)[None]])
    y = _dense(jnp.concatenate(rows, axis=-1), matrix)
    return y.reshape(*y.shape[:2], count, o)


def _shifts(x, kernel, strides, pads, dilation, groups):
    """Depthwise: the shifted image times a number a channel, summed over the taps."""
    x = jnp.repeat(x, kernel.shape[3] // groups, axis=-1)
    taps = kernel.reshape(-1, kernel.shape[3])
    return sum(tap * seen for tap, seen in zip(taps, _windows(x, kernel.shape[:2], strides, pads, dilation),
                                               strict=True))


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _canonical(x, kernel, strides, pads, dilation, groups):
    """XLA's convolution, whose gradients are convolutions of images NHWC with kernels HWIO as well.

    JAX writes them with other orders of dimensions. XLA's CPU compiler knows how to turn those around outside of loops
    only; inside a loop (a scanned stage, accumulated gradients) they fall back to code that is ten times slower.
    """
    return _library(x, kernel, strides, pads, dilation)


def _canonical_jvp(strides, pads, dilation, groups, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _canonical(x, kernel, strides, pads, dilation, groups)
    parts = []
    if type(dx) is not SymbolicZero:
        parts.append(_transpose(partial(_input_gradient, kernel, x.shape[1:3], strides, pads, dilation), y, dx))
    if type(dkernel) is not SymbolicZero:
        def of_kernel(x, dkernel):
            return _transpose(partial(_kernel_gradient, x, kernel.shape[:2], strides, pads, dilation), y, dkernel)

        # checkpoint: keep x for the backward pass, not its transpose
        parts.append(jax.checkpoint(of_kernel, prevent_cse=False)(x, dkernel))
    return y, sum(parts[1:], parts[0])


_canonical.defjvp(_canonical_jvp, symbolic_zeros=True)


def _input_gradient(kernel, size, strides, pads, dilation, dy):
    """[N, H', W', O] -> [N, H, W, C]: the flipped kernel over dy, whose pixels lie `strides` apart."""
    extents = [(k - 1) * d for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    around = [(extent - lo, n - 1 + lo - (out - 1) * stride)
              for extent, n, (lo, _), out, stride in zip(extents, size, pads, dy.shape[1:3], strides, strict=True)]
    return lax.conv_general_dilated(dy, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), around, lhs_dilation=strides,
                                    rhs_dilation=dilation, dimension_numbers=LAYOUT)


def _kernel_gradient(x, window, strides, pads, dilation, dy):
    """[N, H', W', O] -> [kh, kw, C, O]: dy as a kernel over x, channels for images and images for channels.

    Where dy has fewer channels it is the other way round, x as a kernel over dy: what lies around the kernel has to be
    turned around, and is to be the smaller one.
    """
    x, dy = lax.optimization_barrier(x), lax.optimization_barrier(dy)
    extents = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]
    if strides == (1, 1) and dy.shape[3] < x.shape[3]:
        around = [(extent - lo, n - 1 + lo - (out - 1))
                  for extent, n, (lo, _), out in zip(extents, x.shape[1:3], pads, dy.shape[1:3], strict=True)]
        gradient = lax.conv_general_dilated(dy.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3), dilation, around,
                                            dimension_numbers=LAYOUT)
        return gradient[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    around = [(lo, (out - 1) * stride + extent + 1 - n - lo) for extent, n, (lo, _), out, stride
              in zip(extents, x.shape[1:3], pads, dy.shape[1:3], strides, strict=True)]
    return lax.conv_general_dilated(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), dilation, around,
                                    rhs_dilation=strides, dimension_numbers=LAYOUT).transpose(1, 2, 0, 3)


def convolve(way: str, x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *geometry) -> jax.Array:
    """A convolution by a key of CONVOLUTIONS, plus a bias [O] or None; geometry: strides, pads, dilation, groups."""
    if way == "bands":  # makes the bias part of its product
        return CONVOLUTIONS[way](x, kernel, *geometry, bias)
    y = CONVOLUTIONS[way](x, kernel, *geometry)
    return y if bias is None else y + bias


# name -> (x, kernel, strides, pads, dilation, groups) -> [N, H', W', O]
CONVOLUTIONS: dict[str, Callable[..., jax.Array]] = {
    "library": _library, "product": _product, "patches": _patches, "bands": _bands, "shifts": _shifts,
    "canonical": _canonical}


def pooling() -> str:
    """The key of MAX_POOLINGS: 'slices' on CPUs, where XLA's gradient takes several times as long, else 'library'.

    For ONNX it is 'flax', the one that jax2onnx knows how to write: XLA's windows are over four axes, ONNX's over two.
    """
    if _platform.get() == "onnx":
        return "flax"
    return "slices" if _on_cpu() else "library"


def _lowest(dtype: jnp.dtype):
    return dtype.type(-jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min)


def _library_max(x, window, strides, pads):
    return lax.reduce_window(x, _lowest(x.dtype), lax.max, (1, *window, 1), (1, *strides, 1),
                             ((0, 0), *pads, (0, 0)))


def _sliced_max(x, window, strides, pads):
    """Along the width and then the height, the largest of as many slices as the window is long."""
    x = lax.pad(x, _lowest(x.dtype), ((0, 0, 0), *((lo, hi, 0) for lo, hi in pads), (0, 0, 0)))
    for axis in (2, 1):
        x = _max_along(lax.optimization_barrier(x), axis, window[axis - 1], strides[axis - 1])
    return x


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_along(x, axis, window, stride):
    return _max_and_tap(x, axis, window, stride)[0]


@_max_along.defjvp
def _max_along_jvp(axis, window, stride, primals, tangents):
    (x,), (dx,) = primals, tangents
    y, tap = _max_and_tap(x, axis, window, stride)
    return y, _chosen(dx, tap, axis, window, stride)


def _max_and_tap(x, axis, window, stride):
    """The largest of each window along an axis, and which of its taps that is: of equal ones the first; NaN."""
    first, *others = (x[_along(axis, tap)] for tap in _taps(x.shape[axis], window, stride))
    tap = jnp.zeros(first.shape, np.min_scalar_type(-window))
    for number, other in enumerate(others, start=1):
        stays = (first >= other) | (first != first)
        first, tap = jnp.where(stays, first, other), jnp.where(stays, tap, tap.dtype.type(number))
    return first, tap


def _chosen(x, tap, axis, window, stride):
    """What `tap` chose of each window of x. It is written for its transpose, the gradient: there each pixel adds up
    what it gets from the windows around it, pixels that lie alike to the windows together, and arrays are read and
    written in order.
    """
    (size, count), none = (x.shape[axis], tap.shape[axis]), (0, 0, 0)
    blocks, reach = -(-size // stride), (window - 1) // stride
    length = reach + max(blocks, count)

    def padded(x, lo, hi, value=0):
        return lax.pad(x, x.dtype.type(value), [(lo, hi, 0) if a == axis else none for a in range(x.ndim)])

    tap = lax.optimization_barrier(padded(tap, reach, length - reach - count, -1))
    x = padded(lax.optimization_barrier(x), 0, blocks * stride - size)
    alike = lax.split(x.reshape(*x.shape[:axis], blocks, stride, *x.shape[axis + 1:]), [1] * stride, axis + 1)
    total = jnp.zeros((), x.dtype)
    for number in range(window):
        start = reach - number // stride
        chosen = jnp.where(tap[_along(axis, slice(start, start + blocks))] == number,
                           alike[number % stride].squeeze(axis + 1), 0)
        total += padded(chosen, start, length - start - blocks)
    return lax.optimization_barrier(total)[_along(axis, slice(reach, reach + count))]


def _along(axis: int, index: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (index,)


def _flax_max(x, window, strides, pads):
    """jax2onnx has to find these two functions by their names, and the window by its keyword."""
    if any(map(any, pads)):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=_lowest(x.dtype))
    return flax.linen.max_pool(x, window_shape=window, strides=strides, padding="VALID")


MAX_POOLINGS: dict[str, Callable[..., jax.Array]] = {"library": _library_max, "slices": _sliced_max, "flax": _flax_max}


def window_sums(x: jax.Array, window: Size, strides: Size, pads: Pads) -> jax.Array:
    """[N, H, W, C] -> [N, H', W', C]: the sum of each window, zeros around the images."""
    if _on_cpu() and window == strides and not any(map(any, pads)):
        few = x.shape[3] <= MORE_CHANNELS and math.prod(window) <= FEW_PIXELS
        return (_tile_sums if few else _sum_tiles)(x, window)
    return lax.reduce_window(x, x.dtype.type(0), lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _tile_sums(x, window):
    """Of windows side by side, each a sum of slices: of few channels faster than over axes; its gradient is not."""
    x = lax.optimization_barrier(x)  # or what made x is done pixel by pixel, between the slices
    rows, columns = (_taps(n // k * k, k, k) for n, k in zip(x.shape[1:3], window, strict=True))
    return sum(x[:, row, column] for row in rows for column in columns)


_tile_sums.defjvp(lambda window, primals, tangents: (_tile_sums(*primals, window), _sum_tiles(*tangents, window)))


def _sum_tiles(x, window):
    n, h, w, c = x.shape
    rows, columns = h // window[0], w // window[1]
    x = x[:, :rows * window[0], :columns * window[1]]  # without the pixels that no window holds
    return x.reshape(n, rows, window[0], columns, window[1], c).sum((2, 4))
