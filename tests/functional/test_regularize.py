import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modern_cnn import functional as F
from modern_cnn.functional.regularize import is_zero
from tests.functional.oracle import close, normal

KEY = jax.random.key(0)


@settings(max_examples=20)
@given(st.floats(0.01, 0.99), st.integers(0, 2 ** 32 - 1))
def test_dropout_keeps_its_share_and_scales_it(rate, seed):
    x = 1 + normal(10_000) ** 2
    y = np.asarray(F.dropout(jax.random.key(seed), x, rate))
    kept = y != 0
    close(y[kept], x[kept] / (1 - rate), 1e-14)
    deviation = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(kept.mean() - (1 - rate)) < 6 * deviation  # one false alarm in 500 million


def test_each_value_is_dropped_by_itself():
    """No whole rows or channels are dropped: the kept share of each row, column and channel is near a half."""
    kept = np.asarray(F.dropout(KEY, jnp.ones((100, 100, 100)), 0.5)) != 0
    for axes in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(kept.mean(axes) - 0.5).max() < 6 * 0.5 / 100


def test_rate_0_returns_the_input_and_rate_1_zeros():
    x = normal(5, 4)
    close(F.dropout(KEY, x, 0), x, 0)
    close(F.dropout(KEY, x, 1), np.zeros_like(x), 0)


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_a_traced_rate_is_the_same_rate(rate):
    """The rate of a schedule is an array under jit; at 1 the gradient must be 0, not NaN."""
    x = normal(5, 4)

    def total(x, rate):
        return F.dropout(KEY, x, rate).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(x, rate)
    wanted, wanted_gradient = jax.value_and_grad(total)(x, rate)
    close(value, wanted)
    close(gradient, wanted_gradient)


def test_the_same_key_drops_the_same_values():
    x = jnp.ones((50, 50))
    first = F.dropout(KEY, x, 0.5)
    close(F.dropout(KEY, x, 0.5), first, 0)
    close(jax.jit(F.dropout, static_argnums=2)(KEY, x, 0.5), first, 0)
    assert (F.dropout(jax.random.key(1), x, 0.5) != first).any()


def test_the_gradient_is_the_scaled_mask():
    x = normal(20, 20)
    y, pullback = jax.vjp(lambda x: F.dropout(KEY, x, 0.3), x)
    cotangent = normal(20, 20, seed=1)
    close(pullback(jnp.asarray(cotangent))[0], cotangent * (np.asarray(y) != 0) / 0.7, 1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_dtype_comes_back(dtype):
    for rate in (0, 0.5, 1, jnp.float32(0.5)):
        assert F.dropout(KEY, jnp.ones((4, 4), dtype), rate).dtype == dtype


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), np.float32(2)])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=f"probability between 0 and 1, not {rate}"):
        F.dropout(KEY, jnp.ones(3), rate)


def test_a_traced_number_is_not_zero():
    assert [is_zero(value) for value in (0, 0.0, False, np.float32(0), 1, True, 0.1)] == [True] * 4 + [False] * 3
    seen = []
    jax.jit(lambda x: seen.append(is_zero(x)) or x)(0.0)
    assert seen == [False]
