"""Normalisation as pure functions: statistics come in as arrays and go out as arrays.

Four of the functions differ in the values that share a mean and a variance (Wu and He 2018, figure 2). In images
[N, H, W, C] these are the values along (N, H, W) in batch norm, (H, W, C) or C in layer norm, (H, W) in instance norm,
and (H, W, channels of a group) in group norm. Only in batch norm do the images of a batch affect each other.

Everywhere `scale` and `bias` are [C], or None for 1 and 0, and `epsilon` is added to the variance. Results have the
shape and dtype of x; statistics are computed in at least float32. A shape that does not fit raises ValueError.
"""
import math
from collections.abc import Sequence
from functools import partial
from numbers import Integral

import jax
import jax.numpy as jnp
from jax import lax


def _wide(x: jax.Array) -> jax.Array:
    """Return x in the precision of its statistics: at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check_channels(x: jax.Array, **values: jax.Array | None) -> None:
    for name, value in values.items():
        if value is not None and jnp.shape(value) != x.shape[-1:]:
            raise ValueError(f"{name} must be one number for each of the {x.shape[-1]} channels, not "
                             f"{jnp.shape(value)}")


def _normalize(x: jax.Array, shape: Sequence[int], axes: Sequence[int], epsilon: float, scale: jax.Array | None,
               bias: jax.Array | None) -> jax.Array:
    """Return x minus its mean and divided by its deviation along `axes` of x in another shape, * scale + bias."""
    x = jnp.asarray(x)
    _check_channels(x, scale=scale, bias=bias)
    y = _wide(x.reshape(shape))
    y = y - jnp.mean(y, axes, keepdims=True)  # two passes: see `batch_norm`
    y = y * lax.rsqrt(jnp.mean(jnp.square(y), axes, keepdims=True) + epsilon)
    y = y.reshape(x.shape)
    y = y if scale is None else y * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def batch_norm(x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, mean: jax.Array, var: jax.Array, *,
               train: bool, decay: float = 0.9, epsilon: float = 1e-5, unbiased: bool = False,
               axis_name: str | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return x after batch normalisation, and the running statistics (Ioffe and Szegedy 2015, algorithms 1 and 2).

    Training normalises each channel by the mean and the biased variance of the batch, and updates the running
    statistics: new = decay * old + (1 - decay) * batch. Evaluation normalises by the running statistics and returns
    them unchanged. Statistics are computed in two passes (the mean, then the mean squared distance from it): the
    one-pass E[x^2] - E[x]^2 loses all digits if the mean is much larger than the deviation.

    Args:
      x: [N, C] or [N, H, W, C].
      mean, var: running statistics, [C]; they keep their dtype.
      train: normalise by the batch, and update the running statistics.
      decay: the share of the old statistics that is kept. PyTorch's `momentum` is 1 - decay; Keras's and Flax's is
        decay.
      epsilon: 1e-5 in PyTorch, 1e-3 in Keras.
      unbiased: store n / (n - 1) times the variance of the batch, as PyTorch does (ValueError if n is 1); Keras, Flax
        and the textbook store the biased variance. The batch itself is always normalised by the biased one.
      axis_name: under pmap or shard_map, average the statistics over this axis; None: normalise the share of each
        device separately (under jit a sharded batch is one batch in any case).
    """
    if x.ndim not in (2, 4):
        raise ValueError(f"batch_norm takes [N, C] or [N, H, W, C], not {x.shape}")
    x, mean, var = map(jnp.asarray, (x, mean, var))
    _check_channels(x, scale=scale, bias=bias, mean=mean, var=var)
    if not train:
        factor = lax.rsqrt(var + epsilon) if scale is None else lax.rsqrt(var + epsilon) * scale
        y = (_wide(x) - mean) * factor
        return (y if bias is None else y + bias).astype(x.dtype), mean, var
    count = math.prod(x.shape[:-1]) * (1 if axis_name is None else lax.axis_size(axis_name))
    if count < 1 + unbiased:
        raise ValueError(f"the statistics of a batch need {'two values' if unbiased else 'a value'} or more in each "
                         f"channel; this batch has {count}")
    y, batch_mean, batch_var = _by_batch(x, scale, bias, epsilon, axis_name)
    stored_var = batch_var * (count / (count - 1)) if unbiased else batch_var
    return (y, decay * mean + (1 - decay) * batch_mean.astype(mean.dtype),
            decay * var + (1 - decay) * stored_var.astype(var.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _by_batch(x, scale, bias, epsilon, axis_name):
    """Return (y, mean, biased variance): x normalised by its own statistics."""
    mean = _batch_mean(_wide(x), axis_name)
    var = _batch_mean(jnp.square(_wide(x) - mean), axis_name)
    factor = lax.rsqrt(var + epsilon) if scale is None else lax.rsqrt(var + epsilon) * scale
    y = (_wide(x) - mean) * factor
    return (y if bias is None else y + bias).astype(x.dtype), mean, var


@_by_batch.defjvp
def _by_batch_jvp(epsilon, axis_name, primals, tangents):
    """Return values and tangents, in a form whose transpose is the gradient of Ioffe and Szegedy 2015, section 3.

    It takes two sums over the batch and one pass. JAX's own takes twice as many and keeps three arrays as large as x.
    """
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
    """Return x [..., C] after layer normalisation (Ba et al. 2016): each example separately, also in training.

    Values along `axes` share a mean and a variance. -1, the channels, is Flax's choice and
    `torch.nn.functional.layer_norm(x, (C,))`. (1, 2, 3), each whole image, is called layer norm in papers on
    convolutional networks (Wu and He 2018, figure 2), and is `group_norm` with one group. Raise ValueError if x does
    not have the axes.
    """
    along = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    known = all(isinstance(axis, Integral) and -x.ndim <= axis < x.ndim for axis in along)
    if not known or not along or len({axis % x.ndim for axis in along}) < len(along):
        raise ValueError(f"axes must be different axes of {x.shape}, not {axes!r}")
    return _normalize(x, x.shape, along, epsilon, scale, bias)


def group_norm(x: jax.Array, scale: jax.Array | None = None, bias: jax.Array | None = None, *, groups: int = 32,
               epsilon: float = 1e-5) -> jax.Array:
    """Return x after group normalisation (Wu and He 2018): groups of C // groups neighbouring channels of each image.

    x is [N, H, W, C] or [N, C]. One group is layer norm over whole images, C are instance norm; the paper's choice is
    32. Raise ValueError if groups does not divide C.
    """
    if x.ndim not in (2, 4):
        raise ValueError(f"group_norm takes [N, C] or [N, H, W, C], not {x.shape}")
    if not isinstance(groups, Integral) or groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"groups={groups} does not divide {x.shape[-1]} channels")
    grouped = *x.shape[:-1], groups, x.shape[-1] // groups
    return _normalize(x, grouped, (*range(1, x.ndim - 1), -1), epsilon, scale, bias)


def instance_norm(x: jax.Array, scale: jax.Array | None = None, bias: jax.Array | None = None, *,
                  epsilon: float = 1e-5) -> jax.Array:
    """Return x [N, H, W, C] after instance normalisation (Ulyanov et al. 2016): over the pixels of each channel."""
    if x.ndim != 4:
        raise ValueError(f"instance_norm takes [N, H, W, C], not {x.shape}")
    return _normalize(x, x.shape, (1, 2), epsilon, scale, bias)


@jax.named_scope("local_response_norm")
def local_response_norm(x: jax.Array, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 1.0) -> jax.Array:
    """Return x [..., C] after local response normalisation (Krizhevsky et al. 2012, 3.3): channels inhibit neighbours.

    y = x / (k + alpha * m) ** beta, where m is the mean of the squares in a window of `size` channels around each
    channel (of an even size, one more lies before than after it); channels beyond the first and the last count as
    zeros. `torch.nn.functional.local_response_norm` has this convention and these defaults. The paper writes alpha
    times the sum, with k = 2, size 5, alpha = 1e-4, beta = 0.75: read literally, its alpha is `size * alpha` here. The
    code of the paper divides by the size, and so does Caffe. Raise ValueError if size is no positive integer.
    """
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"size must be a positive number of channels, not {size!r}")
    x = jnp.asarray(x)
    wide = _wide(x)
    rest = (1,) * (x.ndim - 1)
    pads = ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),)
    squares = lax.reduce_window(jnp.square(wide), wide.dtype.type(0), lax.add, (*rest, size), (*rest, 1), pads)
    return (wide / (k + alpha / size * squares) ** beta).astype(x.dtype)
