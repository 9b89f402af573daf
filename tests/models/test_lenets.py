"""The small networks of the two texts: the size of each layer, and each gradient by central differences."""
import functools
import json
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modern_cnn.models import build
from tests.functional.oracle import FAST_COMPILE
from tests.models.cases import slow

KEY = jax.random.key(0)
# parameters of each layer, in order, for 28x28x1
LAYERS = {
    "mlp": {"dense1": 200_960, "dense2": 65_792, "dense3": 65_792, "dense4": 2_570},
    "lenet": {"conv1": 156, "conv2": 2_416, "dense1": 48_120, "dense2": 10_164, "dense3": 850},
    "lenet_bn": {"conv1": 156, "norm1": 12, "conv2": 2_416, "norm2": 32, "dense1": 30_840, "norm3": 240,
                 "dense2": 10_164, "norm4": 168, "dense3": 850},
    "lenet_relu": {"conv1": 60, "conv2": 880, "dense1": 48_120, "dense2": 10_164, "dense3": 850},
    "lenet_relu_bn": {"conv1": 60, "norm1": 12, "conv2": 880, "norm2": 32, "dense1": 48_120, "dense2": 10_164,
                      "dense3": 850},
}
# layers whose bias the next batch norm takes out again
SILENCED = {"lenet_bn": ["conv1", "conv2", "dense1", "dense2"], "lenet_relu_bn": ["conv1", "conv2"]}
every_network = pytest.mark.parametrize("name", LAYERS)


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def images_for(name, count=3):
    return normal(count, 28, 28, 1)


def fast(function):
    return jax.jit(function, compiler_options=FAST_COMPILE)


@functools.cache
def initialised(name):
    return fast(build(name).init)(KEY, images_for(name))


@functools.cache
def trained_like(name):
    """Return the network, and variables whose biases, scales and running statistics are not their initial 0 and 1."""
    leaves, tree = jax.tree.flatten(initialised(name))
    moved = [leaf + 0.1 * np.abs(normal(*leaf.shape, seed=i)) if leaf.ndim == 1 else leaf
             for i, leaf in enumerate(leaves)]
    return build(name), jax.tree.unflatten(tree, moved)


def loss(module, variables, images, train):
    logits, _ = module.apply(variables, images, train=train, mutable=["batch_stats"])
    return -jax.nn.log_softmax(logits)[np.arange(len(images)), np.arange(len(images))].mean()


@every_network
def test_the_layers_have_the_texts_sizes(name):
    variables = jax.eval_shape(build(name).init, KEY, images_for(name))
    sizes = {layer: sum(math.prod(leaf.shape) for leaf in leaves.values())
             for layer, leaves in variables["params"].items()}
    assert sizes == LAYERS[name]


@pytest.mark.parametrize(("name", "train"), [
    (name, train) if name == "lenet_bn" or (train and name in ("mlp", "lenet")) else slow(name, train)
    for name in LAYERS for train in (False, True)])  # modes differ by the batch norm alone
def test_every_parameter_gets_a_gradient_and_the_right_one(name, train):
    """In float64 gradients are not 0, and agree with central differences in a random direction for each parameter."""
    module, variables = trained_like(name)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        stats = {key: value for key, value in variables.items() if key != "params"}
        images = images_for(name).astype(np.float64)

        def at(params):
            return loss(module, {"params": params, **stats}, images, train)

        at = fast(jax.value_and_grad(at))
        paths, tree = jax.tree_util.tree_flatten_with_path(variables["params"])
        leaves = [leaf for _, leaf in paths]
        gradients = jax.tree.map(np.asarray, jax.tree.leaves(at(variables["params"])[1]))
        largest = max(np.abs(gradient).max() for gradient in gradients)
        for i, (path, leaf) in enumerate(paths):
            direction = normal(*leaf.shape, seed=100 + i).astype(np.float64)
            direction *= 1e-7 / np.linalg.norm(direction)
            above, below = (float(at(jax.tree.unflatten(tree, [*leaves[:i], leaf + step, *leaves[i + 1:]]))[0])
                            for step in (direction, -direction))
            np.testing.assert_allclose((above - below) / 2, (gradients[i] * direction).sum(), rtol=1e-5, atol=1e-14)

            layer, kind = (key.key for key in path)
            magnitude = np.abs(gradients[i]).max() / largest
            if train and kind == "bias" and layer in SILENCED.get(name, []):
                assert magnitude < 1e-12
            else:
                assert magnitude > 1e-4, f"{layer} {kind}"


@pytest.mark.parametrize("name", SILENCED)
def test_training_normalises_by_the_batch_and_moves_the_statistics(name):
    module, variables = trained_like(name)
    train = fast(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    logits, new = train(variables, images_for(name))
    assert np.abs(logits - fast(module.apply)(variables, images_for(name))).max() > 1e-3
    for old, moved in zip(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(new), strict=True):
        assert (old != moved).all()


@pytest.mark.parametrize(("name", "decay", "epsilon"), [("lenet_bn", 0.9, 1e-5), ("lenet_relu_bn", 0.99, 1e-3)])
def test_batch_norms_follow_their_text(name, decay, epsilon):
    """The textbook has PyTorch's, the TensorFlow text has Keras's: images of zeros show them."""
    module = build(name)
    zeros = np.zeros((4, 28, 28, 1), np.float32)
    variables = jax.tree.map(np.asarray, initialised(name))
    variables["params"]["conv1"]["bias"] = np.full(6, 2, np.float32)
    _, new = fast(functools.partial(module.apply, train=True, mutable=["batch_stats"]))(variables, zeros)
    np.testing.assert_allclose(new["batch_stats"]["norm1"]["mean"], 2 * (1 - decay), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["norm1"]["var"], decay, rtol=1e-5)
    variables["batch_stats"]["norm1"]["var"] = np.zeros(6, np.float32)
    apply = functools.partial(module.apply, capture_intermediates=True, mutable=["intermediates"])
    _, state = fast(apply)(variables, zeros)
    (y,) = state["intermediates"]["norm1"]["__call__"]
    np.testing.assert_allclose(y, 2 / math.sqrt(epsilon), rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), [
    *((name, {}) if name == "lenet_bn" else slow(name, {}) for name in LAYERS),
    ("mlp", {"dropout_rate": 0.5})], ids=str)
def test_init_is_the_same_in_both_modes_and_for_any_batch(name, options):
    init = jax.jit(build(name, **options).init, static_argnames="train", compiler_options=FAST_COMPILE)
    first = init(KEY, images_for(name), train=False)
    for other in (init(KEY, images_for(name), train=True), init(KEY, images_for(name, 1), train=True)):
        jax.tree.map(np.testing.assert_array_equal, first, other)


def test_the_sigmoid_has_the_texts_slopes():
    """A slope is at most 1/4: each of LeNet's four sigmoids shrinks the gradient, unlike ReLU and batch norm."""
    slopes = json.loads((Path(__file__).parents[1] / "golden" / "worked_examples.json").read_text())["notebook"]
    slope = jax.vmap(jax.grad(nn.sigmoid))(jnp.linspace(-2, 2, 101))
    np.testing.assert_allclose(slope.max(), slopes["sigmoid_slope"]["at_0"], rtol=1e-6)
    np.testing.assert_allclose(slope[jnp.array([0, -1])], slopes["sigmoid_slope"]["at_2"], atol=1e-5)
