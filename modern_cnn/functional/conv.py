"""Convolutions as pure functions: images NHWC, kernels HWIO, any float dtype; the result has the widest of the types.

As in every deep-learning library, "convolution" means cross-correlation: the kernel is not flipped. All functions raise
ValueError for shapes that do not match, and for a window larger than the padded input.
"""
import math
from collections.abc import Sequence
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from modern_cnn.functional import formulations
from modern_cnn.functional.formulations import Pads, Size

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO

Pair = int | Sequence[int]
Padding = int | str | Sequence[Sequence[int]]


def pair(value: Pair, name: str) -> Size:
    """Return (2, 2) for 2 and (2, 3) for (2, 3); raise ValueError, with `name`, if these are not positive integers."""
    both = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(both) != 2 or not all(isinstance(v, Integral) and v >= 1 for v in both):
        raise ValueError(f"{name} must be a positive int or a pair of them (height, width), not {value!r}")
    return both


def explicit_padding(padding: Padding, size: Sequence[int], window: Sequence[int], strides: Sequence[int],
                     dilation: Sequence[int] = (1, 1)) -> Pads:
    """Return padding, given as in `conv2d`, as ((top, bottom), (left, right)) in pixels.

    With 'SAME' the output has ceil(size / stride) pixels. The odd pixel goes to the bottom and to the right, as in
    TensorFlow. Raise ValueError for another string, a negative number, or another structure.
    """
    sides = padding if isinstance(padding, Sequence) else ((padding, padding),) * 2
    if isinstance(padding, str) and padding.upper() == "VALID":
        sides = ((0, 0), (0, 0))
    elif isinstance(padding, str) and padding.upper() == "SAME":
        totals = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
                  for n, k, s, d in zip(size, window, strides, dilation, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    pads = cast(Pads, tuple(tuple(side) if isinstance(side, Sequence) else (side,) for side in sides))
    if len(pads) != 2 or not all(len(p) == 2 and all(isinstance(v, Integral) and v >= 0 for v in p) for p in pads):
        raise ValueError("padding must be an int >= 0, 'SAME', 'VALID' or ((top, bottom), (left, right)), "
                         f"not {padding!r}")
    return pads


def output_size(size: Sequence[int], window: Sequence[int], strides: Sequence[int], pads: Sequence[Sequence[int]],
                dilation: Sequence[int] = (1, 1)) -> Size:
    """Return height and width after a convolution or pooling: floor((n + pad - extent) / stride) + 1.

    Raise ValueError if the window does not fit into the padded input even once.
    """
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    room = [n + sum(p) - e for n, p, e in zip(size, pads, extent, strict=True)]
    if min(room) < 0:
        raise ValueError(f"a window of {extent[0]}x{extent[1]} pixels does not fit into an input of "
                         f"{size[0]}x{size[1]} with padding {tuple(pads)}; the images are too small for this network")
    height, width = (r // s + 1 for r, s in zip(room, strides, strict=True))
    return height, width


def _promoted(*arrays: jax.Array | None) -> list[Any]:
    """Return the arrays, and None where there is none, in the widest of their types."""
    dtype = jnp.result_type(*(jnp.asarray(array) for array in arrays if array is not None))
    return [None if array is None else jnp.asarray(array, dtype) for array in arrays]


def _check_bias(bias: jax.Array | None, *shapes: Sequence[int]) -> None:
    if bias is not None and bias.shape not in shapes:
        raise ValueError(f"bias must be {' or '.join(map(str, shapes))}, not {bias.shape}")


def add_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return y [..., O] plus a bias or None, in y's type. The gradient of the bias is summed in at least float32."""
    wide = jnp.promote_types(y.dtype, jnp.float32) if jnp.issubdtype(y.dtype, jnp.floating) else y.dtype
    return y if bias is None else (y.astype(wide) + bias.astype(wide)).astype(y.dtype)


def conv2d(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, strides: Pair = 1,
           padding: Padding = "VALID", dilation: Pair = 1, groups: int = 1) -> jax.Array:
    """Return the two-dimensional convolution of images with a kernel, [N, H', W', O].

    H' = floor((H + pad - dilation * (kh - 1) - 1) / stride) + 1. A 1x1 kernel mixes only channels: it is the dense
    layer `kernel[0, 0]` at every pixel (Lin et al. 2013).

    Args:
      x, kernel, bias: images [N, H, W, C], [kh, kw, C // groups, O], and [O] or None.
      strides, dilation: an int or (height, width), in pixels.
      padding: an int (every side), 'SAME', 'VALID' or ((top, bottom), (left, right)); zeros are added. PyTorch's
        `padding=p` is the int p; 'SAME' with a stride above 1 pads bottom and right more than PyTorch does.
      groups: input and output channels form this many independent groups; C gives a depthwise convolution.
    """
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError("conv2d takes images [N, H, W, C] and a kernel [kh, kw, C // groups, O], "
                         f"not {x.shape} and {kernel.shape}")
    if (not isinstance(groups, Integral) or groups < 1 or kernel.shape[2] * groups != x.shape[3]
            or kernel.shape[3] % groups or 0 in kernel.shape):
        raise ValueError(f"kernel {kernel.shape} with groups={groups} does not fit {x.shape[3]} input channels: its "
                         "third size times groups must equal them, groups must divide its fourth, and no size is 0")
    x, kernel, bias = _promoted(x, kernel, bias)
    _check_bias(bias, kernel.shape[3:])
    strides, dilation = pair(strides, "strides"), pair(dilation, "dilation")
    pads = explicit_padding(padding, x.shape[1:3], kernel.shape[:2], strides, dilation)
    out = output_size(x.shape[1:3], kernel.shape[:2], strides, pads, dilation)
    way = formulations.choose_convolution(kernel.shape, strides, pads, groups, x.shape[3], out)
    dtype = x.dtype
    rounds = way in formulations.ADD_PARTS and dtype in (jnp.bfloat16, jnp.float16)  # at each sum
    if rounds:
        x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    convolve = partial(formulations.CONVOLUTIONS[way], x, kernel, strides, pads, dilation, groups)
    y = convolve(bias) if way == "bands" else convolve()  # there the bias is a part of the product
    y = y if way == "bands" else add_bias(y, bias)
    return y.astype(dtype)


def depthwise_conv2d(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, strides: Pair = 1,
                     padding: Padding = "VALID", dilation: Pair = 1) -> jax.Array:
    """Return the depthwise convolution, [N, H', W', C * M]: each channel has its own kernels, and they are not mixed.

    x is images [N, H, W, C], bias [C * M] or None, and kernel [kh, kw, C, M], TensorFlow's layout: M kernels for each
    channel. Output channel c * M + m is input channel c filtered by kernel[:, :, c, m]. The rest is as in `conv2d`.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2] != x.shape[3] or 0 in kernel.shape:
        raise ValueError("depthwise_conv2d takes images [N, H, W, C] and a kernel [kh, kw, C, M], "
                         f"not {x.shape} and {kernel.shape}; no size of the kernel may be 0")
    kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return conv2d(x, kernel, bias, strides=strides, padding=padding, dilation=dilation, groups=x.shape[3])


def separable_conv2d(x: jax.Array, depthwise_kernel: jax.Array, pointwise_kernel: jax.Array,
                     bias: jax.Array | None = None, *, strides: Pair = 1, padding: Padding = "VALID",
                     dilation: Pair = 1) -> jax.Array:
    """Return the depthwise separable convolution: `depthwise_conv2d` over pixels, then a 1x1 `conv2d` over channels.

    With O outputs it has kh * kw * C + C * O weights (for M = 1) instead of kh * kw * C * O. There is nothing between
    the two, as in TensorFlow's separable_conv2d; MobileNet (Howard et al. 2017) has batch norm and ReLU there.

    x is images [N, H, W, C], depthwise_kernel [kh, kw, C, M], pointwise_kernel [1, 1, C * M, O], bias [O] or None, and
    the result [N, H', W', O]. Strides, padding and dilation are those of the depthwise convolution.
    """
    y = depthwise_conv2d(x, depthwise_kernel, strides=strides, padding=padding, dilation=dilation)
    if pointwise_kernel.ndim != 4 or pointwise_kernel.shape[:3] != (1, 1, y.shape[3]):
        raise ValueError(f"after {y.shape[3]} depthwise channels the pointwise kernel is [1, 1, {y.shape[3]}, O], "
                         f"not {pointwise_kernel.shape}")
    return conv2d(y, pointwise_kernel, bias)


def conv2d_transpose(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, strides: Pair = 1,
                     padding: Padding = "VALID", output_padding: Pair = 0, dilation: Pair = 1,
                     groups: int = 1) -> jax.Array:
    """Return the transposed convolution: the transpose, as a linear map, of `conv2d` with the same kernel and options.

    Every input pixel adds the kernel, times its value, to the window of the output from which `conv2d` computes that
    pixel. This restores the shape, not the values: it is not an inverse (not a "deconvolution"). The result is
    [N, H', W', O] with H' = (H - 1) * stride + dilation * (kh - 1) + 1 - pad + output_padding; for 'SAME' (TensorFlow's
    rule) H' = H * stride. Raise ValueError also for an output_padding out of bounds or with 'SAME', or an empty output.

    Args:
      x, bias: images [N, H, W, C], as `conv2d` returns them, and [O] or None.
      kernel: [kh, kw, O // groups, C], the kernel of the forward convolution: its input channels are the output
        channels here. It is `weight.transpose(2, 3, 1, 0)` of PyTorch's [C, O // groups, kh, kw]; TensorFlow has the
        same layout.
      strides, dilation, groups: as in `conv2d`; the stride is the distance between the input pixels in the output.
      padding: as in `conv2d`; here it is cut off the output. 'VALID' cuts off nothing.
      output_padding: additional rows and columns at the bottom and right, an int or (height, width), less than the
        larger of stride and dilation. A strided `conv2d` gives the same size for several input sizes; this chooses one.
    """
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError("conv2d_transpose takes images [N, H, W, C] and a kernel [kh, kw, O // groups, C], "
                         f"not {x.shape} and {kernel.shape}")
    if (not isinstance(groups, Integral) or groups < 1 or kernel.shape[3] != x.shape[3] or x.shape[3] % groups
            or 0 in kernel.shape):
        raise ValueError(f"kernel {kernel.shape} with groups={groups} does not fit {x.shape[3]} input channels: "
                         "its fourth size must equal them, groups must divide them, and no size is 0")
    x, kernel, bias = _promoted(x, kernel, bias)
    _check_bias(bias, (kernel.shape[2] * groups,))
    strides, dilation = pair(strides, "strides"), pair(dilation, "dilation")
    extra = tuple(output_padding) if isinstance(output_padding, Sequence) else (output_padding,) * 2
    if len(extra) != 2 or not all(isinstance(e, Integral) and 0 <= e < max(s, d)
                                  for e, s, d in zip(extra, strides, dilation, strict=True)):
        raise ValueError("output_padding must be an int or (height, width), at least 0 and less than the larger of "
                         f"strides {strides} and dilation {dilation}, not {output_padding!r}")
    size, window = x.shape[1:3], kernel.shape[:2]
    out = [n * s for n, s in zip(size, strides, strict=True)]
    pads = explicit_padding(padding, out, window, strides, dilation)
    if not isinstance(padding, str) or padding.upper() != "SAME":
        out = [(n - 1) * s + (k - 1) * d + 1 - sum(p) + e
               for n, s, k, d, p, e in zip(size, strides, window, dilation, pads, extra, strict=True)]
    elif any(extra):
        raise ValueError(f"padding 'SAME' fixes the output size; output_padding must be 0, not {output_padding}")
    if min(out) < 1:
        raise ValueError(f"padding {pads} leaves no pixel: the output would be {out[0]}x{out[1]}; use less padding")
    # Within each group, input and output channels are exchanged.
    flipped = kernel.reshape(*kernel.shape[:3], groups, -1).transpose(0, 1, 4, 3, 2)[::-1, ::-1]
    flipped = flipped.reshape(*window, x.shape[3] // groups, -1)
    return add_bias(formulations.transposed(x, flipped, out, strides, pads, dilation, groups), bias)


def conv2d_matrix(kernel: jax.Array, input_shape: Sequence[int], *, strides: Pair = 1, padding: Padding = "VALID",
                  dilation: Pair = 1) -> "BCOO":
    """Return the sparse matrix [H' * W' * O, H * W * C] of a convolution as a linear map.

    For one image, `matrix @ x.ravel()` is `conv2d(x)` and `matrix.T @ y.ravel()` is `conv2d_transpose(y)`, flattened.
    A row holds the weights of one output value, each in the column of the input value that it multiplies; weights that
    fall into the padding are left out, and `.todense()` includes the zeros. The matrix is differentiable with respect
    to kernel [kh, kw, C, O]; input_shape is (H, W, C) of one image, and the rest is as in `conv2d`.
    """
    from jax.experimental.sparse import BCOO  # the import takes 0.2 s, and only this function needs it

    if kernel.ndim != 4 or len(input_shape) != 3 or kernel.shape[2] != input_shape[2]:
        raise ValueError("conv2d_matrix takes a kernel [kh, kw, C, O] and an input_shape (H, W, C), "
                         f"not {kernel.shape} and {tuple(input_shape)}")
    size, window, (channels, features) = input_shape[:2], kernel.shape[:2], kernel.shape[2:]
    strides, dilation = pair(strides, "strides"), pair(dilation, "dilation")
    pads = explicit_padding(padding, size, window, strides, dilation)
    out = output_size(size, window, strides, pads, dilation)
    reads = [np.arange(o)[:, None] * s - lo + np.arange(k) * d  # [output, tap] -> input, an axis at a time
             for o, s, (lo, _), k, d in zip(out, strides, pads, window, dilation, strict=True)]
    inside = [(r >= 0) & (r < n) for r, n in zip(reads, size, strict=True)]
    y, x, ky, kx = np.nonzero(inside[0][:, None, :, None] & inside[1][:, None, :])
    target, source = y * out[1] + x, reads[0][y, ky] * size[1] + reads[1][x, kx]
    rows, columns = np.broadcast_arrays(target[:, None, None] * features + np.arange(features)[:, None],
                                        source[:, None, None] * channels + np.arange(channels))
    order = np.lexsort((columns.ravel(), rows.ravel()))
    values = jnp.asarray(kernel)[ky, kx].swapaxes(1, 2).ravel()[order]
    indices = jnp.asarray(np.stack([rows, columns], -1).reshape(-1, 2)[order])
    return BCOO((values, indices), shape=(math.prod(out) * features, math.prod(input_shape)), indices_sorted=True,
                unique_indices=True)


def locally_connected2d(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, strides: Pair = 1,
                        padding: Padding = "VALID") -> jax.Array:
    """Return a convolution without shared weights: every output pixel has its own kernel.

    It lies between a dense layer (all pixels, nothing shared) and a convolution (a window, one kernel for all). x is
    images [N, H, W, C], kernel [H', W', kh, kw, C, O], bias [H', W', O], [O] or None, and the result [N, H', W', O].
    """
    if x.ndim != 4 or kernel.ndim != 6 or kernel.shape[4] != x.shape[3] or 0 in kernel.shape:
        raise ValueError("locally_connected2d takes images [N, H, W, C] and a kernel [H', W', kh, kw, C, O], "
                         f"not {x.shape} and {kernel.shape}; no size of the kernel may be 0")
    strides, window = pair(strides, "strides"), kernel.shape[2:4]
    pads = explicit_padding(padding, x.shape[1:3], window, strides)
    out = output_size(x.shape[1:3], window, strides, pads)
    if out != kernel.shape[:2]:
        raise ValueError(f"the output is {out[0]}x{out[1]} pixels "
                         f"but the kernel holds weights for {kernel.shape[0]}x{kernel.shape[1]}")
    x, kernel, bias = _promoted(x, kernel, bias)
    _check_bias(bias, (*out, kernel.shape[5]), kernel.shape[5:])
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    patches = jnp.stack([
        x[:, i:i + (out[0] - 1) * strides[0] + 1:strides[0], j:j + (out[1] - 1) * strides[1] + 1:strides[1]]
        for i in range(window[0]) for j in range(window[1])], axis=3)
    y = jnp.einsum("nhwkc,hwkco->nhwo", patches, kernel.reshape(*out, -1, *kernel.shape[4:]))
    return add_bias(y, bias)
