"""Each network equals its twin in PyTorch, in float64: logits in both modes, gradients, running statistics.

The default run takes a narrow and shallow network of each family; the slow run takes more of them, each option that
changes results, and all names except resnet1202 at their own depth.
"""
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import torch

from modern_cnn import functional
from tests.functional.oracle import FAST_COMPILE
from tests.models.cases import DEEP, NARROW, SHALLOW, SMALL, Case, case, slow
from tests.models.compare import close, our_step, torch_step

QUICK = [
    *map(case, ("lenet_bn", "lenet_relu_bn", "alexnet", "nin_cifar")),
    case("mlp", dropout_rate=0.3), case("lenet", activation="tanh"), replace(case("vgg11_bn"), image=(32, 40, 3)),
    case("resnet18", norm="group", stage_sizes=(1, 1), stage_features=(64, 128)),
    case("resnet50", stride_in_1x1=True, dropout_rate=0.2, **SHALLOW),
    case("preact_resnet18", stage_sizes=(1, 1), stage_features=(64, 128)), case("resnet20", stage_sizes=(1, 1, 1)),
    case("densenet161", block_sizes=(1, 2), dropout_rate=0.2), case("airbench94"),
    case("resnext50_32x4d", groups=4, base_width=16, **SHALLOW),
    case("mobilenet_v1", stage_sizes=(1, 2), stage_features=(64, 128), dropout_rate=0.2),
    case("regnet_x_3_2gf", stage_sizes=(2, 1), stage_features=(96, 192), dropout_rate=0.2),
]
MORE = [
    *(each for each in SMALL if each not in QUICK),
    *(case(name, dropout_rate=0.3) for name in ("lenet", "lenet_relu")),
    case("alexnet", norm="batch"), case("nin_d2l", norm="batch"), case("vgg13_cifar", skip=True),
    *(case("resnet18", norm=norm, **SHALLOW) for norm in ("none", "layer", "group", "instance")),
    case("preact_resnet50", stride_in_1x1=True, norm="none", **SHALLOW),
    case("resnet20", stage_sizes=(1, 1, 1), shortcut="projection"),
    case("resnext50_32x4d", norm="none", preactivation=True, **SHALLOW), case("resnet50", base_width=128, **SHALLOW),
    *(case("mobilenet_v1", **options, **SHALLOW) for options in ({"norm": "none"}, {"stem": "cifar"},
                                                                 {"activation": "relu6", "norm": "group"})),
    case("regnet_x_3_2gf", stage_sizes=(1, 1), stage_features=(48, 96), norm="group"),
    case("regnet_x_3_2gf", stage_sizes=(1, 1), stage_features=(48, 96), stem="cifar", norm="none"),
    case("densenet121", block_sizes=(1, 2), compression=0.7),
    case("resnet20", stage_sizes=(1, 2, 1), preactivation=True),
    case("resnet20", stage_sizes=(1, 2, 1), shortcut="none"),
    *(case(name, activation=kind) for name, kind in (("lenet", "relu"), ("lenet_bn", "relu"))),
    Case("nin_d2l", (99, 99, 1), NARROW | {"hidden": (24, 16)}, flattens=True),
    *(replace(case("googlenet"), image=image) for image in ((15, 30, 3), (112, 65, 3))),  # windows beyond the edge
    replace(case("densenet121", block_sizes=(2, 1)), image=(29, 35, 3)),  # odd maps, halved
]
SLOW = [each for name, each in DEEP.items() if each not in [*QUICK, *MORE] and name != "resnet1202"]


@pytest.fixture
def certain_dropout(monkeypatch):
    """Replace dropout on both sides by x + rate * x * |x|, which is not random but shows a wrong place or rate.

    (Rectifying and max-pooling commute with it, as with dropout itself in expectation.)
    """
    monkeypatch.setattr(functional, "dropout", lambda key, x, rate: x + rate * x * abs(x))
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x + self.p * x * x.abs() if self.training else x)


def may_be_still(name, names):
    """Return whether a gradient may be 0: the bias of a convolution or dense layer, which a batch norm may cancel."""
    layer, _, leaf = name.rpartition(".")
    normalised = any(key.endswith("running_mean") for key in names)
    return leaf == "bias" and f"{layer}.running_mean" not in names and normalised


def sees_each_image_alone(evaluate, images):
    """Assert that logits are the same twice, in another order and in another batch."""
    logits = evaluate(images)
    np.testing.assert_array_equal(evaluate(images), logits)
    close(evaluate(images[::-1])[::-1], logits, 1e-12)
    company = evaluate(np.concatenate([images[:1], 1 - images[1:]]))
    close(company[0], logits[0], 1e-12)
    # above rounding, by an amount that depends on the network: 34 plain layers let almost nothing through
    assert np.abs(company[1:] - logits[1:]).max() > 1e-9 * np.abs(logits).max()


def compare(case):
    twin, state = case.twin()
    images, labels = case.images(), case.labels()
    module = case.ours()
    if hasattr(module, "unbiased"):
        module = module.clone(unbiased=True)  # as PyTorch; test_models checks the networks' own choices
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), case.variables(state))
        apply = jax.jit(partial(module.apply, mutable=["aux_logits", "batch_stats"]), compiler_options=FAST_COMPILE)
        evaluated, new = apply(variables, images)
        assert not jax.tree.leaves(new.get("aux_logits", {}))
        jax.tree.map(np.testing.assert_array_equal, new.get("batch_stats", {}), variables.get("batch_stats", {}))
        sees_each_image_alone(lambda images: np.asarray(apply(variables, images)[0]), images)
        step = our_step(module, variables, images, labels)
    theirs = torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        close(evaluated, twin.eval()(theirs), 1e-10)

    wanted = torch_step(twin, theirs, torch.tensor(labels))
    assert len(step.logits) == len(wanted.logits)
    for got, want in zip(step.logits, wanted.logits, strict=True):
        close(got, want, 1e-10)
    np.testing.assert_allclose(step.loss, wanted.loss, rtol=1e-10)

    gradients = case.torch_names(variables | {"params": step.gradients})
    largest = max(np.abs(gradient).max() for gradient in wanted.gradients.values())
    for key, want in wanted.gradients.items():
        np.testing.assert_allclose(gradients[key], want, rtol=0, err_msg=key,
                                   atol=1e-8 * np.abs(want).max() + 1e-12 * largest)
        if not may_be_still(key, state):
            assert np.abs(want).max() > 1e-9 * largest, f"{key} gets no gradient"
    after = case.torch_names(variables | ({"batch_stats": step.stats} if step.stats else {}))
    assert len(wanted.stats) == len(jax.tree.leaves(step.stats))
    for key, want in wanted.stats.items():
        close(after[key], want, 1e-10, key)


@pytest.mark.usefixtures("certain_dropout")
@pytest.mark.parametrize("case", [*QUICK, *map(slow, MORE)], ids=str)
def test_a_network_equals_its_twin(case):
    compare(case)


@pytest.mark.usefixtures("certain_dropout", "short_googlenet")
def test_a_googlenet_of_three_blocks_equals_its_twin():
    compare(case("googlenet"))


@pytest.mark.slow
@pytest.mark.usefixtures("certain_dropout")
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_a_network_of_full_depth_equals_its_twin(case):
    compare(case)
