"""Convolutions as pure functions. Images are NHWC, kernels HWIO; no state, any float dtype.

As in every deep-learning library, "convolution" is cross-correlation: the kernel is not flipped.
"""
import math
from collections.abc import Sequence
from numbers import Integral

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modern_cnn.functional import formulations

Pair = int | Sequence[int]
Padding = int | str | Sequence[Sequence[int]]


def pair(value: Pair, name: str) -> tuple[int, int]:
    """`2 -> (2, 2)`; `(2, 3) -> (2, 3)`. Raises ValueError for anything but one or two positive integers."""
    both = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(both) != 2 or not all(isinstance(v, Integral) and v >= 1 for v in both):
        raise ValueError(f"{name} must be a positive int or a pair of them (height, width), not {value!r}")
    return both


def explicit_padding(padding: Padding, size: Sequence[int], window: Sequence[int], strides: Sequence[int],
                     dilation: Sequence[int] = (1, 1)) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding as ((top, bottom), (left, right)) in pixels.

    Args:
      padding: an int (every side), 'SAME' (output ceil(size / stride); where the total is odd the extra pixel goes
        bottom and right, as in TensorFlow), 'VALID' (none), or ((top, bottom), (left, right)).
      size, window, strides, dilation: height and width of each.
    Raises:
      ValueError: another string, or a negative or misshapen padding.
    """
    problem = f"padding must be an int >= 0, 'SAME', 'VALID' or ((top, bottom), (left, right)), not {padding!r}"
    if isinstance(padding, str):
        if padding.upper() == "VALID":
            return (0, 0), (0, 0)
        if padding.upper() != "SAME":
            raise ValueError(problem)
        total = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
                 for n, k, s, d in zip(size, window, strides, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    sides = padding if isinstance(padding, Sequence) else ((padding, padding),) * 2
    pads = tuple(tuple(side) if isinstance(side, Sequence) else (side,) for side in sides)
    if len(pads) != 2 or not all(len(p) == 2 and all(isinstance(v, Integral) and v >= 0 for v in p) for p in pads):
        raise ValueError(problem)
    return pads


def output_size(size: Sequence[int], window: Sequence[int], strides: Sequence[int],
                pads: Sequence[tuple[int, int]], dilation: Sequence[int] = (1, 1)) -> tuple[int, int]:
    """Height and width after a convolution or pooling: floor((n + pad - extent) / stride) + 1.

    Raises:
      ValueError: the window does not fit into the padded input even once.
    """
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    room = [n + sum(p) - e for n, p, e in zip(size, pads, extent, strict=True)]
    if min(room) < 0:
        raise ValueError(f"a window of {extent[0]}x{extent[1]} pixels does not fit into an input of "
                         f"{size[0]}x{size[1]} with padding {tuple(pads)}; the images are too small for this network")
    return tuple(r // s + 1 for r, s in zip(room, strides, strict=True))


def conv2d(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, strides: Pair = 1,
           padding: Padding = "VALID", dilation: Pair = 1, groups: int = 1) -> jax.Array:
    """Two-dimensional convolution.

    A 1x1 kernel mixes channels alone: it is the dense layer `kernel[0, 0]` at every pixel (Lin et al. 2013).

    Args:
      x: images [N, H, W, C].
      kernel: [kh, kw, C // groups, O].
      bias: [O], or None.
      strides, dilation: an int or (height, width), in pixels.
      padding: an int (every side), 'SAME', 'VALID' or ((top, bottom), (left, right)); zeros are added. PyTorch's
        `padding=p` is the int p; 'SAME' with a stride above 1 pads bottom and right more than PyTorch does.
      groups: input and output channels are split into this many independent groups; C gives a depthwise convolution.
    Returns:
      [N, H', W', O] with H' = floor((H + pad - dilation * (kh - 1) - 1) / stride) + 1.
    Raises:
      ValueError: shapes that do not agree, or a window larger than the padded input.
    """
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError("conv2d takes images [N, H, W, C] and a kernel [kh, kw, C // groups, O], "
                         f"not {x.shape} and {kernel.shape}")
    if groups < 1 or kernel.shape[2] * groups != x.shape[3] or kernel.shape[3] % groups:
        raise ValueError(f"kernel {kernel.shape} with groups={groups} does not fit {x.shape[3]} input channels: "
                         "its third size times groups must equal them, and groups must divide its fourth")
    strides, dilation = pair(strides, "strides"), pair(dilation, "dilation")
    pads = explicit_padding(padding, x.shape[1:3], kernel.shape[:2], strides, dilation)
    out = output_size(x.shape[1:3], kernel.shape[:2], strides, pads, dilation)
    way = formulations.convolution(kernel.shape, strides, pads, groups, x.shape[3], out)
    return formulations.convolve(way, x, kernel, bias, strides, pads, dilation, groups)


def depthwise_conv2d(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, strides: Pair = 1,
                     padding: Padding = "VALID", dilation: Pair = 1) -> jax.Array:
    """A convolution that leaves channels apart: each one is filtered by kernels of its own.

    Args:
      x: images [N, H, W, C].
      kernel: [kh, kw, C, M], TensorFlow's layout: M kernels a channel. Output channel c * M + m is input channel c
        with kernel[:, :, c, m].
      bias: [C * M], or None.
      strides, padding, dilation: as in `conv2d`.
    Returns:
      [N, H', W', C * M].
    Raises:
      ValueError: shapes that do not agree, or a window larger than the padded input.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2] != x.shape[3]:
        raise ValueError("depthwise_conv2d takes images [N, H, W, C] and a kernel [kh, kw, C, M], "
                         f"not {x.shape} and {kernel.shape}")
    kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return conv2d(x, kernel, bias, strides=strides, padding=padding, dilation=dilation, groups=x.shape[3])


def separable_conv2d(x: jax.Array, depthwise_kernel: jax.Array, pointwise_kernel: jax.Array,
                     bias: jax.Array | None = None, *, strides: Pair = 1, padding: Padding = "VALID",
                     dilation: Pair = 1) -> jax.Array:
    """Depthwise separable convolution: `depthwise_conv2d` looks around, a 1x1 `conv2d` mixes the channels.

    With O outputs it needs kh * kw * C + C * O weights (for M = 1) instead of kh * kw * C * O. Nothing comes between
    the two, as in TensorFlow's separable_conv2d; MobileNet (Howard et al. 2017) puts batch norm and ReLU there.

    Args:
      x: images [N, H, W, C].
      depthwise_kernel: [kh, kw, C, M].
      pointwise_kernel: [1, 1, C * M, O].
      bias: [O], or None.
      strides, padding, dilation: of the depthwise convolution, as in `conv2d`.
    Returns:
      [N, H', W', O].
    Raises:
      ValueError: shapes that do not agree, or a window larger than the padded input.
    """
    y = depthwise_conv2d(x, depthwise_kernel, strides=strides, padding=padding, dilation=dilation)
    if pointwise_kernel.ndim != 4 or pointwise_kernel.shape[:3] != (1, 1, y.shape[3]):
        raise ValueError(f"after {y.shape[3]} depthwise channels the pointwise kernel is [1, 1, {y.shape[3]}, O], "
                         f"not {pointwise_kernel.shape}")
    return conv2d(y, pointwise_kernel, bias)


def conv2d_transpose(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, strides: Pair = 1,
                     padding: Padding = "VALID", output_padding: Pair = 0, dilation: Pair = 1,
                     groups: int = 1) -> jax.Array:
    """Transposed convolution: the transpose of `conv2d` with the very same kernel and options, as a linear map.

    Every input pixel adds the kernel, times its value, to a window of the output: what `conv2d` read to make that
    pixel. So shapes turn around, while values do not come back: it is no inverse (not a "deconvolution").

    Args:
      x: images [N, H, W, C], as `conv2d` returns them.
      kernel: [kh, kw, O // groups, C]: the forward convolution's, whose input channels are the output's here. It is
        `weight.transpose(2, 3, 1, 0)` of PyTorch's [C, O // groups, kh, kw], and TensorFlow's as it stands.
      bias: [O], or None.
      strides, dilation: as in `conv2d`, whose stride is how far apart the input pixels come to lie here.
      padding: as in `conv2d`, and so taken away from the output here. 'VALID' takes nothing.
      output_padding: rows and columns more at the bottom and right, an int or (height, width), less than the larger of
        stride and dilation: a strided `conv2d` gives the same size for several sizes of input, and this chooses one.
      groups: as in `conv2d`.
    Returns:
      [N, H', W', O] with H' = (H - 1) * stride + dilation * (kh - 1) + 1 - pad + output_padding, and for 'SAME'
      (TensorFlow's rule) H' = H * stride.
    Raises:
      ValueError: shapes that do not agree, an output_padding out of bounds or with 'SAME', or no pixel left.
    """
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError("conv2d_transpose takes images [N, H, W, C] and a kernel [kh, kw, O // groups, C], "
                         f"not {x.shape} and {kernel.shape}")
    if groups < 1 or kernel.shape[3] != x.shape[3] or x.shape[3] % groups:
        raise ValueError(f"kernel {kernel.shape} with groups={groups} does not fit {x.shape[3]} input channels: "
                         "its fourth size must equal them, and groups must divide them")
    strides, dilation = pair(strides, "strides"), pair(dilation, "dilation")
    extra = tuple(output_padding) if isinstance(output_padding, Sequence) else (output_padding,) * 2
    if len(extra) != 2 or not all(isinstance(e, Integral) and 0 <= e < max(s, d)
                                  for e, s, d in zip(extra, strides, dilation, strict=True)):
        raise ValueError("output_padding must be an int or (height, width), at least 0 and less than the larger of "
                         f"strides {strides} and dilation {dilation}, not {output_padding!r}")
    size, window = x.shape[1:3], kernel.shape[:2]
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    full = [(n - 1) * s + e for n, s, e in zip(size, strides, extent, strict=True)]
    out = [n * s for n, s in zip(size, strides, strict=True)]
    pads = explicit_padding(padding, out, window, strides, dilation)
    if isinstance(padding, str) and padding.upper() == "SAME":
        if any(extra):
            raise ValueError(f"padding 'SAME' settles the size; output_padding must be 0 with it, not {output_padding}")
        extra = [o - f + sum(p) for o, f, p in zip(out, full, pads, strict=True)]  # not 0 where stride > extent
    out = [f - sum(p) + e for f, p, e in zip(full, pads, extra, strict=True)]
    if min(out) < 1:
        raise ValueError(f"padding {pads} takes all there is: the output would be {out[0]}x{out[1]} pixels")
    # Zeros between the pixels stand for the stride; the flipped kernel, its channels turned around within each group,
    # then slides over them. Padding above the extent comes out negative, which lax takes as cutting off.
    turned = kernel.reshape(*kernel.shape[:3], groups, -1).transpose(0, 1, 4, 3, 2)[::-1, ::-1]
    around = [(e - 1 - lo, e - 1 - hi + more) for e, (lo, hi), more in zip(extent, pads, extra, strict=True)]
    y = lax.conv_general_dilated(x, turned.reshape(*window, x.shape[3] // groups, -1), (1, 1), around,
                                 lhs_dilation=strides, rhs_dilation=dilation, feature_group_count=groups,
                                 dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y if bias is None else y + bias


def conv2d_matrix(kernel: jax.Array, input_shape: Sequence[int], *, strides: Pair = 1, padding: Padding = "VALID",
                  dilation: Pair = 1) -> "jax.experimental.sparse.BCOO":
    """A convolution as the sparse matrix it is, to be looked at and multiplied with.

    `matrix @ x.ravel()` is `conv2d(x)` and `matrix.T @ y.ravel()` is `conv2d_transpose(y)`, each of one image and
    flattened. A row holds the weights of one output value, each in the column of the input value it multiplies; those
    that fall into the padding are left out.

    Args:
      kernel: [kh, kw, C, O]; the matrix is differentiable with respect to it.
      input_shape: (H, W, C) of one image.
      strides, padding, dilation: as in `conv2d`.
    Returns:
      [H' * W' * O, H * W * C]; `.todense()` shows the zeros too.
    Raises:
      ValueError: shapes that do not agree, or a window larger than the padded input.
    """
    from jax.experimental.sparse import BCOO  # a fifth of a second, which nobody else should wait for

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
    indices = np.stack([rows, columns], -1).reshape(-1, 2)[order]
    return BCOO((values, indices), shape=(math.prod(out) * features, math.prod(input_shape)), indices_sorted=True,
                unique_indices=True)


def locally_connected2d(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, strides: Pair = 1,
                        padding: Padding = "VALID") -> jax.Array:
    """A convolution whose weights are not shared: every output pixel has a kernel of its own.

    The step between a dense layer (all pixels, no sharing) and a convolution (a window, one kernel for all).

    Args:
      x: images [N, H, W, C].
      kernel: [H', W', kh, kw, C, O], a kernel for each of the H' x W' output pixels.
      bias: [H', W', O] or [O], or None.
      strides, padding: as in `conv2d`.
    Returns:
      [N, H', W', O].
    Raises:
      ValueError: shapes that do not agree.
    """
    if x.ndim != 4 or kernel.ndim != 6 or kernel.shape[4] != x.shape[3]:
        raise ValueError("locally_connected2d takes images [N, H, W, C] and a kernel [H', W', kh, kw, C, O], "
                         f"not {x.shape} and {kernel.shape}")
    strides, window = pair(strides, "strides"), kernel.shape[2:4]
    pads = explicit_padding(padding, x.shape[1:3], window, strides)
    out = output_size(x.shape[1:3], window, strides, pads)
    if out != kernel.shape[:2]:
        raise ValueError(f"the output is {out[0]}x{out[1]} pixels "
                         f"but the kernel holds weights for {kernel.shape[0]}x{kernel.shape[1]}")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    patches = jnp.stack([
        x[:, i:i + (out[0] - 1) * strides[0] + 1:strides[0], j:j + (out[1] - 1) * strides[1] + 1:strides[1]]
        for i in range(window[0]) for j in range(window[1])], axis=3)
    y = jnp.einsum("nhwkc,hwkco->nhwo", patches, kernel.reshape(*out, -1, *kernel.shape[4:]))
    return y if bias is None else y + bias
