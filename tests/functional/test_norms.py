"""Layer, group, instance and local response normalisation; batch normalisation has its own file."""
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from modern_cnn import functional as F
from tests.functional.oracle import agree, close, drawn, nchw, nhwc, normal

small = st.integers(1, 3)
images = st.tuples(small, small, small, small)
epsilons = st.sampled_from([1e-5, 1e-3])


def affine(channels, wanted):
    return [normal(channels, seed=3), normal(channels, seed=4)] if wanted else []


@drawn(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.booleans(), epsilons, few=4, many=10)
def test_layer_norm_over_the_channels_is_torchs(shape, scaled, epsilon):
    channels = shape[-1]
    agree(lambda x, *affine: F.layer_norm(x, *affine, epsilon=epsilon),
          lambda x, scale=None, bias=None: torch.nn.functional.layer_norm(x, (channels,), scale, bias, epsilon),
          3 + 2 * normal(*shape), *affine(channels, scaled))


@drawn(images, st.booleans(), few=4, many=10)
def test_layer_norm_over_whole_images_is_torchs(shape, scaled):
    """torch has a scale for every pixel here, so the scale of each channel is applied outside."""
    def theirs(x, scale=1, bias=0):
        return torch.nn.functional.layer_norm(x, x.shape[1:]) * scale + bias

    shape = (*shape[:3], shape[3] + 1)
    agree(lambda x, *affine: F.layer_norm(x, *affine, axes=(1, 2, 3)), theirs,
          3 + 2 * normal(*shape), *affine(shape[-1], scaled))


@drawn(images | st.tuples(small), small, small, st.booleans(), epsilons, few=4, many=20)
def test_group_norm_is_torchs(shape, groups, members, scaled, epsilon):
    channels = groups * members
    shape = (2, *shape[1:3], channels)

    def theirs(x, scale=None, bias=None):
        first = x if x.ndim == 2 else nchw(x)
        y = torch.nn.functional.group_norm(first, groups, scale, bias, epsilon)
        return y if x.ndim == 2 else nhwc(y)

    agree(lambda x, *affine: F.group_norm(x, *affine, groups=groups, epsilon=epsilon), theirs,
          3 + 2 * normal(*shape), *affine(channels, scaled))


@drawn(images, st.booleans(), epsilons, few=4, many=10)
def test_instance_norm_is_torchs(shape, scaled, epsilon):
    # torch refuses a single pixel, and torch 2.13's gradient for a single NHWC image is wrong: batches of two and more
    shape = (shape[0] + 1, shape[1] + 1, *shape[2:])

    def theirs(x, scale=None, bias=None):
        return nhwc(torch.nn.functional.instance_norm(nchw(x), None, None, scale, bias, eps=epsilon))

    agree(lambda x, *affine: F.instance_norm(x, *affine, epsilon=epsilon), theirs,
          3 + 2 * normal(*shape), *affine(shape[-1], scaled))


@drawn(images, st.integers(1, 6), st.sampled_from([(1e-4, 0.75, 1.0), (0.5, 0.75, 2.0), (2.0, 1.5, 0.5)]),
       few=4, many=20)
def test_local_response_norm_is_torchs(shape, size, constants):
    """Windows may be even, and wider than the number of channels."""
    alpha, beta, k = constants
    agree(lambda x: F.local_response_norm(x, size, alpha=alpha, beta=beta, k=k),
          lambda x: nhwc(torch.nn.functional.local_response_norm(nchw(x), size, alpha, beta, k)),
          normal(*shape[:3], 2 * shape[3]))


def test_local_response_norm_defaults_are_torchs():
    x = 30 * normal(2, 3, 3, 8)
    close(F.local_response_norm(x), nhwc(torch.nn.functional.local_response_norm(nchw(torch.tensor(x)), 5)))


def test_the_papers_local_response_norm():
    """Krizhevsky et al. 2012, section 3.3, read literally: the sum over j from max(0, i - n/2) to min(N - 1, i + n/2),
    with n/2 rounded down, and not the mean."""
    k, n, alpha, beta = 2, 5, 1e-4, 0.75
    a = 100 * normal(1, 2, 2, 8)
    b = np.empty_like(a)
    for i in range(8):
        neighbours = a[..., max(0, i - n // 2):min(7, i + n // 2) + 1]
        b[..., i] = a[..., i] / (k + alpha * (neighbours ** 2).sum(-1)) ** beta
    close(F.local_response_norm(a, n, alpha=n * alpha, beta=beta, k=k), b)


def test_group_norm_lies_between_layer_norm_and_instance_norm():
    x, scale, bias = normal(2, 4, 3, 6), normal(6, seed=1), normal(6, seed=2)
    close(F.group_norm(x, scale, bias, groups=1), F.layer_norm(x, scale, bias, axes=(1, 2, 3)))
    close(F.group_norm(x, scale, bias, groups=6), F.instance_norm(x, scale, bias))
    x = normal(2, 4, 3, 64)
    close(F.group_norm(x), F.group_norm(x, groups=32))


EACH = {
    "layer": (F.layer_norm, 3),
    "whole images": (lambda *arrays: F.layer_norm(*arrays, axes=(1, 2, 3)), (1, 2, 3)),
    "group": (lambda *arrays: F.group_norm(*arrays, groups=1), (1, 2, 3)),
    "instance": (F.instance_norm, (1, 2)),
}


@pytest.mark.parametrize(("norm", "axes"), EACH.values(), ids=EACH)
def test_a_large_mean_leaves_the_variance_intact(norm, axes):
    """In float32 the one-pass E[x^2] - E[x]^2 is off by several percent here."""
    x = np.asarray(1000 + normal(2, 16, 16, 64), np.float32)
    y = norm(jnp.asarray(x))
    assert y.dtype == jnp.float32
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-3)  # float32 numbers around 1000 lie 6e-5 apart


@pytest.mark.parametrize(("norm", "axes"), EACH.values(), ids=EACH)
def test_bfloat16_images_have_float32_statistics(norm, axes):
    x = jnp.asarray(100 + normal(2, 16, 16, 64), jnp.bfloat16)
    scale, bias = jnp.asarray(normal(64), jnp.float32), jnp.asarray(normal(64, seed=1), jnp.float32)
    y = norm(x, scale, bias)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    exact = exact * np.asarray(scale, float) + np.asarray(bias, float)
    # bfloat16 has 8 bits: the result is rounded once, to 2^-9 of it. A bfloat16 mean of 100 would be off by up to 0.25.
    np.testing.assert_allclose(np.asarray(y, float), exact, rtol=2.0 ** -8, atol=1e-3)


def test_bfloat16_local_response_norm_is_computed_in_float32():
    x = jnp.asarray(10 * normal(2, 3, 3, 32), jnp.bfloat16)
    y = F.local_response_norm(x, alpha=1.0)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, float), F.local_response_norm(jnp.asarray(x, float), alpha=1.0),
                               rtol=2.0 ** -8)


IMAGES = np.zeros((2, 3, 3, 6))


@pytest.mark.parametrize(("normalise", "words"), [
    (lambda: F.group_norm(IMAGES), "^groups=32 does not divide 6 channels$"),
    (lambda: F.group_norm(IMAGES, groups=4), "^groups=4 does not divide 6 channels$"),
    (lambda: F.group_norm(IMAGES, groups=0), "^groups=0 does not divide 6 channels$"),
    (lambda: F.group_norm(IMAGES[0], groups=2), r"\[N, C\] or \[N, H, W, C\], not \(3, 3, 6\)"),
    (lambda: F.instance_norm(IMAGES[0]), r"instance_norm takes \[N, H, W, C\], not \(3, 3, 6\)"),
    (lambda: F.instance_norm(IMAGES[0, 0]), r"instance_norm takes \[N, H, W, C\], not \(3, 6\)"),
    (lambda: F.layer_norm(IMAGES, axes=4), r"axes must be different axes of \(2, 3, 3, 6\), not 4"),
    (lambda: F.layer_norm(IMAGES, axes=()), r"not \(\)"),
    (lambda: F.layer_norm(IMAGES, axes=(3, -1)), r"not \(3, -1\)"),
    (lambda: F.layer_norm(IMAGES, axes=(1, 1.5)), r"not \(1, 1.5\)"),
    (lambda: F.layer_norm(IMAGES, np.ones(5)), r"scale must be one number for each of the 6 channels, not \(5,\)"),
    (lambda: F.layer_norm(IMAGES, None, np.ones((3, 6))), r"bias must be one .* 6 channels, not \(3, 6\)"),
    (lambda: F.group_norm(IMAGES, np.ones(1), groups=2), r"scale must be one .* 6 channels, not \(1,\)"),
    (lambda: F.instance_norm(IMAGES, bias=np.ones(2)), r"bias must be one .* 6 channels, not \(2,\)"),
    (lambda: F.local_response_norm(IMAGES, 0), "size must be a positive number of channels, not 0"),
    (lambda: F.local_response_norm(IMAGES, 2.5), "size must be a positive number of channels, not 2.5"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_fit_is_refused(normalise, words):
    with pytest.raises(ValueError, match=words):
        normalise()
