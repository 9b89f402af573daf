"""Normalisation as pure functions: statistics come in as arrays and go out as arrays.

Which values share a mean and a variance is what tells four of them apart (Wu and He 2018, figure 2): in images
[N, H, W, C] those over (N, H, W) in batch norm, (H, W, C) or C alone in layer norm, (H, W) in instance norm, and
(H, W, channels of a group) in group norm. Only batch norm makes an image's result depend on the others of its batch.
"""
from collections.abc import Sequence
from functools import partial
from numbers import Integral

import jax
import jax.numpy as jnp
from jax import lax


def _wide(x: jax.Array) -> jax.Array:
    """x in the precision of its statistics: float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _standardize(x: jax.Array, axes: Sequence[int], epsilon: float) -> jax.Array:
    """x less its mean and over its deviation along `axes`, in two passes and in the precision of `_wide`."""
    centred = _wide(x)
    centred = centred - jnp.mean(centred, axes, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(jnp.square(centred), axes, keepdims=True) + epsilon)


def _affine(y: jax.Array, scale: jax.Array | None, bias: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    """y * scale + bias as `dtype`. Raises ValueError for a scale or bias that is not [C]."""
    for name, value in (("scale", scale), ("bias", bias)):
        if value is not None and value.shape != y.shape[-1:]:
            raise ValueError(f"{name} must be one number for each of the {y.shape[-1]} channels, not {value.shape}")
    if scale is not None:
        y = y * scale
    if bias is not None:
        y = y + bias
    return y.astype(dtype)


def batch_norm(x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, mean: jax.Array, var: jax.Array, *,
               train: bool, decay: float = 0.9, epsilon: float = 1e-5, unbiased: bool = False,
               axis_name: str | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch normalisation (Ioffe and Szegedy 2015, algorithms 1 and 2).

    In training each channel is normalised by the mean and the biased variance of the batch, and the running
    statistics move: new = decay * old + (1 - decay) * batch. In evaluation the running statistics normalise and come
    back unchanged. Statistics are computed in two passes (the mean, then the mean squared distance from it) and in at
    least float32: the one-pass E[x^2] - E[x]^2 loses all its digits where the mean is large against the deviation.

    Args:
      x: [N, C] or [N, H, W, C].
      scale, bias: gamma and beta, [C], or None for 1 and 0.
      mean, var: running statistics, [C].
      train: normalise by the batch, and update.
      decay: share of the old statistics that is kept; PyTorch's `momentum` is 1 - decay, Keras's and Flax's is decay.
      epsilon: added to the variance; 1e-5 in PyTorch, 1e-3 in Keras.
      unbiased: store n / (n - 1) times the batch's variance, as PyTorch does; Keras, Flax and the textbook store the
        biased one. It never changes what the batch is normalised by.
      axis_name: under pmap or shard_map, average the statistics over this axis; None normalises each device's share
        by itself (under jit a sharded batch is one batch anyway).
    Returns:
      (y, mean, var): y like x; statistics like those that came in.
    Raises:
      ValueError: another rank, or an unbiased variance of a single value.
    """
    if x.ndim not in (2, 4):
        raise ValueError(f"batch_norm takes [N, C] or [N, H, W, C], not {x.shape}")
    if not train:
        factor = lax.rsqrt(var + epsilon) if scale is None else lax.rsqrt(var + epsilon) * scale
        y = (_wide(x) - mean) * factor
        return (y if bias is None else y + bias).astype(x.dtype), mean, var
    count = x.size // x.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
    if unbiased and count < 2:
        raise ValueError("an unbiased variance needs more than one value per channel; this batch has one")
    y, batch_mean, batch_var = _by_batch(x, scale, bias, epsilon, axis_name)
    stored_var = batch_var * (count / (count - 1)) if unbiased else batch_var
    return (y, decay * mean + (1 - decay) * batch_mean.astype(mean.dtype),
            decay * var + (1 - decay) * stored_var.astype(var.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _by_batch(x, scale, bias, epsilon, axis_name):
    """(y, mean, biased variance): x normalised by its own statistics."""
    mean = _batch_mean(_wide(x), axis_name)
    var = _batch_mean(jnp.square(_wide(x) - mean), axis_name)
    factor = lax.rsqrt(var + epsilon) if scale is None else lax.rsqrt(var + epsilon) * scale
    y = (_wide(x) - mean) * factor
    return (y if bias is None else y + bias).astype(x.dtype), mean, var


@_by_batch.defjvp
def _by_batch_jvp(epsilon, axis_name, primals, tangents):
    """Written for its transpose, the gradient of Ioffe and Szegedy 2015, section 3: two sums over the batch, then one
    pass. JAX's own takes twice as many and keeps three arrays like x."""
    (x, scale, bias), (dx, dscale, dbias) = primals, tangents
    y, mean, var = _by_batch(x, scale, bias, epsilon, axis_name)
    centred, dx = _wide(x) - mean, _wide(dx)
    dmean, dvar = _batch_mean(dx, axis_name), 2 * _batch_mean(centred * dx, axis_name)
    inverse = lax.rsqrt(var + epsilon)
    factor = inverse if scale is None else inverse * scale
    slope = -0.5 * factor * inverse**2 * dvar  # y = centred * factor + bias
    slope = slope if scale is None else slope + inverse * dscale
    offset = -factor * dmean if bias is None else dbias - factor * dmean
    return (y, mean, var), ((factor * dx + centred * slope + offset).astype(y.dtype), dmean, dvar)


def _batch_mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    mean = jnp.mean(x, range(x.ndim - 1))
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def layer_norm(x: jax.Array, scale: jax.Array | None = None, bias: jax.Array | None = None, *,
               axes: int | Sequence[int] = -1, epsilon: float = 1e-5) -> jax.Array:
    """Layer normalisation (Ba et al. 2016): every example by itself, in training as in evaluation.

    Args:
      x: [..., C].
      scale, bias: [C] over the last axis, or None for 1 and 0.
      axes: what shares a mean and a variance. -1, the channels alone, is `torch.nn.functional.layer_norm(x, (C,))` and
        Flax's; (1, 2, 3), each whole image, is what papers on normalising convolutional networks call layer norm
        (Wu and He 2018, figure 2), and the same as `group_norm` with one group.
      epsilon: added to the variance.
    Returns:
      Like x; the statistics are computed in float32 at least.
    Raises:
      ValueError: axes that x does not have, or a scale or bias of another shape.
    """
    along = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    known = all(isinstance(axis, Integral) and -x.ndim <= axis < x.ndim for axis in along)
    if not known or not along or len({axis % x.ndim for axis in along}) < len(along):
        raise ValueError(f"axes must be different axes of {x.shape}, not {axes!r}")
    return _affine(_standardize(x, along, epsilon), scale, bias, x.dtype)


def group_norm(x: jax.Array, scale: jax.Array | None = None, bias: jax.Array | None = None, *, groups: int = 32,
               epsilon: float = 1e-5) -> jax.Array:
    """Group normalisation (Wu and He 2018): each image's neighbouring channels in groups of C // groups.

    Args:
      x: [N, H, W, C] or [N, C].
      scale, bias: [C], or None for 1 and 0.
      groups: how many; 1 is layer norm over whole images, C is instance norm. The paper's choice is 32.
      epsilon: added to the variance.
    Returns:
      Like x; the statistics are computed in float32 at least.
    Raises:
      ValueError: another rank, groups that do not divide C, or a scale or bias of another shape.
    """
    if x.ndim not in (2, 4):
        raise ValueError(f"group_norm takes [N, C] or [N, H, W, C], not {x.shape}")
    if groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"groups={groups} does not divide {x.shape[-1]} channels")
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    y = _standardize(grouped, (*range(1, x.ndim - 1), -1), epsilon)
    return _affine(y.reshape(x.shape), scale, bias, x.dtype)


def instance_norm(x: jax.Array, scale: jax.Array | None = None, bias: jax.Array | None = None, *,
                  epsilon: float = 1e-5) -> jax.Array:
    """Instance normalisation (Ulyanov et al. 2016): each channel of each image over its own pixels.

    Args:
      x: [N, H, W, C].
      scale, bias: [C], or None for 1 and 0.
      epsilon: added to the variance.
    Returns:
      Like x; the statistics are computed in float32 at least.
    Raises:
      ValueError: another rank, or a scale or bias of another shape.
    """
    if x.ndim != 4:
        raise ValueError(f"instance_norm takes [N, H, W, C], not {x.shape}")
    return _affine(_standardize(x, (1, 2), epsilon), scale, bias, x.dtype)


@jax.named_scope("local_response_norm")
def local_response_norm(x: jax.Array, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 1.0) -> jax.Array:
    """Local response normalisation (Krizhevsky et al. 2012, section 3.3): channels inhibit their neighbours.

    y = x / (k + alpha * m) ** beta, with m the mean of the squares over a window of `size` channels around each one;
    channels beyond the first and the last count as zeros. `torch.nn.functional.local_response_norm` has this
    convention and these defaults. The paper writes alpha times the sum, with k = 2, size 5, alpha = 1e-4, beta = 0.75:
    read literally, its alpha is `size * alpha` here. Its own code divides by the size, and so does Caffe.

    Args:
      x: [..., C].
      size: channels in the window; where even, one more lies before the channel than after it.
    Returns:
      Like x, computed in float32 at least.
    Raises:
      ValueError: a size that is not a positive integer.
    """
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"size must be a positive number of channels, not {size!r}")
    wide = _wide(x)
    rest = (1,) * (x.ndim - 1)
    pads = ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),)
    squares = lax.reduce_window(jnp.square(wide), wide.dtype.type(0), lax.add, (*rest, size), (*rest, 1), pads)
    return (wide / (k + alpha / size * squares) ** beta).astype(x.dtype)
