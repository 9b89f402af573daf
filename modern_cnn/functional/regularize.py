"""Regularisation as pure functions: the randomness is the caller's key."""
import jax
import jax.numpy as jnp


def dropout(key: jax.Array, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Inverted dropout (Srivastava et al. 2014): each value is zeroed with probability `rate`, the rest scaled up.

    What is kept is divided by 1 - rate: the expectation of every value is unchanged, so evaluation does nothing.

    Args:
      key: a `jax.random` key; the same key drops the same values.
      x: any shape.
      rate: probability of dropping, in [0, 1]; a `jax.Array` (a schedule's, say) is not checked.
    Raises:
      ValueError: a rate outside [0, 1].
    """
    if not isinstance(rate, jax.Array):
        if not 0 <= rate <= 1:
            raise ValueError(f"a dropout rate is a probability between 0 and 1, not {rate}")
        if rate == 0:
            return x
        if rate == 1:
            return jnp.zeros_like(x)
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    # A traced rate of 1 keeps nothing, but dividing by its 0 would still put NaN into the gradient.
    kept = jnp.where(rate < 1, 1 - rate, 1) if isinstance(rate, jax.Array) else 1 - rate
    return jnp.where(keep, x / kept, 0).astype(x.dtype)
