"""Muon against the published algorithm in numpy, on a convolution and what is beside it."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modern_cnn.settings import Optimizer
from modern_cnn.training import muon, optim


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def newton_schulz(gradient, steps=3):
    """Return the published iteration on a matrix [out, in], in its own words: Jordan 2024, with airbench's steps."""
    x = gradient / (np.sqrt((gradient ** 2).sum()) + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_singular_values_go_towards_one_and_vectors_stay(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    got = muon.orthogonalize(jnp.asarray(matrix))
    np.testing.assert_allclose(got, newton_schulz(matrix), rtol=1e-10, atol=1e-12)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    x = values / np.linalg.norm(values)
    for _ in range(3):
        x = 3.4445 * x - 4.775 * x ** 3 + 2.0315 * x ** 5
    np.testing.assert_allclose(got, left * x @ right, rtol=1e-6, atol=1e-9)
    assert values.max() / values.min() > 2 * x.max() / x.min()


def test_a_step_is_the_published_one():
    """Convolutions by Muon, in PyTorch's layout [O, I, kh, kw]; all others by Nesterov SGD; the rate falls."""
    rng = np.random.default_rng(1)
    shapes = {"conv": (2, 2, 3, 8), "dense": (4, 3), "bias": (3,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    gradients = [{name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(4)]
    config = Optimizer("muon", learning_rate=0.5, base_batch_size=2, momentum=0.85, nesterov=True, muon_rate=0.24,
                       muon_momentum=0.6, weight_decay=0.01, decoupled=True, bias_multiplier=0.25)
    peak = optim.peak_learning_rate(config, 8)
    assert peak == 2.0

    optimizer = optim.make_optimizer(config, lambda step: peak * (1 - step / 4), peak)

    def tree(values):
        return {"conv1": {"kernel": jnp.asarray(values["conv"])},
                "dense": {"kernel": jnp.asarray(values["dense"]), "bias": jnp.asarray(values["bias"])}}

    ours = tree(params)
    state = optimizer.init(ours)
    for gradient in gradients:
        updates, state = optimizer.update(tree(gradient), state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)

    momenta = {name: np.zeros(shape) for name, shape in shapes.items()}
    for step, gradient in enumerate(gradients):
        for name, multiplier in (("dense", 1.0), ("bias", 0.25)):
            rate = 2.0 * multiplier * (1 - step / 4)
            decayed = gradient[name] + 0.01 / (0.5 * multiplier) * params[name]
            momenta[name] = 0.85 * momenta[name] + decayed
            params[name] = params[name] - rate * (decayed + 0.85 * momenta[name])
        momenta["conv"] = 0.6 * momenta["conv"] + gradient["conv"]
        nesterov = (gradient["conv"] + 0.6 * momenta["conv"]).transpose(3, 2, 0, 1)
        kernel = params["conv"].transpose(3, 2, 0, 1)
        kernel = kernel * (len(kernel) ** 0.5 / np.linalg.norm(kernel))
        kernel = kernel - 0.24 * (1 - step / 4) * newton_schulz(nesterov.reshape(8, -1)).reshape(kernel.shape)
        params["conv"] = kernel.transpose(2, 3, 1, 0)
    for name, got in (("conv", ours["conv1"]["kernel"]), ("dense", ours["dense"]["kernel"]),
                      ("bias", ours["dense"]["bias"])):
        np.testing.assert_allclose(got, params[name], rtol=1e-6, err_msg=name)


def test_a_kernel_of_zeros_learns():
    """Such a kernel has a block that begins as the identity."""
    kernel, gradient = jnp.zeros((1, 1, 3, 4)), jnp.arange(12.0).reshape(1, 1, 3, 4)
    optimizer = muon.muon(lambda step: 0.1, 0.6)
    updates, _ = optimizer.update(gradient, optimizer.init(kernel), kernel)
    np.testing.assert_allclose(updates, -0.1 * muon.orthogonalize(gradient.reshape(3, 4)).reshape(1, 1, 3, 4))
