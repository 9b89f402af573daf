"""Several ways to compute a convolution, and the rule that chooses the fast one; of pooling: pool_formulations.py.

On GPUs and TPUs XLA's own operations are fast. On CPUs XLA's compiler is fast for most convolutions, but very slow for
some. `choose_convolution` decides by shape and platform while a function is traced.
tests/functional/test_formulations.py checks every way against the same oracle. 'bands' and joined groups multiply by
zeros, so there an infinite pixel makes NaN of a few neighbours in its row that do not see it.

Shapes: images x [N, H, W, C]; kernels [kh, kw, C // groups, O]; pads ((top, bottom), (left, right)).
"""
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

Size = tuple[int, int]
Pads = tuple[Size, Size]
FEW_PIXELS = 9  # of a result: up to here one product of patches is faster; of a window: up to here one pass is
# Up to so many channels on one side and on the other, and pixels in a row, products with a banded matrix are faster.
FEW_CHANNELS, MORE_CHANNELS, NARROW = 8, 16, 32
PARTS = 8  # of a batch, which are added up first
JOINED = 16  # channels of narrow groups that are computed as one
FEW_GROUPS = 9  # up to so many convolutions stand side by side: more take long to compile
BLOCK = 5  # least number of outputs in a row that one banded matrix computes
# `with platform(name)` chooses for 'cpu', 'gpu', 'tpu' or 'onnx', whatever JAX runs on.
platform = jax.make_user_context(None)
_correlate = partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def on_cpu() -> bool:
    """Return whether the ways of a CPU are chosen."""
    return (platform.value or jax.default_backend()) == "cpu"


def choose_convolution(kernel_shape: Sequence[int], strides: Size, pads: Pads, groups: int, channels: int,
                       output: Size) -> str:
    """Return the key of CONVOLUTIONS that is fast for these shapes; `output` is the height and width of the result.

    It is always 'library' on GPUs and TPUs. On CPUs (times: two cores of a Xeon, jax 0.10.2, float32, forward):

    - 'product' for 1x1 without padding: as fast as the library, and compiled sooner;
    - 'patches' for an output of at most FEW_PIXELS: 5 ms instead of 560 for 3x3 and 512 channels on 64x2x2, 1.6 ms
      instead of 21 for 5x5 and 48 to 128 channels on 64x3x3;
    - 'shifts' for depthwise convolutions;
    - 'bands' for few channels and short rows: 2.3 ms instead of 7.7 for LeNet's first layer with batch 256, and 2.1 ms
      instead of 5.0 for the gradient of the input of its second layer;
    - 'rows' for stride 1 and at most half as many results as channels: 36 ms instead of 53 for 3x3 and 160 to 32
      channels on 64x24x24 (two cores of an AMD EPYC with AVX2);
    - 'canonical' for all others of one group: as fast outside of loops, and its gradients ten times faster inside;
    - 'groups' for several groups: XLA's gradients of a grouped convolution are far slower than those of its groups.
    """
    if not on_cpu():
        return "library"
    if groups > 1:
        return "shifts" if groups == channels else "groups"
    if tuple(kernel_shape[:2]) == (1, 1) and not any(map(any, pads)):
        return "product"
    if math.prod(output) <= FEW_PIXELS:
        return "patches"
    few, more = sorted(kernel_shape[2:])
    if few <= FEW_CHANNELS and more <= MORE_CHANNELS and output[1] <= NARROW:
        return "bands"
    return "rows" if strides == (1, 1) and _few_outputs(kernel_shape) else "canonical"


def _few_outputs(kernel_shape: Sequence[int]) -> bool:
    """Return whether a convolution with stride 1 is faster row by row of its kernel."""
    rows, _, channels, outputs = kernel_shape
    return rows > 1 and channels >= 2 * outputs


def _library(x, kernel, strides, pads, dilation, groups=1):
    return _correlate(x, kernel, strides, pads, rhs_dilation=dilation, feature_group_count=groups)


def _product(x, kernel, strides, pads, dilation, groups):
    """Compute a 1x1 convolution as the dense layer that it is at every pixel."""
    return _dense(x[:, ::strides[0], ::strides[1]], kernel[0, 0])


_dense = jax.custom_jvp(lambda x, kernel: x @ kernel)


@partial(_dense.defjvp, symbolic_zeros=True)
def _dense_jvp(primals, tangents):
    x, kernel = primals
    y = x @ kernel

    def kernel_gradient(dy):  # as a product of two matrices: over three axes XLA would transpose x first
        rows, drows = (each.reshape(-1, each.shape[3]) for each in (x, dy))
        return lax.dot_general(rows, drows, (((0,), (0,)), ((), ())))

    return y, _sum(tangents, lambda dx: dx @ kernel, partial(_tangent, kernel_gradient, y))


def _sum(tangents: Sequence[Any], *parts: Callable) -> jax.Array:
    """Return the sum of each part of its tangent, without the tangents that are zero."""
    terms = [part(tangent) for part, tangent in zip(parts, tangents, strict=True) if type(tangent) is not SymbolicZero]
    return sum(terms[1:], terms[0])


def _tangent(gradient: Callable, y: jax.Array, tangent: jax.Array) -> jax.Array:
    """Return the tangent of y under a linear function; JAX, transposing it, gets the `gradient` that we wrote."""
    return jax.linear_transpose(gradient, jax.ShapeDtypeStruct(y.shape, y.dtype))(tangent)[0]


def windows(x: jax.Array, window: Size, strides: Size, pads: Pads, dilation: Size) -> list[jax.Array]:
    """Return the pixels under each tap of the window, taps in row order: each [N, H', W', C]."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = (taps(n, k, s, d) for n, k, s, d in zip(x.shape[1:3], window, strides, dilation, strict=True))
    return [x[:, row, column] for row in rows for column in columns]


def taps(size: int, window: int, stride: int, dilation: int = 1) -> list[slice]:
    """Return, for each tap of the window, the positions it visits along an axis of padded length `size`."""
    span = size - (window - 1) * dilation
    return [slice(tap * dilation, tap * dilation + span, stride) for tap in range(window)]


def _patches(x, kernel, strides, pads, dilation, groups):
    """Multiply a matrix with a window in each row by the kernel as a matrix ("im2col", Chellapilla et al. 2006)."""
    patches = jnp.concatenate(windows(x, kernel.shape[:2], strides, pads, dilation), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[3])


def _bands(x, kernel, strides, pads, dilation, groups, bias=None):
    """Compute whole rows: along the width a convolution is a product with a banded matrix made of the kernel.

    A row of outputs is cut into equal blocks of at least BLOCK. If a block sees W pixels, about kw / W of the matrix is
    not zero and the arithmetic grows by W / kw. But the matrix has W times as many rows and BLOCK times as many columns
    as there are channels: where those are few, this makes the product fast. The bias is one more row of the matrix.
    """
    (kh, kw, c, o), dtype = kernel.shape, kernel.dtype
    x = lax.optimization_barrier(x)  # its gradient is a sum over taps: compute it once, not for each of its readers
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    count = len(range(x.shape[2])[taps(x.shape[2], kw, strides[1], dilation[1])[0]])
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
    rows = [rows[:, tap] for tap in taps(x.shape[1], kh, strides[0], dilation[0])]
    if bias is not None:
        rows.append(jnp.ones((*rows[0].shape[:3], 1), dtype))
        matrix = jnp.concatenate([matrix, jnp.tile(bias, block)[None]])
    y = _dense(jnp.concatenate(rows, axis=-1), matrix)
    return y.reshape(*y.shape[:2], count, o)


def _shifts(x, kernel, strides, pads, dilation, groups) -> Any:
    """Compute a depthwise convolution as a sum over taps: the shifted image times one number for each channel."""
    x = jnp.repeat(x, kernel.shape[3] // groups, axis=-1)
    return _weighted(x, kernel.reshape(-1, kernel.shape[3]), kernel.shape[:2], strides, pads, dilation)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _weighted(x, weights, window, strides, pads, dilation) -> Any:
    """Return the sum of the pixels under each tap of the window times its weights, [C] of [kh * kw, C]."""
    return sum(weight * seen for weight, seen in zip(weights, windows(x, window, strides, pads, dilation), strict=True))


@partial(_weighted.defjvp, symbolic_zeros=True)
def _weighted_jvp(window, strides, pads, dilation, primals, tangents):
    x, weights = primals
    y = _weighted(x, weights, window, strides, pads, dilation)

    @partial(jax.checkpoint, prevent_cse=False)  # keeps x for the backward pass, not its windows
    def weights_tangent(x, dweights):
        return _tangent(partial(_weights_gradient, x, window, strides, pads, dilation), y, dweights)

    def input_gradient(dy):
        around = _transposed_pads(x.shape[1:3], window, strides, pads, dilation, dy.shape[1:3])
        spaced = [(lo, hi, stride - 1) for (lo, hi), stride in zip(around, strides, strict=True)]
        dy = lax.optimization_barrier(lax.pad(dy, dy.dtype.type(0), [(0, 0, 0), *spaced, (0, 0, 0)]))
        return _weighted(dy, weights[::-1], window, (1, 1), ((0, 0), (0, 0)), dilation)

    return y, _sum(tangents, partial(_tangent, input_gradient, y), partial(weights_tangent, x))


def _weights_gradient(x, window, strides, pads, dilation, dy):
    """Return [kh * kw, C] of dy [N, H', W', C].

    XLA's CPU compiler adds up parts of the batch as arrays, which is faster than its sums over all pixels.
    """
    x, dy = lax.optimization_barrier(x), lax.optimization_barrier(dy)
    products = [seen * dy for seen in windows(x, window, strides, pads, dilation)]
    sums = lax.optimization_barrier([sum(jnp.split(each, math.gcd(len(x), PARTS))) for each in products])
    return jnp.stack(lax.optimization_barrier([each.sum((0, 1, 2)) for each in sums]))


def _groups(x, kernel, strides, pads, dilation, groups):
    """Compute the groups side by side, or many one after the other, each in the way that is fast for its shapes.

    Narrow groups are joined to wider ones, with zeros where one does not see another's channels.
    """
    joined = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * kernel.shape[2] <= JOINED))
    count = groups // joined
    kernels = kernel.reshape(*kernel.shape[:3], count, joined, -1)
    kernels = jnp.einsum("ijcgmo,mn->gijmcno", kernels, jnp.eye(joined, dtype=kernel.dtype), precision="highest")
    kernels = kernels.reshape(count, *kernel.shape[:2], x.shape[3] // count, -1)
    padded = [n + sum(pad) for n, pad in zip(x.shape[1:3], pads, strict=True)]
    height, width = (len(range(n)[taps(n, *each)[0]])
                     for n, *each in zip(padded, kernel.shape[:2], strides, dilation, strict=True))
    way = choose_convolution(kernels.shape[1:], strides, pads, 1, kernels.shape[3], (height, width))

    def convolve(pair):
        return CONVOLUTIONS[way](*pair, strides, pads, dilation, 1)

    if count <= FEW_GROUPS:
        images = lax.optimization_barrier(jnp.split(x, count, axis=3))
        results = [convolve(pair) for pair in zip(images, kernels, strict=True)]
        return jnp.concatenate(lax.optimization_barrier(results), axis=3)
    y = lax.map(convolve, (jnp.moveaxis(x.reshape(*x.shape[:3], count, x.shape[3] // count), 3, 0), kernels))
    return jnp.moveaxis(y, 0, 3).reshape(*y.shape[1:4], kernel.shape[3])


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _rows(x, kernel, strides, pads, dilation, groups):
    """Compute `_canonical` with the kernel's rows as outputs of one kernel of a single row, shifted and added.

    XLA copies every patch into a matrix. Here a patch has one row, and its copy is shared by as many more outputs.
    """
    if x.dtype.itemsize < 4:  # the sum would be rounded at every row
        return _library(x, kernel, strides, pads, dilation)
    kh, kw, channels, outputs = kernel.shape
    (top, bottom), sides = pads
    height = x.shape[1] + top + bottom - (kh - 1) * dilation[0]  # of the result, before strides
    single = kernel.transpose(1, 2, 0, 3).reshape(1, kw, channels, kh * outputs)
    parts = jnp.split(lax.optimization_barrier(
        _correlate(x, single, (1, strides[1]), ((0, 0), sides), rhs_dilation=(1, dilation[1]))), kh, axis=3)
    above = [top - row * dilation[0] for row in range(kh)]
    first, *others = (
        lax.pad(part, part.dtype.type(0), ((0, 0, 0), (n, height - x.shape[1] - n, 0), (0, 0, 0), (0, 0, 0)))
        for part, n in zip(parts, above, strict=True))
    return sum(others, first)[:, ::strides[0]]


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _canonical(x, kernel, strides, pads, dilation, groups):
    """Compute XLA's convolution, with gradients that are convolutions of images NHWC with kernels HWIO too.

    JAX's own gradients order dimensions in other ways. XLA's CPU compiler can reorder those outside of loops only;
    inside a loop (a scanned stage, accumulated gradients) it falls back to code that is ten times slower.
    """
    return _library(x, kernel, strides, pads, dilation)


def _convolution_jvp(convolve, strides, pads, dilation, groups, primals, tangents):
    x, kernel = primals
    y = convolve(x, kernel, strides, pads, dilation, groups)

    def input_gradient(dy):
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        if strides == (1, 1) and _few_outputs(flipped.shape):
            around = _transposed_pads(x.shape[1:3], flipped.shape[:2], strides, pads, dilation, dy.shape[1:3])
            return _rows(dy, flipped, strides, tuple(around), dilation, groups)
        return transposed(dy, flipped, x.shape[1:3], strides, pads, dilation)

    @partial(jax.checkpoint, prevent_cse=False)  # keeps x for the backward pass, not its transpose
    def kernel_tangent(x, dkernel):
        return _tangent(partial(_kernel_gradient, x, kernel.shape[:2], strides, pads, dilation), y, dkernel)

    return y, _sum(tangents, partial(_tangent, input_gradient, y), partial(kernel_tangent, x))


_rows.defjvp(partial(_convolution_jvp, _rows), symbolic_zeros=True)
_canonical.defjvp(partial(_convolution_jvp, _canonical), symbolic_zeros=True)


def _transposed_pads(size, window, strides, pads, dilation, out):
    """Return the padding of the output's gradient, its pixels `strides` apart, for the convolution that gives x's."""
    extents = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]
    return [(extent - lo, n - 1 + lo - (o - 1) * stride)
            for extent, n, (lo, _), o, stride in zip(extents, size, pads, out, strides, strict=True)]


def transposed(dy: jax.Array, flipped: jax.Array, size: Sequence[int], strides: Sequence[int], pads: Pads,
               dilation: Sequence[int], groups: int = 1) -> jax.Array:
    """Return [N, *size, C] of dy [N, H', W', O]: the flipped kernel over dy, whose pixels lie `strides` apart.

    If padding exceeds the extent of the kernel, the padding here is negative, and lax cuts pixels off.
    """
    around = _transposed_pads(size, flipped.shape[:2], strides, pads, dilation, dy.shape[1:3])
    return _correlate(dy, flipped, (1, 1), around, lhs_dilation=strides, rhs_dilation=dilation,
                      feature_group_count=groups)


def _kernel_gradient(x, window, strides, pads, dilation, dy):
    """Return [kh, kw, C, O] of dy [N, H', W', O]: dy as a kernel over x, with images and channels exchanged.

    Where dy has fewer channels, x is the kernel and dy the image: XLA has to transpose the image and the result, so
    the image should be the smaller of the two.
    """
    x, dy = lax.optimization_barrier(x), lax.optimization_barrier(dy)
    if strides == (1, 1) and dy.shape[3] < x.shape[3]:
        around = _transposed_pads(x.shape[1:3], window, strides, pads, dilation, dy.shape[1:3])
        gradient = _correlate(dy.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3), dilation, around)
        return gradient[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    around = [(lo, (o - 1) * stride + (k - 1) * d + 1 - n - lo) for k, d, n, (lo, _), o, stride
              in zip(window, dilation, x.shape[1:3], pads, dy.shape[1:3], strides, strict=True)]
    gradient = _correlate(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), dilation, around, rhs_dilation=strides)
    return gradient.transpose(1, 2, 0, 3)


# Those that add the parts of a gradient, or of the result, one after the other; the groups may be such convolutions.
ADD_PARTS = ("patches", "bands", "shifts", "groups")
# name -> (x, kernel, strides, pads, dilation, groups) -> [N, H', W', O]
CONVOLUTIONS: dict[str, Callable[..., jax.Array]] = {
    "library": _library, "product": _product, "patches": _patches, "bands": _bands, "shifts": _shifts,
    "rows": _rows, "canonical": _canonical, "groups": _groups}
