"""Normalisation as pure functions: statistics come in as arrays and go out as arrays."""
import jax
import jax.numpy as jnp
from jax import lax


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
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    use_mean, use_var = mean, var
    if train:
        axes = tuple(range(x.ndim - 1))
        use_mean = jnp.mean(wide, axes)
        if axis_name is not None:
            use_mean = lax.pmean(use_mean, axis_name)
        use_var = jnp.mean(jnp.square(wide - use_mean), axes)
        if axis_name is not None:
            use_var = lax.pmean(use_var, axis_name)
        count = x.size // x.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
        if unbiased and count < 2:
            raise ValueError("an unbiased variance needs more than one value per channel; this batch has one")
        stored_var = use_var * (count / (count - 1)) if unbiased else use_var
        mean = decay * mean + (1 - decay) * use_mean.astype(mean.dtype)
        var = decay * var + (1 - decay) * stored_var.astype(var.dtype)
    factor = lax.rsqrt(use_var + epsilon)
    if scale is not None:
        factor = factor * scale
    y = (wide - use_mean) * factor
    if bias is not None:
        y = y + bias
    return y.astype(x.dtype), mean, var
