"""Pooling as pure functions of NHWC images. Strides are the window by default, as in PyTorch and Keras."""
import jax
import jax.numpy as jnp
import numpy as np

from modern_cnn.functional import pool_formulations
from modern_cnn.functional.conv import Padding, Pair, explicit_padding, output_size, pair
from modern_cnn.functional.formulations import Pads, Size


def _geometry(x: jax.Array, window_shape: Pair, strides: Pair | None, padding: Padding,
              ceil_mode: bool) -> tuple[Size, Size, Pads, list[int]]:
    """Return (window, strides, padding, extra): `extra` [bottom, right] is what ceil_mode adds to the padding."""
    if x.ndim != 4:
        raise ValueError(f"pooling takes images [N, H, W, C], not {x.shape}")
    window = pair(window_shape, "window_shape")
    strides = window if strides is None else pair(strides, "strides")
    size = x.shape[1:3]
    pads = explicit_padding(padding, size, window, strides)
    if any(max(p) >= k for p, k in zip(pads, window, strict=True)):
        raise ValueError(f"padding {pads} is not smaller than the window {window}: some windows would hold no pixel")
    # PyTorch's rule for ceil_mode: no window starts beyond the input and its left padding
    windows = [min(-(-(n + sum(p) - k) // s) + 1, -(-(n + p[0]) // s))
               for n, k, s, p in zip(size, window, strides, pads, strict=True)]
    if not ceil_mode or min(windows) < 1:
        output_size(size, window, strides, pads)  # raises an error where no window fits
    extra = [max(0, (count - 1) * s + k - n - sum(p)) if ceil_mode else 0
             for count, n, k, s, p in zip(windows, size, window, strides, pads, strict=True)]
    (top, bottom), (left, right) = pads
    return window, strides, ((top, bottom + extra[0]), (left, right + extra[1])), extra


@jax.named_scope("max_pool")
def max_pool(x: jax.Array, window_shape: Pair, strides: Pair | None = None, padding: Padding = "VALID", *,
             ceil_mode: bool = False) -> jax.Array:
    """Return the largest value of each window, [N, H', W', C]; the first among equals gets the gradient.

    Raise ValueError if the window does not fit.

    Args:
      x: images [N, H, W, C]; padded with minus infinity.
      window_shape, strides: an int or (height, width), in pixels; strides None: the window.
      padding: as in `conv2d`, and smaller than the window.
      ceil_mode: keep a last window that reaches over the bottom or right edge (PyTorch's rule: it must start inside).
    """
    x = jnp.asarray(x)
    window, strides, pads, _ = _geometry(x, window_shape, strides, padding, ceil_mode)
    return pool_formulations.MAX_POOLINGS[pool_formulations.choose_pooling()](x, window, strides, pads)


@jax.named_scope("avg_pool")
def avg_pool(x: jax.Array, window_shape: Pair, strides: Pair | None = None, padding: Padding = "VALID", *,
             ceil_mode: bool = False, count_include_pad: bool = True) -> jax.Array:
    """Return the mean of each window, [N, H', W', C], summed in at least float32; the padding is zeros.

    `count_include_pad` divides by the size of the window with its padding (PyTorch's and Flax's default; the pixels
    that `ceil_mode` adds are never counted); False: by the number of its pixels in the image (TensorFlow's rule). The
    rest is as in `max_pool`.
    """
    x = jnp.asarray(x)
    window, strides, pads, extra = _geometry(x, window_shape, strides, padding, ceil_mode)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    total = pool_formulations.window_sums(wide, window, strides, pads)
    counts = []  # pixels in each window along each axis, in numpy: shapes are static
    for n, k, s, (lo, hi), added, windows in zip(x.shape[1:3], window, strides, pads, extra, total.shape[1:3],
                                                 strict=True):
        first, last = (-lo, n + hi - added) if count_include_pad else (0, n)
        start = np.arange(windows) * s - lo
        counts.append(np.minimum(start + k, last) - np.maximum(start, first))
    return (total / jnp.asarray(np.outer(*counts)[:, :, None], total.dtype)).astype(x.dtype)


@jax.named_scope("global_avg_pool")
def global_avg_pool(x: jax.Array) -> jax.Array:
    """Return the mean over height and width, [N, H, W, C] -> [N, C], in at least float32 (Lin et al. 2013, 3.2)."""
    if x.ndim != 4:
        raise ValueError(f"pooling takes images [N, H, W, C], not {x.shape}")
    x = jnp.asarray(x)
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)


@jax.named_scope("adaptive_avg_pool")
def adaptive_avg_pool(x: jax.Array, output_size: Pair) -> jax.Array:
    """Return means over windows, [N, H, W, C] -> [N, *output_size, C], summed in at least float32.

    The windows follow from `output_size`, an int or (height, width): window i along an axis of n pixels and o outputs
    is [floor(i n / o), ceil((i + 1) n / o)), as in PyTorch. Windows overlap if o does not divide n, and repeat pixels
    if o > n. Raise ValueError for another rank, or an output_size that is not positive.
    """
    if x.ndim != 4:
        raise ValueError(f"pooling takes images [N, H, W, C], not {x.shape}")
    x = jnp.asarray(x)
    wanted, dtype = pair(output_size, "output_size"), x.dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
    for axis, (n, o) in enumerate(zip(x.shape[1:3], wanted, strict=True), start=1):
        if n % o:
            weights = np.zeros((o, n))
            for i in range(o):
                weights[i, i * n // o:-(-(i + 1) * n // o)] = 1
            weights = jnp.asarray(weights / weights.sum(axis=1, keepdims=True), x.dtype)
            # 'highest': on a GPU or TPU the default would round the images to TF32 or bfloat16
            x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis), precision="highest"), 0, axis)
        elif n != o:
            x = x.reshape(*x.shape[:axis], o, n // o, *x.shape[axis + 1:]).mean(axis=axis + 1)
    return x.astype(dtype)
