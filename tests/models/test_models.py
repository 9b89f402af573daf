import functools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modern_cnn.errors import UserError
from modern_cnn.models import MODELS, build

KEY = jax.random.key(0)


@dataclass(frozen=True)
class Golden:
    """What a network must have; counts from the texts and from PyTorch."""
    parameters: int
    layers: dict[str, int]  # parameters of each layer, in order
    stages: list[tuple[int, ...]]  # shapes sown as stage1, stage2, ..., without the batch
    batch_stats: int = 0
    image: tuple[int, int, int] = (28, 28, 1)
    smallest: int | None = None  # the smallest square image; None where any will do
    silenced: list[str] = field(default_factory=list)  # layers whose bias the next batch norm takes out again


GOLDEN = {
    "mlp": Golden(
        parameters=335_114, layers={"dense1": 200_960, "dense2": 65_792, "dense3": 65_792, "dense4": 2_570},
        stages=[(256,), (256,), (256,)]),
    "lenet": Golden(
        parameters=61_706, layers={"conv1": 156, "conv2": 2_416, "dense1": 48_120, "dense2": 10_164, "dense3": 850},
        stages=[(14, 14, 6), (5, 5, 16), (120,), (84,)], smallest=12),
    "lenet_bn": Golden(
        parameters=44_878, batch_stats=452,
        layers={"conv1": 156, "norm1": 12, "conv2": 2_416, "norm2": 32, "dense1": 30_840, "norm3": 240,
                "dense2": 10_164, "norm4": 168, "dense3": 850},
        stages=[(12, 12, 6), (4, 4, 16), (120,), (84,)], smallest=16, silenced=["conv1", "conv2", "dense1", "dense2"]),
    "lenet_relu": Golden(
        parameters=60_074, layers={"conv1": 60, "conv2": 880, "dense1": 48_120, "dense2": 10_164, "dense3": 850},
        stages=[(13, 13, 6), (5, 5, 16), (120,), (84,)], smallest=10),
    "lenet_relu_bn": Golden(
        parameters=60_118, batch_stats=44,
        layers={"conv1": 60, "norm1": 12, "conv2": 880, "norm2": 32, "dense1": 48_120, "dense2": 10_164, "dense3": 850},
        stages=[(13, 13, 6), (5, 5, 16), (120,), (84,)], smallest=10, silenced=["conv1", "conv2"]),
}


def test_every_network_has_golden_numbers():
    assert set(GOLDEN) == set(MODELS)


every_network = pytest.mark.parametrize("name", MODELS)
with_batch_stats = pytest.mark.parametrize("name", [name for name in MODELS if GOLDEN[name].batch_stats])


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def images_for(name, count=3):
    return normal(count, *GOLDEN[name].image)


@functools.cache
def trained_like(name):
    """The network and variables whose biases, scales and running statistics have left their initial 0 and 1."""
    module = build(name)
    leaves, tree = jax.tree.flatten(module.init(KEY, images_for(name)))
    moved = [leaf + 0.1 * np.abs(normal(*leaf.shape, seed=i)) if leaf.ndim == 1 else leaf
             for i, leaf in enumerate(leaves)]
    return module, jax.tree.unflatten(tree, moved)


def loss(module, variables, images, train):
    logits, _ = module.apply(variables, images, train=train, mutable=["batch_stats"])
    return -jax.nn.log_softmax(logits)[np.arange(len(images)), np.arange(len(images))].mean()


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@every_network
def test_the_golden_counts(name):
    golden = GOLDEN[name]
    variables = jax.eval_shape(build(name).init, KEY, jnp.zeros((1, *golden.image)))
    assert {layer: size(leaves) for layer, leaves in variables["params"].items()} == golden.layers
    assert size(variables["params"]) == golden.parameters
    assert size(variables.get("batch_stats", {})) == golden.batch_stats


@every_network
def test_the_stages_have_the_texts_shapes(name):
    module, images = build(name), jnp.zeros((2, *GOLDEN[name].image))
    logits, sown = jax.eval_shape(lambda: module.apply(module.init(KEY, images), images, mutable=["intermediates"]))
    assert logits.shape == (2, 10)
    expected = {f"stage{i}": ((2, *shape),) for i, shape in enumerate(GOLDEN[name].stages, start=1)}
    assert jax.tree.map(jnp.shape, sown["intermediates"]) == expected


@pytest.mark.parametrize("train", [False, True])
@every_network
def test_every_parameter_gets_a_gradient_and_the_right_one(name, train):
    """In float64: not 0, and along one random direction for each parameter what central differences say."""
    module, variables = trained_like(name)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        stats = {key: value for key, value in variables.items() if key != "params"}
        images = images_for(name).astype(np.float64)

        def at(params):
            return loss(module, {"params": params, **stats}, images, train)

        at = jax.jit(jax.value_and_grad(at), compiler_options={"xla_backend_optimization_level": 0})
        paths, tree = jax.tree_util.tree_flatten_with_path(variables["params"])
        leaves = [leaf for _, leaf in paths]
        gradients = jax.tree.leaves(at(variables["params"])[1])
        largest = max(jnp.abs(gradient).max() for gradient in gradients)
        for i, (path, leaf) in enumerate(paths):
            direction = normal(*leaf.shape, seed=100 + i).astype(np.float64)
            direction *= 1e-7 / np.linalg.norm(direction)
            above, below = (at(jax.tree.unflatten(tree, [*leaves[:i], leaf + step, *leaves[i + 1:]]))[0]
                            for step in (direction, -direction))
            np.testing.assert_allclose((above - below) / 2, (gradients[i] * direction).sum(), rtol=1e-5, atol=1e-14)

            layer, kind = (key.key for key in path)
            magnitude = jnp.abs(gradients[i]).max() / largest
            if train and kind == "bias" and layer in GOLDEN[name].silenced:
                assert magnitude < 1e-12
            else:
                assert magnitude > 1e-4, f"{layer} {kind}"


@every_network
def test_evaluation_is_deterministic_and_sees_each_image_alone(name):
    module, variables = trained_like(name)
    images = images_for(name)
    logits, unchanged = module.apply(variables, images, mutable=["batch_stats"])
    np.testing.assert_array_equal(module.apply(variables, images), logits)
    for i in range(len(images)):
        np.testing.assert_allclose(module.apply(variables, images[i:i + 1])[0], logits[i], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, unchanged.get("batch_stats", {}), variables.get("batch_stats", {}))


@with_batch_stats
def test_training_normalises_by_the_batch_and_moves_the_statistics(name):
    module, variables = trained_like(name)
    logits, new = module.apply(variables, images_for(name), train=True, mutable=["batch_stats"])
    assert jnp.abs(logits - module.apply(variables, images_for(name))).max() > 1e-3
    for old, moved in zip(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(new), strict=True):
        assert (old != moved).all()


@pytest.mark.parametrize(("name", "decay", "epsilon"), [("lenet_bn", 0.9, 1e-5), ("lenet_relu_bn", 0.99, 1e-3)])
def test_batch_norms_follow_their_text(name, decay, epsilon):
    """The textbook's are PyTorch's, the TensorFlow text's Keras's: read off images of nothing but zeros."""
    module = build(name)
    zeros = jnp.zeros((4, *GOLDEN[name].image))
    variables = module.init(KEY, zeros)
    variables["params"]["conv1"]["bias"] = jnp.full(6, 2.0)
    _, new = module.apply(variables, zeros, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(new["batch_stats"]["norm1"]["mean"], 2 * (1 - decay), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["norm1"]["var"], decay, rtol=1e-5)
    variables["batch_stats"]["norm1"]["var"] = jnp.zeros(6)
    _, state = module.apply(variables, zeros, capture_intermediates=True, mutable=["intermediates"])
    (y,) = state["intermediates"]["norm1"]["__call__"]
    np.testing.assert_allclose(y, 2 / math.sqrt(epsilon), rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in MODELS), ("mlp", {"dropout_rate": 0.5})],
                         ids=str)
def test_init_is_the_same_in_both_modes_and_for_any_batch(name, options):
    module = build(name, **options)
    first = module.init(KEY, images_for(name), train=False)
    for other in (module.init(KEY, images_for(name), train=True), module.init(KEY, images_for(name, 1), train=True)):
        jax.tree.map(np.testing.assert_array_equal, first, other)


def test_the_sigmoid_has_the_texts_slopes():
    """At most a quarter: each of LeNet's four shrinks the gradient, which is what ReLU and batch norm mend."""
    slopes = json.loads((Path(__file__).parents[1] / "golden" / "worked_examples.json").read_text())["notebook"]
    slope = jax.vmap(jax.grad(nn.sigmoid))(jnp.linspace(-2, 2, 101))
    np.testing.assert_allclose(slope.max(), slopes["sigmoid_slope"]["at_0"], rtol=1e-6)
    np.testing.assert_allclose(slope[jnp.array([0, -1])], slopes["sigmoid_slope"]["at_2"], atol=1e-5)


@every_network
def test_channels_and_classes_are_free(name):
    module, images = build(name, num_classes=7), normal(2, 32, 32, 3)
    logits = module.apply(module.init(KEY, images), images)
    assert logits.shape == (2, 7)
    assert jnp.isfinite(logits).all()


@pytest.mark.parametrize("name", [name for name in MODELS if GOLDEN[name].smallest])
def test_a_too_small_image_is_refused_with_a_reason(name):
    smallest, module = GOLDEN[name].smallest, build(name)
    assert jax.eval_shape(module.init, KEY, jnp.zeros((1, smallest, smallest, 1)))
    with pytest.raises(ValueError, match=r"does not fit into an input .* too small for this network"):
        module.init(KEY, jnp.zeros((1, smallest - 1, smallest, 1)))


@every_network
def test_bfloat16_computes_with_float32_parameters(name):
    """The dtype by its name, as a config has it."""
    module, variables = trained_like(name)
    half = build(name, dtype="bfloat16")
    initial = half.init(KEY, images_for(name))
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {np.dtype("float32")}
    logits, new = half.apply(variables, images_for(name), train=True, mutable=["batch_stats"])
    assert logits.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new))
    exact = module.apply(variables, images_for(name))
    np.testing.assert_allclose(half.apply(variables, images_for(name)).astype(jnp.float32), exact, rtol=0,
                               atol=0.03 * jnp.abs(exact).max())


def test_dropout_acts_in_training_alone():
    module = build("mlp", dropout_rate=0.5)
    images = images_for("mlp")
    variables = module.init(KEY, images)
    one, same, other = (module.apply(variables, images, train=True, rngs={"dropout": jax.random.key(seed)})
                        for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    np.testing.assert_array_equal(module.apply(variables, images), build("mlp").apply(variables, images))


def test_the_hidden_sizes_of_the_mlp_are_free():
    variables = jax.eval_shape(build("mlp", hidden_sizes=[5]).init, KEY, jnp.zeros((1, 4, 4, 1)))
    assert jax.tree.map(jnp.shape, variables["params"]["dense2"]) == {"kernel": (5, 10), "bias": (10,)}


def test_options_override_what_the_name_chose():
    assert build("lenet_bn", norm="none") == build("lenet", padding=0)
    assert build("lenet_bn", norm=None) == build("lenet_bn")


@pytest.mark.parametrize(("name", "options", "words"), [
    ("lenett", {}, "no network 'lenett'; did you mean 'lenet'.* known: lenet, "),
    ("zzz", {}, "no network 'zzz'; known: lenet, "),
    ("lenet", {"nrom": "batch"}, "'lenet' has no option 'nrom'; did you mean 'norm'"),
    ("lenet_bn", {"parent": "x"}, "'lenet_bn' has no option 'parent'"),
    ("mlp", {"padding": 1}, "'mlp' has no option 'padding'.* known: dropout_rate, dtype, hidden_sizes"),
], ids=str)
def test_build_says_what_is_wrong(name, options, words):
    with pytest.raises(UserError, match=words):
        build(name, **options)


@pytest.mark.parametrize(("options", "words"), [({"norm": "bach"}, "did you mean 'batch'"),
                                                ({"initializer": "xavier"}, "did you mean 'xavier_uniform'")], ids=str)
def test_a_wrong_value_of_an_option_names_the_closest(options, words):
    with pytest.raises(UserError, match=words):
        build("lenet", **options).init(KEY, images_for("lenet"))
