"""Every network against PyTorch: arrays that were stored once, and the same network written in torch here."""
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from modern_cnn.models import MODELS, build
from tests.golden.weights import golden_images, golden_labels, golden_state
from tests.models.torch_layout import our_names, our_variables

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = json.loads((GOLDEN / "lenet_shapes.json").read_text())
STORED = {"d2l_lenet": "lenet", "d2l_bn_lenet": "lenet_bn", "seed_lenet": "lenet_relu"}
# values per channel behind each running variance of d2l_bn_lenet, for its batch of 4
COUNTS = {"norm1": 4 * 24 * 24, "norm2": 4 * 8 * 8, "norm3": 4, "norm4": 4}


def close(got, want, tolerance):
    """Equal to `tolerance` of the largest number."""
    assert np.shape(got) == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(np.asarray(want)).max())


def training(module, variables, images, labels):
    """(loss, logits, new batch_stats, gradients) of mean cross-entropy in training mode."""
    others = {name: value for name, value in variables.items() if name != "params"}

    def loss(params):
        logits, new = module.apply({"params": params, **others}, images, train=True, mutable=["batch_stats"])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return losses.mean(), (logits, new.get("batch_stats", {}))

    (value, (logits, stats)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return value, logits, stats, gradients


@pytest.fixture(params=STORED)
def stored(request):
    """(golden arrays, our module, our variables, images NHWC, {PyTorch name: our name})."""
    golden = np.load(GOLDEN / f"{request.param}.npz")
    shapes = SHAPES[request.param]
    variables = our_variables(golden_state(shapes, int(golden["seed"])))
    return golden, build(STORED[request.param]), variables, golden["x"].transpose(0, 2, 3, 1), our_names(shapes)


def test_the_rule_makes_the_stored_images_and_labels(stored):
    golden, *_ = stored
    np.testing.assert_array_equal(golden_images(golden["x"].shape, int(golden["seed"])), golden["x"])
    np.testing.assert_array_equal(golden_labels(*golden["eval_logits"].shape, int(golden["seed"])), golden["labels"])


def test_evaluation_gives_the_stored_logits(stored):
    golden, module, variables, images, _ = stored
    close(module.apply(variables, images), golden["eval_logits"], 1e-5)


def test_evaluation_in_float64_gives_the_stored_logits_to_the_last_digits(stored):
    golden, module, variables, images, _ = stored
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        close(module.apply(wide, images.astype(np.float64)), golden["eval_logits_f64"], 1e-12)


def test_training_gives_the_stored_loss_gradients_and_statistics(stored):
    golden, module, variables, images, names = stored
    loss, logits, stats, gradients = training(module, variables, images, golden["labels"])
    close(logits, golden["train_logits"], 1e-4)
    np.testing.assert_allclose(loss, golden["train_loss"], rtol=1e-5)

    # a bias that a batch norm takes out again has a gradient of 0 but for rounding: hence the absolute part
    largest = golden["grad_norms"].max()
    for name, norm in zip(golden["grad_names"], golden["grad_norms"], strict=True):
        _, layer, leaf = names[name]
        np.testing.assert_allclose(np.linalg.norm(gradients[layer][leaf].ravel()), norm, rtol=1e-3, atol=1e-6 * largest)
    close(gradients["conv1"]["kernel"].transpose(3, 2, 0, 1), golden["grad_first"], 1e-4)
    close(gradients["dense3"]["bias"], golden["grad_last"], 1e-4)

    updated = [name for name in golden.files if name.startswith("after:")]
    assert len(updated) == len(jax.tree.leaves(stats))
    for name in updated:
        _, layer, leaf = names[name.removeprefix("after:")]
        want = golden[name].astype(np.float64)
        if leaf == "var":  # PyTorch stores the unbiased variance, the textbook and we the biased one
            kept = 0.9 * variables["batch_stats"][layer]["var"].astype(np.float64)
            want = kept + (want - kept) * (COUNTS[layer] - 1) / COUNTS[layer]
        close(stats[layer][leaf], want, 1e-5)


def textbook(padding, features, norm=False):
    """The textbook's chain: 5x5 convolutions, sigmoid, average pooling."""
    def block(layer, size, normalise, *after):
        return [layer, *([normalise(size)] if norm else []), nn.Sigmoid(), *after]
    return nn.Sequential(
        *block(nn.Conv2d(1, 6, 5, padding=padding), 6, nn.BatchNorm2d, nn.AvgPool2d(2)),
        *block(nn.Conv2d(6, 16, 5), 16, nn.BatchNorm2d, nn.AvgPool2d(2)), nn.Flatten(),
        *block(nn.Linear(features, 120), 120, nn.BatchNorm1d), *block(nn.Linear(120, 84), 84, nn.BatchNorm1d),
        nn.Linear(84, 10))


def notebook(norm=False):
    """The TensorFlow text's chain: 3x3 convolutions, max-pooling, ReLU; Keras's epsilon and decay."""
    def normalise(size):
        return [nn.BatchNorm2d(size, eps=1e-3, momentum=0.01)] if norm else []
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), *normalise(6), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(6, 16, 3), *normalise(16), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
                         nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


TORCH = {
    "mlp": perceptron,
    "lenet": lambda: textbook(2, 400),
    "lenet_bn": lambda: textbook(0, 256, norm=True),
    "lenet_relu": notebook,
    "lenet_relu_bn": lambda: notebook(norm=True),
}


def test_every_network_has_a_torch_twin():
    assert set(TORCH) == set(MODELS)


@pytest.mark.parametrize("name", STORED)
def test_the_stored_networks_are_these_twins(name):
    shapes = {key: list(value.shape) for key, value in TORCH[STORED[name]]().state_dict().items()}
    assert shapes == SHAPES[name]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", TORCH)
def test_a_network_is_its_torch_twin(name, seed):
    """Random weights and images, in float64: logits in both modes, every gradient, the running means."""
    torch.manual_seed(seed)
    twin, labels = TORCH[name]().double(), torch.randint(10, (5,))
    images = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    for layer in twin:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in layer.weight, layer.bias, layer.running_mean, layer.running_var:
                nn.init.uniform_(tensor, 0.5, 1.5)
    variables = our_variables({key: value.clone() for key, value in twin.state_dict().items()})
    ours = images.numpy().transpose(0, 2, 3, 1)

    with jax.enable_x64(True):
        evaluated = build(name).apply(variables, ours)
        _, trained, stats, gradients = training(build(name), variables, ours, labels.numpy())
    close(evaluated, twin.eval()(images).detach(), 1e-10)
    logits = twin.train()(images)
    close(trained, logits.detach(), 1e-10)

    nn.functional.cross_entropy(logits, labels).backward()
    wanted = our_variables({key: parameter.grad for key, parameter in twin.named_parameters()})["params"]
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12 * largest),
                 gradients, wanted)
    after = our_variables(twin.state_dict()).get("batch_stats", {})
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, stats)
    for layer in stats:
        close(stats[layer]["mean"], after[layer]["mean"], 1e-10)


def test_the_running_variance_is_the_biased_one():
    """The one thing in which lenet_bn differs from its twin, and by exactly n / (n - 1)."""
    torch.manual_seed(0)
    twin, images = TORCH["lenet_bn"](), torch.randn(4, 1, 28, 28)
    variables = our_variables({key: value.clone().numpy() for key, value in twin.state_dict().items()})
    twin(images)
    _, new = build("lenet_bn").apply(variables, images.numpy().transpose(0, 2, 3, 1), train=True,
                                     mutable=["batch_stats"])
    theirs = our_variables({key: value.numpy() for key, value in twin.state_dict().items()})["batch_stats"]
    for layer, n in COUNTS.items():
        close((new["batch_stats"][layer]["var"] - 0.9) * n / (n - 1), theirs[layer]["var"] - 0.9, 1e-4)
