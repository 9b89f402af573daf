"""Initial weights have the distributions of each network's source."""
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch

from modern_cnn import initializers, layers
from modern_cnn.models import MODELS, build
from tests.draws import is_normal, is_uniform
from tests.functional.oracle import FAST_COMPILE
from tests.models.cases import SHALLOW, case, slow

pytestmark = pytest.mark.usefixtures("short_googlenet")
KEY = jax.random.key(3)


class Rule(NamedTuple):
    """The distributions of kernels and biases, of convolutions and of dense layers.

    'torch' is U(+-1/sqrt(fan_in)), 'xavier' U(+-sqrt(6/(fan_in + fan_out))), 'he_in' and 'he_out' N(0, 2/fan). A
    number is the deviation of a normal distribution, or the constant value of a bias. 'dirac' is 'torch' but for the
    first filters, which copy a channel each; 'unit' is uniform with a deviation of 1.
    """
    conv: str | float
    dense: str | float
    conv_bias: str | float
    dense_bias: str | float


KERAS, TEXTBOOK = Rule("xavier", "xavier", 0, 0), Rule("xavier", "xavier", "torch", "torch")
VGG, RESNET = Rule("he_out", 0.01, 0, 0), Rule("he_out", "torch", "torch", "torch")
DENSENET = Rule("he_in", "torch", "torch", 0)
RULES = {
    "mlp": KERAS, "lenet": TEXTBOOK, "lenet_bn": TEXTBOOK, "lenet_relu": KERAS, "lenet_relu_bn": KERAS,
    "alexnet": Rule("torch", "torch", "torch", "torch"), "alexnet_d2l": TEXTBOOK,
    "alexnet_2012": Rule(0.01, 0.01, 0, 0),
    **{f"vgg{depth}{norm}": VGG for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
    "vgg11_d2l": TEXTBOOK, "vgg13_cifar": KERAS,
    "nin_d2l": TEXTBOOK, "nin_cifar": DENSENET, "nin_imagenet": DENSENET,
    "googlenet": Rule(0.01, 0.01, "torch", "torch"), "googlenet_d2l": TEXTBOOK, "googlenet_2014": KERAS,
    **{f"{kind}resnet{depth}": RESNET for kind in ("", "preact_") for depth in (18, 34, 50, 101, 152)},
    **{f"resnet{depth}": RESNET for depth in (20, 32, 44, 56, 110, 1202)}, "plain18": RESNET, "plain34": RESNET,
    "resnext50_32x4d": RESNET, "resnet18_d2l": TEXTBOOK, "resnet18_cifar": KERAS, "resnet34_cifar": KERAS,
    **{f"densenet{depth}": DENSENET for depth in (121, 161, 169, 201)},
    "densenet_bc_100_12": DENSENET, "densenet_d2l": TEXTBOOK, "mobilenet_v1": DENSENET, "regnet_x_3_2gf": VGG,
    "regnetx32_d2l": TEXTBOOK, "airbench94": Rule("dirac", "unit", "torch", "torch"),
}
RAISED = {"alexnet_2012": ("conv2", "conv4", "conv5", "dense1", "dense2")}  # biases of 1: the paper's section 5
# one of every class with every rule
DRAWN = [*map(case, ("mlp", "lenet", "lenet_relu_bn", "alexnet", "alexnet_2012", "alexnet_d2l", "vgg11_bn", "vgg11_d2l",
                     "vgg13_cifar", "nin_d2l", "nin_cifar", "googlenet", "googlenet_2014", "googlenet_d2l")),
         *(case(name, **SHALLOW) for name in ("preact_resnet50", "resnet18_cifar")), case("resnet18_d2l"),
         case("densenet121", block_sizes=(2, 2)), case("densenet_d2l", block_sizes=(2, 2)),
         case("mobilenet_v1", width=0.5, **SHALLOW), case("regnetx32_d2l", width=0.5, stage_sizes=(2, 1)),
         case("regnet_x_3_2gf", stage_sizes=(2, 1), stage_features=(96, 192)),
         case("airbench94", width=0.25)]
QUICK = ("mlp", "lenet", "alexnet_2012", "vgg11_bn", "densenet121", "airbench94")


def test_every_network_has_a_rule_and_every_rule_is_tested():
    assert set(RULES) == set(MODELS)
    chosen = {name: (type(build(name)), build(name).initializer) for name in MODELS}
    drawn = {chosen[each.name]: RULES[each.name] for each in DRAWN}
    assert {name: drawn.get(choice) for name, choice in chosen.items()} == RULES


def fits(values, how, kernel_shape):
    """Return (values divided by the deviation or bound that the rule `how` gives, whether they must be normal)."""
    *window, inside, outside = kernel_shape
    fan_in, fan_out = np.prod(window) * inside, np.prod(window) * outside
    if how == "dirac":
        copied = min(inside, outside)
        wanted = np.zeros((*kernel_shape[:3], copied))
        wanted[window[0] // 2, window[1] // 2] = np.eye(inside, copied)
        np.testing.assert_array_equal(values[..., :copied], wanted)
        values, how = values[..., copied:], "torch"
    deviation, normal = {"torch": (fan_in ** -0.5, False), "unit": (3 ** 0.5, False),
                         "xavier": ((6 / (fan_in + fan_out)) ** 0.5, False),
                         "he_in": ((2 / fan_in) ** 0.5, True), "he_out": ((2 / fan_out) ** 0.5, True),
                         }.get(how, (how, True))
    return np.ravel(values) / deviation, normal


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("name", ["dirac", "identity"])
def test_grouped_kernels_copy_their_channels(name, groups):
    """As torch.nn.init.dirac_ with these groups; a convolution of as many channels as it has inputs copies them all."""
    conv = layers.Conv(8, 3, padding=1, groups=groups, use_bias=False,
                       kernel_init=initializers.initializers(name, "conv")["kernel_init"])
    images = np.random.RandomState(0).randn(2, 5, 5, 8).astype(np.float32)
    np.testing.assert_array_equal(conv.init_with_output(KEY, images)[0], images)
    wide = layers.Conv(16, 3, groups=groups, kernel_init=initializers.initializers("dirac", "conv")["kernel_init"])
    kernel = np.asarray(wide.init(KEY, images)["params"]["kernel"])
    wanted = torch.nn.init.dirac_(torch.empty(16, 8 // groups, 3, 3), groups).permute(2, 3, 1, 0).numpy()
    copies = wanted.any((0, 1, 2))
    assert copies.sum() == 8
    np.testing.assert_array_equal(kernel[..., copies], wanted[..., copies])


@pytest.mark.parametrize("initializer", initializers.INITIALIZERS)
def test_every_initializer_gives_logits_of_the_size_of_one(initializer):
    """Also in a network that was published with another."""
    images = jax.random.normal(KEY, (16, 28, 28, 1))
    for name in ("lenet_relu_bn", "lenet_relu"):
        logits, _ = build(name, initializer=initializer).init_with_output(KEY, images)
        assert abs(np.asarray(logits)).max() < 10


def test_blocks_of_a_loop_are_drawn_apart():
    module = build("resnet20", scan=True, stage_sizes=(4, 1), stage_features=(16, 32))
    params = jax.jit(module.init, compiler_options=FAST_COMPILE)(KEY, np.zeros((1, 8, 8, 3), np.float32))["params"]
    kernels = np.asarray(params["stage1_blocks"]["conv1"]["kernel"]).reshape(3, -1)
    for kernel in kernels:
        is_normal(kernel / (2 / (9 * 16)) ** 0.5, 1)
    np.testing.assert_allclose(np.corrcoef(kernels), np.eye(3), atol=0.1)  # their deviation is 0.02


@pytest.mark.parametrize("case", [each if each.name in QUICK else slow(each) for each in DRAWN], ids=str)
def test_the_first_weights_are_drawn_as_in_the_source(case):
    """Layers with a thousand weights are tested one by one, and all layers of a kind together."""
    variables = jax.jit(case.ours().init, compiler_options=FAST_COMPILE)(KEY, case.images().astype(np.float32))
    rule, pooled, layers = RULES[case.name], {}, {}
    stats = jax.tree_util.tree_flatten_with_path(variables.get("batch_stats", {}))[0]
    kernels = [(path, leaf) for path, leaf in stats if path[-1].key == "kernel"]  # not learned
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables["params"])[0] + kernels:
        *layer, kind = (key.key for key in path)
        layers.setdefault(tuple(layer), {})[kind] = np.asarray(leaf, np.float64)
    for layer, leaves in layers.items():
        if "kernel" not in leaves:
            assert (leaves.get("scale", 1) == np.ones_like(leaves["bias"])).all()
            assert (leaves["bias"] == 0).all()
            continue
        shape = leaves["kernel"].shape
        kernel_rule, bias_rule = (rule.conv, rule.conv_bias) if len(shape) == 4 else (rule.dense, rule.dense_bias)
        if layer[-1] in RAISED.get(case.name, ()):
            bias_rule = 1
        for kind, how in ("kernel", kernel_rule), ("bias", bias_rule):
            if kind == "bias" and not isinstance(how, str):
                assert np.all(leaves.get("bias", how) == how)
            elif kind in leaves:
                values, normal = fits(leaves[kind], how, shape)
                pooled.setdefault((kind, how), []).append(values)
                if values.size >= 1000:
                    (is_normal if normal else is_uniform)(values, 1)
    for (_, how), together in pooled.items():
        values = np.concatenate(together)
        (is_uniform if how in ("torch", "xavier", "unit", "dirac") else is_normal)(values, 1)
    for path, leaf in ((path, leaf) for path, leaf in stats if path[-1].key != "kernel"):
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, float(path[-1].key == "var")))
