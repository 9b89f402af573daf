"""Convolutions as pure functions. Images are NHWC, kernels HWIO; no state, any float dtype.

As in every deep-learning library, "convolution" is cross-correlation: the kernel is not flipped.
"""
from collections.abc import Sequence
from numbers import Integral

import jax
import jax.numpy as jnp
from jax import lax

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
    output_size(x.shape[1:3], kernel.shape[:2], strides, pads, dilation)
    y = lax.conv_general_dilated(x, kernel, strides, pads, rhs_dilation=dilation, feature_group_count=groups,
                                 dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y if bias is None else y + bias


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
