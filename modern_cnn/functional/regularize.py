"""Regularisation as pure functions: the caller passes the random key."""
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp


def is_zero(value: Any) -> bool:
    """Return whether a number is a plain 0 or False, which switches a part of a program off.

    A traced number is not zero: its value is unknown while the program is traced. Where 0 is not the weakest value
    (`clip_norm`, `resized_crop`, `mixup`, `cutmix`), trials with and without the part are two programs.
    """
    return isinstance(value, Real) and value == 0


def dropout(key: jax.Array, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Return x, of any shape, with each value set to 0 with probability `rate`, and the others divided by 1 - rate.

    Inverted dropout (Srivastava et al. 2014): the expectation of every value is unchanged, so evaluation does nothing.
    The same `jax.random` key drops the same values. Raise ValueError for a rate outside [0, 1]; a rate that is a
    `jax.Array` (of a schedule, for example) is not checked.
    """
    if not isinstance(rate, jax.Array):
        if not 0 <= rate <= 1:
            raise ValueError(f"a dropout rate is a probability between 0 and 1, not {rate}")
        if rate == 0:
            return x
        if rate == 1:
            return jnp.zeros_like(x)
    x = jnp.asarray(x)
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    # With a traced rate of 1 nothing is kept, but the division by 0 would still give a gradient of NaN.
    kept = jnp.where(rate < 1, 1 - rate, 1) if isinstance(rate, jax.Array) else 1 - rate
    return jnp.where(keep, x / kept, 0).astype(x.dtype)
