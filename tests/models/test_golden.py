"""Golden arrays, which PyTorch computed with weights that follow from their names, against our networks and twins."""
import zlib
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

from modern_cnn.models import build
from tests.functional.oracle import FAST_COMPILE
from tests.golden.weights import golden_images, golden_labels, golden_state
from tests.models.cases import slow
from tests.models.compare import close, our_step, torch_step
from tests.models.names import STORED, golden_weights, to_ours, to_torch
from tests.models.torch_nets import torch_net

GOLDEN = Path(__file__).parents[1] / "golden"


def numbered(*layers):
    return {f"stage{i}": layer for i, layer in enumerate(layers, start=1)}


# For each of our stages PyTorch's layer with the same output.
STAGES = {
    "d2l_lenet": numbered("2", "5", "8", "10"),
    "d2l_bn_lenet": numbered("3", "7", "11", "14"),
    "seed_lenet": numbered("2", "5", "8", "10"),
    "alexnet_s96": numbered("features.2", "features.5", "features.12"),
    "seed_vgg13": numbered("4", "9", "14", "19", "24"),
    "resnet18": {"stem": "maxpool", **numbered("layer1", "layer2", "layer3", "layer4")},
    "d2l_resnet18": {"stem": "0", **numbered("1", "2", "3", "4")},
    "seed_resnet18": {"stem": "0", **numbered("1", "2", "3", "4")},
}


def test_every_stored_file_is_compared():
    others = {"keras_resnet", "keras_adam", "zoo"}  # below, in test_optim, and in test_zoo
    assert {path.stem for path in GOLDEN.glob("*.npz")} == {*STORED, *others}
    assert STAGES.keys() == STORED.keys()


def test_the_keras_stem_is_that_of_keras_resnet():
    """Logits of Keras 3.15 in float64: both pad at bottom and right alone where a size is halved (a golden file)."""
    options = {"stem": "keras", "padding": "SAME", "shortcut": "conv", "use_bias": True, "width": 0.125}
    net, golden = build("resnet18", 10, epsilon=1e-3, **options), np.load(GOLDEN / "keras_resnet.npz")
    shapes = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 96, 96, 1), np.float32))
    names = to_torch("resnet18", jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes), **options)
    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, to_ours(
            "resnet18", golden_state({name: leaf.shape for name, leaf in names.items()}), **options))
        for size in (96, 224):
            images = golden_images((2, 1, size, size)).astype(np.float64).transpose(0, 2, 3, 1)
            close(jax.jit(net.apply, compiler_options=FAST_COMPILE)(variables, images), golden[f"logits{size}"], 1e-13)


# The LeNets in everything, the first ResNet in all but float64: the others cost minutes.
DEEP = [name for name in STORED if "lenet" not in name]
with_the_first_resnet, lenets = (
    [slow(name) if name in DEEP and name != also else name for name in STORED] for also in ("resnet18", ""))


@pytest.fixture(scope="module", params=with_the_first_resnet)
def stored(request):
    """Return the golden arrays, PyTorch's network, ours and its variables, images NCHW and labels.

    The networks have no dropout and PyTorch's unbiased running variance, as for the golden arrays.
    """
    golden, name = dict(np.load(GOLDEN / f"{request.param}.npz")), STORED[request.param]
    shape, seed, classes = tuple(golden["x_shape"]), int(golden["seed"]), golden["eval_logits"].shape[1]
    with torch.device("meta"):
        twin = torch_net(name, classes, shape[1])
    for layer in twin.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    names, state = golden_weights(name, twin, seed)
    twin.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, assign=True)
    twin.requires_grad_()
    module = build(name, classes)
    wanted = {"dropout_rate": 0.0, "unbiased": True}
    module = module.clone(**{field: value for field, value in wanted.items() if hasattr(module, field)})
    return SimpleNamespace(stages=STAGES[request.param], name=name, golden=golden, names=names, twin=twin,
                           module=module, variables=to_ours(name, state), images=golden_images(shape, seed),
                           labels=golden_labels(shape[0], classes, seed))


def ours(images):
    return images.transpose(0, 2, 3, 1)


def test_the_rule_makes_the_stored_images_and_labels(stored):
    assert zlib.crc32(stored.images.tobytes()) == stored.golden["x_crc32"]
    np.testing.assert_array_equal(stored.labels, stored.golden["labels"])


def test_evaluation_gives_the_stored_logits_and_stages(stored):
    """Each stage is compared by its shape, and by the mean and deviation of its values."""
    apply = jax.jit(lambda variables, images: stored.module.apply(variables, images, mutable=["intermediates"]))
    logits, sown = apply(stored.variables, ours(stored.images))
    close(logits, stored.golden["eval_logits"], 1e-5)

    assert set(stored.stages) == set(sown["intermediates"])
    layers = list(stored.golden["stage_names"])
    for stage, layer in stored.stages.items():
        (values,), i = sown["intermediates"][stage], layers.index(layer)
        batch, channels, *pixels = (int(n) for n in stored.golden["stage_shape"][i] if n)
        assert values.shape == (batch, *pixels, channels), stage
        values = np.asarray(values, np.float64)
        close((values.mean(), values.std(ddof=1)), stored.golden["stage_mean_std"][i], 1e-5, stage)


@pytest.mark.parametrize("stored", lenets, indirect=True)
def test_evaluation_in_float64_gives_the_stored_logits_to_the_last_digits(stored):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), stored.variables)
        apply = jax.jit(stored.module.apply, compiler_options=FAST_COMPILE)
        close(apply(wide, ours(stored.images).astype(np.float64)), stored.golden["eval_logits_f64"], 1e-12)


def test_training_gives_the_stored_loss_gradients_and_statistics(stored):
    golden, names = stored.golden, stored.names
    step = our_step(stored.module, stored.variables, ours(stored.images), stored.labels)
    (logits,) = step.logits
    close(logits, golden["train_logits"], 1e-4)
    np.testing.assert_allclose(step.loss, golden["train_loss"], rtol=1e-5)

    # a bias before a batch norm has no effect: its gradient is 0 up to rounding, hence the absolute tolerance
    gradients = to_torch(stored.name, stored.variables | {"params": step.gradients})
    largest = golden["grad_norms"].max()
    for published, norm in zip(golden["grad_names"], golden["grad_norms"], strict=True):
        np.testing.assert_allclose(np.linalg.norm(gradients[names[published]].ravel()), norm, rtol=1e-3,
                                   atol=1e-6 * largest, err_msg=published)
    first, last = golden["grad_names"][0], golden["grad_names"][-1]
    close(gradients[names[first]], golden["grad_first"], 1e-3)
    close(gradients[names[last]], golden["grad_last"], 1e-3)

    updated = to_torch(stored.name, stored.variables | ({"batch_stats": step.stats} if step.stats else {}))
    after = {key.removeprefix("after:"): value for key, value in golden.items() if key.startswith("after:")}
    assert len(after) == len(jax.tree.leaves(step.stats))
    for published, value in after.items():
        close(updated[names[published]], value, 1e-5, published)


def test_the_torch_twin_gives_the_stored_arrays(stored):
    """All twins are built like these, so they compute the published networks."""
    golden, twin = stored.golden, stored.twin
    images, labels = torch.tensor(stored.images), torch.tensor(stored.labels)
    with torch.no_grad():
        close(twin.eval()(images), golden["eval_logits"], 1e-5)
    step = torch_step(twin, images, labels)
    close(step.logits[0], golden["train_logits"], 1e-4)
    for published, norm in zip(golden["grad_names"], golden["grad_norms"], strict=True):
        np.testing.assert_allclose(np.linalg.norm(step.gradients[stored.names[published]]), norm, rtol=1e-3,
                                   atol=1e-6 * golden["grad_norms"].max(), err_msg=published)
    after = {key.removeprefix("after:"): value for key, value in golden.items() if key.startswith("after:")}
    assert len(after) == len(jax.tree.leaves(stored.variables.get("batch_stats", {})))
    for published, value in after.items():
        close(step.stats[stored.names[published]], value, 1e-5, published)
