"""All networks as published: counts and shapes, traced without computing; and the errors of `build`."""
import functools
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modern_cnn.errors import UserError
from modern_cnn.models import INPUTS, MODELS, build, googlenet
from tests.models.cases import CLASSES, DEEP, SMALL, slow

KEY = jax.random.key(0)
NETWORKS = json.loads((Path(__file__).parents[1] / "golden" / "networks.json").read_text())
# Others of a family differ in a depth or a norm; test_torchvision traces DenseNet-121 too.
DEEPER = re.compile(r"vgg(13|16|19)|vgg1[39]_bn|densenet(121|161|169|201|_bc_.*)|(preact_)?resnet(34|101|152)|plain34"
                    r"|resnet(32|44|56)|resnet34_cifar")
every_network = pytest.mark.parametrize("name", [slow(name) if DEEPER.fullmatch(name) else name for name in MODELS])
QUICK = ("mlp", "lenet_bn", "alexnet_2012", "vgg11_bn", "nin_cifar", "resnet18", "densenet_bc_100_12")
every_kind = pytest.mark.parametrize("case", [each if each.name in QUICK else slow(each) for each in SMALL], ids=str)
# Traced sooner, with the same totals.
LOOPS = re.compile(r"(preact_)?resnet(50|101|152)|resnet(44|56|110|1202)|resnext.*|regnet.*")


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def initialised(module, shape):
    """Return (logits, variables and sown arrays) of `init` on images of `shape`, as shapes and dtypes."""
    images = jnp.zeros(shape)
    return jax.eval_shape(lambda: module.init_with_output(KEY, images, mutable=True))


def looped(name, *args, **options):
    return build(name, *args, **options, **({"scan": True} if LOOPS.fullmatch(name) else {}))


@functools.cache
def as_published(name):
    image, classes = INPUTS[name]
    return initialised(looped(name, classes), (2, *image))


def test_every_network_has_golden_numbers():
    assert list(NETWORKS) == list(MODELS) == list(INPUTS)


@pytest.mark.parametrize("name", [slow(name) if DEEPER.fullmatch(name) or name.startswith(("googlenet", "densenet1"))
                                  else name for name in MODELS])  # test_summary counts googlenet
def test_the_golden_counts(name):
    _, variables = as_published(name)
    assert size(variables["params"]) == NETWORKS[name]["parameters"]
    assert size(variables.get("batch_stats", {})) == NETWORKS[name]["batch_stats"]


@pytest.mark.parametrize(("name", "options", "parameters"), [
    ("vgg11_d2l", {"width": 0.25}, 43_093_322), ("googlenet", {"aux_logits": False}, 6_624_904),
    slow("googlenet_2014", {"aux_logits": False}, 6_998_552), ("alexnet_2012", {"groups": 1}, 62_378_344),
    slow("googlenet", {"aux_logits": False, "kernel_size": 5}, 6_624_904 + 380_928),
    ("resnet50", {"stride_in_1x1": True}, 25_557_032), slow("resnet101", {"stride_in_1x1": True}, 44_549_160),
    # torchvision's wide_resnet50_2 and resnext101_32x8d; MobileNet's multipliers of 0.75, 0.5 and 0.25 (Keras's counts)
    ("resnet50", {"base_width": 128}, 68_883_240), slow("resnet101", {"groups": 32, "base_width": 8}, 88_791_336),
    ("mobilenet_v1", {"width": 0.25}, 470_072), slow("mobilenet_v1", {"width": 0.5}, 1_331_592),
    slow("mobilenet_v1", {"width": 0.75}, 2_585_560),
    # one 5x5 convolution in place of two of 3x3: 25 weights instead of 18 for each pair of channels
    ("vgg13_cifar", {"stage_sizes": (1,) * 5, "kernel_size": 5}, 165_514 + sum(
        25 * a * b + b for a, b in zip((3, 64, 128, 256, 512), (64, 128, 256, 512, 512), strict=True))),
    # a flattened map of 8x8x192 and two dense layers in place of the last block's 3x3, 1x1 and 1x1 convolutions
    ("nin_cifar", {"hidden": (512,)}, 966_986 - (9 + 1) * 192 ** 2 - 2 * 192 - 1_930 + 8 * 8 * 192 * 512 + 512 + 5_130),
    ("nin_cifar", {"hidden": ()}, 966_986 - (9 + 1) * 192 ** 2 - 2 * 192 - 1_930 + 8 * 8 * 192 * 10 + 10),
    ("vgg13_cifar", {"hidden": (256, 64)}, 9_404_992 + 148_426), ("vgg13_cifar", {"skip": True}, 9_570_506),
], ids=str)
def test_the_golden_counts_of_variants(name, options, parameters):
    image, classes = INPUTS[name]
    _, variables = initialised(looped(name, classes, **options), (1, *image))
    assert size(variables["params"]) == parameters


@every_network
def test_the_stages_have_the_published_shapes(name):
    logits, variables = as_published(name)
    assert logits.shape == (2, INPUTS[name][1])
    sown = {stage: value.shape for stage, (value,) in variables["intermediates"].items()}
    assert sown == {stage: (2, *shape) for stage, shape in NETWORKS[name]["stages"].items()}


@every_kind
def test_init_makes_the_same_variables_in_both_modes(case):
    """GoogLeNet's auxiliary heads are made too, though they run only in training; sown arrays are no variables."""
    evaluating, training = (jax.eval_shape(functools.partial(case.ours().init, train=train), KEY, case.images())
                            for train in (False, True))
    assert evaluating == training
    assert set(evaluating) == {"params"} | ({"batch_stats"} if NETWORKS[case.name]["batch_stats"] else set())


@pytest.mark.parametrize("name", ["googlenet", slow("googlenet_2014")])
def test_the_auxiliary_heads_speak_in_training_alone(name, monkeypatch):
    few = tuple({label: blocks[label] for label in blocks if label in ("3a", "4a", "4d", "5b")}
                for blocks in googlenet.INCEPTIONS)
    monkeypatch.setattr(googlenet, "INCEPTIONS", few)
    module, images = build(name, 7, width=0.125), jnp.zeros((2, 96, 96, 3))
    variables = jax.eval_shape(module.init, KEY, images)

    def sown(module, train):
        apply = functools.partial(module.apply, train=train, mutable=["aux_logits", "batch_stats"],
                                  rngs={"dropout": KEY})
        _, collections = jax.eval_shape(apply, variables, images)
        return [leaf.shape for leaf in jax.tree.leaves(collections.get("aux_logits", {}))]

    assert sown(module, train=True) == [(2, 7), (2, 7)]
    assert sown(module, train=False) == []
    variables["params"] = {name: layer for name, layer in variables["params"].items() if not name.startswith("aux")}
    assert sown(module.clone(aux_logits=False), train=True) == []


@every_kind
def test_channels_and_classes_are_free(case):
    """The images are grey if the network was published for colour images, and the reverse."""
    logits, _ = initialised(case.ours(), (2, *case.image[:2], 4 - case.image[2]))
    assert logits.shape == (2, CLASSES)


@every_kind
def test_bfloat16_stores_float32(case):
    """The dtype is a name, as in a config. Parameters, gradients and statistics are checked."""
    module, images = case.ours(dtype="bfloat16"), jnp.zeros((2, *case.image))

    def step():
        variables = module.init(KEY, images)
        others = {key: value for key, value in variables.items() if key != "params"}

        def loss(params):
            logits, new = module.apply({"params": params, **others}, images, train=True, mutable=["batch_stats"],
                                       rngs={"dropout": KEY})
            return logits.sum().astype(jnp.float32), (logits, new)

        (_, (logits, new)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return logits, (variables, new, gradients)

    logits, stored = jax.eval_shape(step)
    assert logits.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {np.dtype("float32")}


# The smallest square images: PyTorch takes these, and no smaller ones.
SMALLEST = {"lenet": 12, "lenet_bn": 16, "lenet_relu": 10, "lenet_relu_bn": 10, "alexnet": 63, "alexnet_d2l": 65,
            "alexnet_2012": 67, "vgg11": 32, "vgg19_bn": 32, "vgg11_d2l": 32, "vgg13_cifar": 32, "nin_d2l": 67,
            "nin_imagenet": 67, "googlenet_2014": 79, "resnet18_cifar": 3, "densenet121": 29, "densenet_d2l": 29,
            "densenet_bc_100_12": 4, "airbench94": 25}


@pytest.mark.parametrize("name", [
    slow(name) if name in ("vgg19_bn", "googlenet_2014", "densenet121", "densenet_bc_100_12") else name
    for name in SMALLEST])
def test_a_too_small_image_is_refused_with_a_reason(name):
    module, smallest = build(name), SMALLEST[name]
    initialised(module, (1, smallest, smallest, 1))
    with pytest.raises(ValueError, match=r"does not fit into an input .* too small for this network"):
        initialised(module, (1, smallest - 1, smallest, 1))


@pytest.mark.parametrize(("name", "smallest"), [
    ("googlenet", 15), ("googlenet_d2l", 1), ("nin_cifar", 4), ("resnet50", 1), ("resnet18_d2l", 1),
    ("preact_resnet18", 1), ("resnet20", 1), ("mobilenet_v1", 1), ("regnet_x_3_2gf", 1)])
@pytest.mark.usefixtures("short_googlenet")
def test_images_as_small_as_pytorchs_are_taken(name, smallest):
    initialised(looped(name), (1, smallest, smallest, 3))


@every_network
def test_the_running_variance_is_as_in_the_original(name):
    """PyTorch stores the unbiased variance; Keras, in the TensorFlow text, stores the biased one."""
    module = build(name)
    biased = {"lenet_relu", "lenet_relu_bn", "vgg13_cifar", "resnet18_cifar", "resnet34_cifar"}
    assert getattr(module, "unbiased", None) is (None if name == "mlp" else name not in biased)


@pytest.mark.parametrize(("name", "options", "layer", "shape"), [
    ("alexnet", {"width": 0.5}, ("conv2",), (5, 5, 32, 96)),
    ("nin_d2l", {"width": 2}, ("block1", "conv2"), (1, 1, 192, 192)),
    ("nin_d2l", {"width": 2}, ("block4", "conv1"), (3, 3, 768, 10)),
    slow("googlenet", {"width": 0.25}, ("inception3a", "branch3", "conv"), (3, 3, 4, 8)),
    ("resnet50", {"width": 2, "stage_sizes": (1,), "stage_features": (64,)}, ("stage1_block1", "conv3"),
     (1, 1, 128, 512)),
    ("densenet121", {"width": 0.5, "block_sizes": (1,)}, ("block1", "layer1", "conv2"), (3, 3, 64, 16)),
    ("lenet", {"width": 1.5}, ("conv2",), (5, 5, 9, 24)),
    ("resnet20", {"width": 10}, ("stage3_block3", "conv2"), (3, 3, 640, 640)),
    ("resnext50_32x4d", {"width": 0.5, "stage_sizes": (1,), "stage_features": (64,)}, ("stage1_block1", "conv2"),
     (3, 3, 2, 64)),
    ("mobilenet_v1", {"width": 0.5, "stage_sizes": (1,), "stage_features": (64,)}, ("stage1_block1", "conv1"),
     (3, 3, 1, 16)),
    ("regnetx32_d2l", {"width": 0.25, "stage_sizes": (1, 1)}, ("stage2_block1", "conv2"), (3, 3, 4, 20)),
], ids=str)
def test_width_multiplies_the_channels(name, options, layer, shape):
    image, classes = INPUTS[name]
    _, variables = initialised(build(name, classes, **options), (1, *image))
    kernel = functools.reduce(lambda tree, key: tree[key], (*layer, "kernel"), variables["params"])
    assert kernel.shape == shape


def test_the_stages_of_the_regnet_follow_from_the_papers_rule():
    """Section 3.3, equations 2 to 4, with the numbers of figure 15; figure 15's text adds multiples of the groups."""
    line = 88 + 26.31 * np.arange(25)
    widths = 88 * 2.25 ** np.round(np.log(line / 88) / np.log(2.25))
    for unit in (8, 48):
        widths = np.round(widths / unit) * unit
    features, sizes = np.unique(widths, return_counts=True)
    net = build("regnet_x_3_2gf")
    assert (net.stage_sizes, net.stage_features) == (tuple(sizes), tuple(features))


def test_no_width_leaves_a_layer_without_channels():
    _, variables = initialised(build("resnet20", width=0.001), (1, 8, 8, 3))
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 1)
    for width in (0, -1.0, float("inf")):
        with pytest.raises(UserError, match=rf"width={width}.* must be (above 0|a number of at least 0)"):
            initialised(build("resnet20", width=width), (1, 8, 8, 3))
    with pytest.raises(UserError, match=r"stage_features=\(0, 8, 8\) .* must be whole numbers from 1 to 1,000,000"):
        initialised(build("resnet20", stage_features=(0, 8, 8)), (1, 8, 8, 3))


def test_width_keeps_channels_that_groups_divide():
    """The two halves of the 2012 AlexNet stay equal: 96 channels times 0.01 are 2, not 1. Groups stay as many."""
    _, variables = initialised(build("alexnet_2012", width=0.01), (1, 99, 99, 3))
    assert variables["params"]["conv2"]["kernel"].shape == (5, 5, 1, 2)
    for name, groups in (("resnext50_32x4d", 32), ("regnetx32_d2l", 2), ("mobilenet_v1", 1)):
        _, variables = initialised(build(name, width=0.01, stage_sizes=(1,), stage_features=(32,)), (1, 8, 8, 3))
        block = variables["params"]["stage1_block1"]
        assert {kernel.shape for kernel in (block["conv1"]["kernel"], block["conv2"]["kernel"])} == {
            (1, 1, 1, groups), (3, 3, 1, groups)}


def test_the_hidden_sizes_of_the_mlp_are_free():
    _, variables = initialised(build("mlp", hidden_sizes=[5]), (1, 4, 4, 1))
    assert jax.tree.map(jnp.shape, variables["params"]["dense2"]) == {"kernel": (5, 10), "bias": (10,)}


def test_options_override_what_the_name_chose():
    assert build("lenet_bn", norm="none") == build("lenet", padding=0)
    assert build("vgg16_bn", norm="none") == build("vgg16")
    assert build("resnet34", shortcut="none") == build("plain34")
    assert build("preact_resnet50", preactivation=False) == build("resnet50")
    assert build("resnext50_32x4d", groups=1, base_width=64) == build("resnet50")
    assert build("lenet_bn", norm=None) == build("lenet_bn")


@pytest.mark.parametrize(("name", "options", "words"), [
    ("lenett", {}, r"no network 'lenett'; did you mean 'lenet'\?$"),
    ("resnet19", {}, "no network 'resnet19'; did you mean 'resnet1"),
    ("zzz", {}, "no network 'zzz'; known: airbench94, alexnet, "),
    ("lenet", {"nrom": "batch"}, "'lenet' has no option 'nrom'; did you mean 'norm'"),
    ("lenet_bn", {"parent": "x"}, "'lenet_bn' has no option 'parent'"),
    ("mlp", {"padding": 1}, "'mlp' has no option 'padding'.* known: dropout_rate, dtype, hidden_sizes"),
    ("densenet121", {"shortcut": "pad"}, "'densenet121' has no option 'shortcut'"),
    ("vgg16", {"scan": True}, "'vgg16' has no option 'scan'"),
], ids=str)
def test_build_says_what_is_wrong(name, options, words):
    with pytest.raises(UserError, match=words):
        build(name, **options)


NORMALISED = ("lenet", "lenet_relu", "alexnet", "vgg11", "nin_d2l", "googlenet", "resnet18", "densenet121",
              "mobilenet_v1", "regnetx32_d2l")


@pytest.mark.parametrize(("name", "options", "words"), [
    *((name, {"norm": "bach"}, "no normalisation 'bach'; did you mean 'batch'") for name in NORMALISED),
    *((name, {"initializer": "xavier"}, "no initializer 'xavier'; did you mean 'xavier_uniform'")
      for name in ("mlp", *NORMALISED)),
    ("resnet18", {"stem": "cifer"}, "no stem 'cifer'; did you mean 'cifar'.* known: cifar, imagenet, keras, notebook"),
    ("densenet121", {"stem": "cifer"}, "no stem 'cifer'; did you mean 'cifar'"),
    ("resnet18", {"block": "bottle"}, "no block 'bottle'; did you mean 'bottleneck'"),
    ("resnet18", {"shortcut": "padd"}, "no shortcut 'padd'; did you mean 'pad'"),
    ("preact_resnet18", {"shortcut": "padd"}, "no shortcut 'padd'; did you mean 'pad'"),
    ("resnet18", {"zero_init_residual": True, "norm": "none"}, "zero_init_residual .* norm='none'"),
    ("plain18", {"zero_init_residual": True}, "zero_init_residual .* shortcut='none'"),
    *(("resnet18", wrong, "stride_in_1x1, groups and base_width need block='bottleneck', but the blocks are 'residual'")
      for wrong in ({"stride_in_1x1": True}, {"groups": 32}, {"base_width": 4})),
    *((name, {"stem": "cifer"}, "no stem 'cifer'; did you mean 'cifar'") for name in ("mobilenet_v1", "regnetx32_d2l")),
    ("regnetx32_d2l", {"group_width": 24}, r"group_width=24 must divide stage_features=\(32, 80\)"),
    ("regnetx32_d2l", {"zero_init_residual": True, "norm": "none"}, "zero_init_residual .* norm='none'"),
    ("mobilenet_v1", {"activation": "relu8"}, "no activation 'relu8'; did you mean 'relu"),
    ("lenet", {"activation": "rleu"}, "no activation 'rleu'; did you mean 'relu'"),
    ("googlenet", {"branches": (1, 5)}, r"branches=\(1, 5\) must be some of \(1, 2, 3, 4\)"),
    ("googlenet", {"branches": ()}, r"branches=\(\) .* must be whole numbers from 1 to 1,000,000"),
    *(("densenet121", {"compression": share}, f"compression={share} must be above 0 and at most 1")
      for share in (0, 1.5)),
    ("densenet121", {"compression": float("nan")}, "compression=nan .* must be a number of at least 0"),
], ids=str)
def test_a_wrong_value_of_an_option_names_the_closest(name, options, words):
    height, width, channels = DEEP[name].image
    with pytest.raises(UserError, match=words):
        initialised(build(name, **options), (1, height, width, channels))
