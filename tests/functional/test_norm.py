import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from modern_cnn import functional as F
from tests.functional.oracle import WORKED, agree, close, drawn, normal


def torchs(x, scale, bias, mean, var, *, train, decay, epsilon):
    """Return torch's batch norm over the last axis; it updates `mean` and `var` in place."""
    axes = (0, 3, 1, 2) if x.ndim == 4 else (0, 1)
    back = (0, 2, 3, 1) if x.ndim == 4 else (0, 1)
    y = torch.nn.functional.batch_norm(x.permute(axes), mean, var, scale, bias, train, 1 - decay, epsilon)
    return y.permute(back)


shapes = st.tuples(st.integers(2, 5), st.integers(1, 3)) | st.tuples(*[st.integers(2, 4)] * 3, st.integers(1, 3))


@drawn(shapes, st.booleans(), st.booleans(), st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from([1e-5, 1e-3]),
       few=6, many=30)
def test_batch_norm_is_torchs(shape, train, affine, decay, epsilon):
    channels = shape[-1:]
    mean, var = normal(*channels, seed=1), 0.5 + normal(*channels, seed=2) ** 2
    options = {"train": train, "decay": decay, "epsilon": epsilon}
    affine = [normal(*channels, seed=3), normal(*channels, seed=4)] if affine else []
    x = 3 + 2 * normal(*shape)

    def ours(x, scale=None, bias=None):
        return F.batch_norm(x, scale, bias, mean, var, unbiased=True, **options)[0]

    def theirs(x, scale=None, bias=None):
        return torchs(x, scale, bias, torch.tensor(mean), torch.tensor(var), **options)

    agree(ours, theirs, x, *affine)

    their_mean, their_var = torch.tensor(mean), torch.tensor(var)
    torchs(torch.tensor(x), None, None, their_mean, their_var, **options)
    _, our_mean, our_var = F.batch_norm(x, None, None, mean, var, unbiased=True, **options)
    close(our_mean, their_mean)
    close(our_var, their_var)


def test_the_running_variance_is_biased_unless_told():
    x, zeros, ones = normal(4, 3, 3, 2), jnp.zeros(2), jnp.ones(2)
    biased, unbiased = x.var((0, 1, 2)), x.var((0, 1, 2), ddof=1)
    options = {"train": True, "decay": 0.75}
    y, _, var = F.batch_norm(x, None, None, zeros, ones, **options)
    close(var, 0.75 + 0.25 * biased)
    y_unbiased, _, var = F.batch_norm(x, None, None, zeros, ones, unbiased=True, **options)
    close(var, 0.75 + 0.25 * unbiased)
    close(y_unbiased, y)  # the batch is normalised by the biased variance in both cases
    close(y.var((0, 1, 2)), biased / (biased + 1e-5))


def test_evaluation_changes_no_statistics():
    mean, var = normal(3), normal(3) ** 2
    _, new_mean, new_var = F.batch_norm(normal(4, 3), None, None, mean, var, train=False)
    close(new_mean, mean, 0)
    close(new_var, var, 0)


def test_the_running_statistics_converge_to_the_batchs():
    """`decay` is the share that is kept, not the share of the batch."""
    x, mean, var = normal(8, 3) + 5, jnp.zeros(3), jnp.ones(3)
    for _ in range(200):
        _, mean, var = F.batch_norm(x, None, None, mean, var, train=True, decay=0.9)
    close(mean, x.mean(0), 1e-8)
    close(var, x.var(0), 1e-8)


def test_a_large_mean_leaves_the_variance_intact():
    """In float32 the one-pass E[x^2] - E[x]^2 is off by several percent here."""
    x = np.asarray(1000 + normal(64, 8, 8, 2), np.float32)
    true = x.astype(np.float64).var((0, 1, 2))
    assert np.abs((x ** 2).mean((0, 1, 2)) - x.mean((0, 1, 2)) ** 2 - true).max() > 1e-2
    y, _, var = F.batch_norm(jnp.asarray(x), None, None, jnp.zeros(2, "float32"), jnp.zeros(2, "float32"),
                             train=True, decay=0)
    assert y.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(var, true, rtol=1e-3)
    np.testing.assert_allclose(np.asarray(y, float).std((0, 1, 2)), 1, rtol=1e-3)


def test_bfloat16_images_have_float32_statistics():
    x = jnp.asarray(100 + normal(16, 8, 8, 2), jnp.bfloat16)
    zeros, ones = jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32)
    y, mean, var = F.batch_norm(x, ones, zeros, zeros, ones, train=True, decay=0)
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    exact = np.asarray(x, np.float64)
    # bfloat16 statistics would be off by 4e-3. Float32 sums of a thousand rounded values need 1e-4.
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-4)
    y, mean, var = F.batch_norm(x, ones, zeros, mean, var, train=False)
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)


@pytest.mark.parametrize("unbiased", [False, True])
def test_an_axis_name_makes_the_shards_one_batch(unbiased):
    """Compare values, statistics and gradients; without the name each shard is normalised separately."""
    x, scale, bias = normal(8, 3, 3, 2), normal(2, seed=1), normal(2, seed=2)
    cotangent = normal(*x.shape, seed=3)
    mean, var = jnp.zeros(2), jnp.ones(2)

    def whole(x, scale, bias):
        return F.batch_norm(x, scale, bias, mean, var, train=True, unbiased=unbiased)

    def sharded(x, scale, bias, axis_name="devices"):
        def one(x):
            return F.batch_norm(x, scale, bias, mean, var, train=True, unbiased=unbiased, axis_name=axis_name)
        y, *statistics = jax.vmap(one, axis_name="devices")(x.reshape(4, 2, *x.shape[1:]))
        return y.reshape(x.shape), *statistics

    def gradients(function):
        return jax.jit(jax.grad(lambda *a: (function(*a)[0] * cotangent).sum(), argnums=(0, 1, 2)))(x, scale, bias)

    y, new_mean, new_var = jax.jit(whole)(x, scale, bias)
    got, means, variances = jax.jit(sharded)(x, scale, bias)
    close(got, y)
    close(means, np.broadcast_to(new_mean, (4, 2)))
    close(variances, np.broadcast_to(new_var, (4, 2)))
    for got, want in zip(gradients(sharded), gradients(whole), strict=True):
        close(got, want)
    assert np.abs(sharded(x, scale, bias, None)[0] - y).max() > 0.1


def test_the_texts_identity():
    """gamma = sqrt(var + eps) and beta = mu undo the normalisation."""
    x = 5 + 3 * normal(6, 4, 4, 2)
    mu, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y, _, _ = F.batch_norm(x, np.sqrt(var + 1e-5), mu, jnp.zeros(2), jnp.ones(2), train=True, epsilon=1e-5)
    close(y, x)


def test_the_texts_statistics_are_one_per_channel():
    example = WORKED["notebook"]["batch_norm_statistics"]
    shape, count = example["x"], example["values_per_channel"]
    x = normal(*shape)
    _, mean, var = F.batch_norm(x, None, None, jnp.zeros(3), jnp.zeros(3), train=True, decay=0)
    assert len(mean) == len(var) == example["means"]
    close(mean, x.reshape(count, 3).mean(0))
    close(var, x.reshape(count, 3).var(0))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_another_rank_is_refused(shape):
    with pytest.raises(ValueError, match=r"\[N, C\] or \[N, H, W, C\], not \(" + str(shape[0])):
        F.batch_norm(jnp.zeros(shape), None, None, jnp.zeros(shape[-1]), jnp.ones(shape[-1]), train=False)


def test_one_value_has_no_unbiased_variance():
    x, zeros, ones = jnp.ones((1, 3)), jnp.zeros(3), jnp.ones(3)
    with pytest.raises(ValueError, match="need two values or more in each channel; this batch has 1"):
        F.batch_norm(x, None, None, zeros, ones, train=True, unbiased=True)
    y, _, var = F.batch_norm(x, None, None, zeros, ones, train=True, decay=0)
    assert not y.any()
    assert not var.any()


def test_an_empty_batch_has_no_statistics():
    """They would be NaN, and so would the running statistics from then on."""
    x, zeros, ones = jnp.ones((0, 4, 4, 3)), jnp.zeros(3), jnp.ones(3)
    with pytest.raises(ValueError, match="need a value or more in each channel; this batch has 0"):
        F.batch_norm(x, None, None, zeros, ones, train=True)
    assert F.batch_norm(x, None, None, zeros, ones, train=False)[0].shape == x.shape


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["scale", "bias", "mean", "var"])
@pytest.mark.parametrize("shape", [(1,), (4,), (), (2, 4, 4, 3)], ids=str)
def test_values_of_another_shape_are_refused(name, shape, train):
    values = {**dict.fromkeys(("scale", "bias", "mean", "var"), jnp.ones(3)), name: jnp.ones(shape)}
    with pytest.raises(ValueError, match=f"{name} must be one number for each of the 3 channels, not "):
        F.batch_norm(jnp.ones((2, 4, 4, 3)), **values, train=train)
