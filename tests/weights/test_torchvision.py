"""Names and layout of PyTorch's weights, against networks written in PyTorch with torchvision's names."""
import re
from math import prod

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import traverse_util
from torch import nn

from modern_cnn import weights
from modern_cnn.errors import UserError
from modern_cnn.models import INPUTS, MODELS, build
from modern_cnn.weights import convert
from tests.models.cases import slow
from tests.models.torch_nets import torch_net

NARROW = {"width": 0.125, "hidden": (16, 16)}  # for the networks with 60 to 144 million parameters
LARGE = [name for name in convert.TORCHVISION if name.startswith(("alexnet", "vgg"))]
DEEP = [name for name in convert.TORCHVISION if name.endswith(("34", "101", "152", "161", "169", "201")) or (
    "13" in name or "16" in name or "19_" in name)]
TEXTBOOK = {"lenet": {}, "lenet_bn": {"padding": 0, "features": 256, "norm": True}, "alexnet_d2l": NARROW,
            "vgg11_d2l": NARROW, "nin_d2l": {}, "googlenet_d2l": {}, "resnet18_d2l": {}, "densenet_d2l": {},
            "regnetx32_d2l": {}}


def counted(shapes):
    """Return arrays whose values all differ: consecutive floats, from the smallest normal one."""
    start, arrays = 0x00800000, {}
    for name, shape in shapes.items():
        values = np.arange(start, start + prod(shape), dtype=np.uint32).view(np.float32)
        arrays[name], start = values.reshape(shape), start + prod(shape)
    return arrays


def shapes_of(name, classes=None, channels=None, **options):
    """Return {name: shape} of PyTorch's state dict, by default the published one."""
    (_, _, published_channels), published_classes = INPUTS[name]
    with torch.device("meta"):
        net = torch_net(name, classes or published_classes, channels or published_channels, **options)
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def ours(name, size, channels=3, classes=10, **options):
    """Return variables with the shapes of our network's `init`, whose values all differ."""
    module = build(name, classes, **options)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, size, size, channels))))
    flat = counted({path: leaf.shape for path, leaf in traverse_util.flatten_dict(dict(shapes)).items()})
    return traverse_util.unflatten_dict(flat)


def same(a, b):
    """Assert the same names, and the same bits."""
    assert set(a) == set(b)
    for name, value in a.items():
        assert value.dtype == b[name].dtype == np.float32
        assert value.shape == b[name].shape
        assert value.tobytes() == b[name].tobytes(), name


def same_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def there_and_back(name, shapes, **options):
    state = counted(shapes)
    variables = weights.from_torchvision(name, state, **options)
    back = weights.to_torchvision(name, variables, **options)
    same(back, {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")})
    return state, variables


def test_torchvisions_networks_are_all_here():
    assert len(set(convert.TORCHVISION)) == 21
    assert set(convert.TORCHVISION) <= set(MODELS)


@pytest.mark.parametrize("name", [slow(name) if name in DEEP else name for name in convert.TORCHVISION])
def test_torchvisions_weights_there_and_back(name):
    options = NARROW if name in LARGE else {}
    there_and_back(name, shapes_of(name, **options), **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_large_ones_at_full_width(name):
    there_and_back(name, shapes_of(name))


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_textbooks_weights_there_and_back(name):
    options = {key: value for key, value in TEXTBOOK[name].items() if key in ("width", "hidden")}
    there_and_back(name, shapes_of(name, **TEXTBOOK[name]), **options)


@pytest.mark.usefixtures("short_googlenet")
@pytest.mark.parametrize(("name", "norm"), [
    ("alexnet", "batch"), ("vgg13_cifar", "none"), ("nin_cifar", "none"), ("googlenet", "none"),
    ("preact_resnet18", "batch"), ("resnet18_d2l", "none"), ("densenet_bc_100_12", "batch"), ("lenet", "batch"),
    ("airbench94", "batch"), ("mobilenet_v1", "batch"),
    *(slow(*each) for each in (
        ("alexnet_d2l", "batch"), ("alexnet_2012", "none"), ("vgg11", "batch"), ("vgg11_d2l", "batch"),
        ("mobilenet_v1", "none"), ("resnext50_32x4d", "none"), ("regnet_x_3_2gf", "none"), ("regnetx32_d2l", "none"),
        ("nin_d2l", "batch"), ("googlenet_2014", "batch"), ("resnet50", "none"), ("plain18", "none"),
        ("resnet20", "batch"), ("resnet18_cifar", "none"), ("densenet_d2l", "none"), ("lenet_bn", "none")))])
def test_our_weights_there_and_back_also_of_networks_that_pytorch_has_not(name, norm):
    options = {"width": 0.0625, "norm": norm} | {"densenet_bc_100_12": {"block_sizes": (2, 3, 4)},
                                                 "alexnet": {"hidden": (16, 16)}}.get(name, {})
    size = INPUTS[name][0][0]
    variables = ours(name, size, channels=2, classes=5, **options)
    back = weights.from_torchvision(name, weights.to_torchvision(name, variables, **options), **options)
    same_trees(back, variables)


def test_rows_after_flattening():
    """By hand: at width 1/8 LeNet's second map has two channels, and for images of 20x20 pixels its size is 2x2."""
    shapes = {"0.weight": (1, 1, 5, 5), "0.bias": (1,), "3.weight": (2, 1, 5, 5), "3.bias": (2,),
              "7.weight": (120, 8), "7.bias": (120,), "9.weight": (84, 120), "9.bias": (84,), "11.weight": (5, 84),
              "11.bias": (5,)}
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    state["7.weight"][3] = [11, 12, 13, 14, 21, 22, 23, 24]  # channel by channel: left and right, above and below
    options = {"width": 0.125, "padding": 0, "image_size": 20}
    variables = weights.from_torchvision("lenet", state, **options)
    kernel = variables["params"]["dense1"]["kernel"]
    np.testing.assert_array_equal(kernel[:, 3], [11, 21, 12, 22, 13, 23, 14, 24])  # pixel by pixel
    assert kernel.sum() == sum([11, 12, 13, 14, 21, 22, 23, 24])
    same(weights.to_torchvision("lenet", variables, **options), state)


def test_a_kernel_by_hand():
    state = counted(shapes_of("resnet18", width=0.125))
    variables = weights.from_torchvision("resnet18", state, width=0.125)
    ours, theirs = variables["params"]["stage2_block1"]["conv2"]["kernel"], state["layer2.0.conv2.weight"]
    assert ours[1, 2, 3, 4] == theirs[4, 3, 1, 2]
    assert variables["params"]["dense"]["kernel"][5, 6] == state["fc.weight"][6, 5]
    assert variables["batch_stats"]["stage2_block1"]["shortcut_norm"]["var"][3] == (
        state["layer2.0.downsample.1.running_var"][3])


def test_kernels_of_groups_by_hand():
    """A group is a range of outputs: the kernel of each output has the inputs of its group alone."""
    state = counted(shapes_of("regnet_x_3_2gf"))
    variables = weights.from_torchvision("regnet_x_3_2gf", state)
    block, theirs = variables["params"]["stage3_block15"], "trunk_output.block3.block3-14.f"
    assert block["conv2"]["kernel"].shape == (3, 3, 48, 432)
    assert block["conv2"]["kernel"][1, 2, 40, 400] == state[f"{theirs}.b.0.weight"][400, 40, 1, 2]
    assert block["norm3"]["bias"][5] == state[f"{theirs}.c.1.bias"][5]
    shortcut = variables["batch_stats"]["stage4_block1"]["shortcut_norm"]
    assert shortcut["mean"][7] == state["trunk_output.block4.block4-0.proj.1.running_mean"][7]
    state = counted(shapes_of("resnext50_32x4d"))
    kernel = weights.from_torchvision("resnext50_32x4d", state)["params"]["stage1_block2"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 4, 128)
    assert kernel[0, 1, 2, 99] == state["layer1.1.conv2.weight"][99, 2, 0, 1]


def test_auxiliary_heads_may_be_there_or_not():
    state, variables = there_and_back("googlenet", shapes_of("googlenet"))
    assert convert.matching_network("googlenet", state)[0].aux_logits
    without = {name: value for name, value in state.items() if not name.startswith("aux")}
    assert set(without) == set(shapes_of("googlenet", aux_logits=False))
    module, _ = convert.matching_network("googlenet", without)
    assert not module.aux_logits
    headless = weights.from_torchvision("googlenet", without)
    assert set(variables["params"]) - set(headless["params"]) == {"aux1", "aux2"}
    # an option leaves out heads that are there
    same_trees(weights.from_torchvision("googlenet", state, aux_logits=False), headless)
    same(weights.to_torchvision("googlenet", variables, aux_logits=False),
         {name: value for name, value in without.items() if "num_batches" not in name})
    with pytest.raises(UserError, match=r"18 missing: aux1\.conv\.conv\.weight, .*\.\.\. \(18 in all\)$"):
        weights.from_torchvision("googlenet", without, aux_logits=True)


def test_classes_channels_and_sizes_are_those_of_the_weights():
    state = counted(shapes_of("resnet18", classes=3, channels=4))
    module, image_shape = convert.matching_network("resnet18", state, image_size=48, scan=True)
    assert module == build("resnet18", num_classes=3, scan=True)
    assert image_shape == (48, 48, 4)
    state = counted(shapes_of("lenet_bn", classes=7, channels=2, padding=0, features=256, norm=True))
    module, image_shape = convert.matching_network("lenet_bn", state)
    assert (module.num_classes, image_shape) == (7, (28, 28, 2))
    with pytest.raises(UserError, match=r"1 of another shape: 9\.weight \[120, 256\] instead of \[120, 400\]$"):
        weights.from_torchvision("lenet_bn", state, image_size=32)


def test_images_that_are_not_square():
    module = build("lenet_bn", 3)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 36, 1)))
    state = weights.to_torchvision("lenet_bn", variables, image_size=(28, 36))
    back = weights.from_torchvision("lenet_bn", state, image_size=(28, 36))
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


def test_what_pixels_the_weights_expect():
    assert [convert.expected_normalize(*which) for which in (
        ("vgg16_bn", 3), ("vgg16_bn", 1), ("googlenet", 3), ("resnet18_d2l", 3), ("preact_resnet18", 3),
        ("mobilenet_v1", 3), ("mobilenet_v1", 1))] == [
        "imagenet", "unit", "symmetric", "unit", "unit", "symmetric", "unit"]


def test_stacked_blocks():
    state = counted(shapes_of("resnet34", width=0.125))
    plain = weights.from_torchvision("resnet34", state, width=0.125)
    stacked = weights.from_torchvision("resnet34", state, width=0.125, scan=True)
    expected = ours("resnet34", 64, classes=1000, width=0.125, scan=True)
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, expected)
    blocks = stacked["params"]["stage3_blocks"]["conv1"]["kernel"]
    assert len(blocks) == 5
    np.testing.assert_array_equal(blocks[2], plain["params"]["stage3_block4"]["conv1"]["kernel"])
    same_trees(convert.unstack_blocks(stacked), plain)
    same_trees(convert.unstack_blocks(plain), plain)
    same_trees(convert.stack_blocks(plain), stacked)
    same(weights.to_torchvision("resnet34", stacked, width=0.125, scan=True),
         weights.to_torchvision("resnet34", plain, width=0.125))


def test_blocks_are_stacked_by_number_and_not_by_name():
    """A tree of JAX has its names in the order of text: block10 before block2."""
    layers = {f"stage1_block{number}": {"bias": np.float32([number])} for number in range(1, 13)}
    stacked = convert.stack_blocks({"params": dict(sorted(layers.items()))})["params"]
    np.testing.assert_array_equal(stacked["stage1_blocks"]["bias"], np.arange(2, 13)[:, None])
    same_trees(convert.unstack_blocks({"params": stacked})["params"], layers)


def test_the_densenet_files_of_2017():
    state = counted(shapes_of("densenet121"))
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value for name, value in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.running_var" in old
    assert "features.denseblock4.denselayer16.conv.2.weight" in old
    same_trees(weights.from_torchvision("densenet121", old), weights.from_torchvision("densenet121", state))


@pytest.mark.parametrize("convert", [
    lambda value: nn.Parameter(torch.from_numpy(value)), lambda value: torch.from_numpy(value).half(),
    lambda value: torch.from_numpy(value).bfloat16(), lambda value: torch.from_numpy(value).double(),
    lambda value: value.astype(np.float16), lambda value: value.astype(ml_dtypes.bfloat16),
    lambda value: value.astype(np.float64), jnp.asarray, lambda value: np.asfortranarray(value)],
    ids=["parameter", "half", "bfloat16", "double", "numpy half", "numpy bfloat16", "numpy double", "jax", "fortran"])
def test_whatever_holds_the_numbers(convert):
    """The values are small whole numbers, which are exact at all precisions."""
    random = np.random.RandomState(0)
    state = {name: random.randint(-8, 9, shape).astype(np.float32)
             for name, shape in shapes_of("resnet18", width=0.125).items()}
    converted = {name: convert(value) for name, value in state.items()}
    variables = weights.from_torchvision("resnet18", converted, width=0.125)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    same_trees(variables, weights.from_torchvision("resnet18", state, width=0.125))


def test_the_arrays_are_copies_of_ones_own():
    twin = torch_net("lenet", 10, 1)
    variables = weights.from_torchvision("lenet", twin.state_dict())
    back = weights.to_torchvision("lenet", jax.tree.map(jnp.asarray, variables))
    for array in (*jax.tree.leaves(variables), *back.values()):
        array += 1  # would raise if read-only, of which PyTorch warns
    assert variables["params"]["conv1"]["bias"][0] == twin[0].bias[0] + 1


@pytest.mark.parametrize(("name", "theirs", "options"), [
    ("lenet_bn", {"padding": 0, "features": 256, "norm": True}, {}), ("resnet18", {"width": 0.125}, {"width": 0.125})])
def test_torch_loads_our_weights_and_computes_the_same(name, theirs, options):
    random = np.random.RandomState(0)
    variables = jax.tree.map(lambda leaf: random.uniform(0.1, 0.5, leaf.shape).astype(np.float32),
                             ours(name, 28, channels=1, classes=5, **options))
    images = random.standard_normal((2, 28, 28, 1)).astype(np.float32)
    twin = torch_net(name, 5, 1, **theirs)
    state = weights.to_torchvision(name, variables, **options)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    with torch.no_grad():
        wanted = twin.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    got = jax.jit(build(name, 5, **options).apply)(variables, images)
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone.", "1.",
                                    "student.encoder."])
def test_one_prefix_of_all_layers_is_taken_off(prefix, caplog):
    """What does not have it is left out, and both are said once: the names that come back have no prefix."""
    caplog.set_level("INFO", logger="modern_cnn")
    state = counted(shapes_of("lenet_bn", padding=0, features=256, norm=True))
    given = {f"{prefix}{key}": value for key, value in state.items()}
    found = convert.own_names("lenet_bn", given | {"n_averaged": np.array(5), "criterion.weight": np.zeros(3)})
    same(found, {key: value for key, value in state.items() if "num_batches" not in key})
    message, = caplog.messages
    assert f"'{prefix}'" in message
    assert message.endswith("criterion.weight")
    same_trees(weights.from_torchvision("lenet_bn", given), weights.from_torchvision("lenet_bn", state))
    assert convert.matching_network("lenet_bn", given) == convert.matching_network("lenet_bn", state)
    caplog.clear()
    weights.from_torchvision("lenet_bn", found)
    assert not caplog.messages


def test_auxiliary_heads_are_found_behind_a_prefix():
    state = {f"module.{key}": np.zeros(shape, np.float32) for key, shape in shapes_of("googlenet").items()}
    assert convert.matching_network("googlenet", state)[0].aux_logits


def test_two_prefixes_that_fit_are_refused():
    state = counted(shapes_of("lenet"))
    both = {f"{prefix}.{key}": value for prefix in ("student", "teacher") for key, value in state.items()}
    with pytest.raises(UserError, match=r"each of the prefixes student\., teacher\.: keep the arrays of one"):
        weights.from_torchvision("lenet", both)
    with pytest.raises(UserError, match=r"10 unexpected: ema\.0\.weight"):  # beside those of the network itself
        weights.from_torchvision("lenet", state | {f"ema.{key}": value for key, value in state.items()})


def test_weights_of_another_network_are_told_in_one_short_line():
    with pytest.raises(UserError) as told:
        weights.from_torchvision("densenet121", counted(shapes_of("resnet50")))
    assert len(str(told.value)) <= 600
    assert "267 unexpected: conv1.weight, bn1.weight" in str(told.value)


def test_everything_wrong_is_named_at_once():
    state = counted(shapes_of("resnet18", width=0.125))
    del state["layer1.0.conv1.weight"], state["bn1.running_mean"]
    state["layer9.weight"], state["extra"] = np.zeros(3), torch.zeros(2)
    state["layer4.1.conv2.weight"] = state["layer4.1.conv2.weight"][:, :5]
    state["layer1.0.bn1.weight"] = np.zeros((8, 1))
    with pytest.raises(UserError) as told:
        weights.from_torchvision("resnet18", state, width=0.125)
    assert str(told.value) == (
        "this is no state dict of 'resnet18'; 2 missing: bn1.running_mean, layer1.0.conv1.weight; 2 unexpected: "
        "layer9.weight, extra; 2 of another shape: layer1.0.bn1.weight [8, 1] instead of [8], layer4.1.conv2.weight "
        "[64, 5, 3, 3] instead of [64, 64, 3, 3]")


def test_everything_wrong_with_our_variables_is_named_at_once():
    variables = ours("lenet", 28, channels=1)
    variables["params"]["dense4"] = variables["params"].pop("dense3")
    variables["params"]["conv1"]["bias"] = jnp.zeros((6, 1))
    with pytest.raises(UserError) as told:
        weights.to_torchvision("lenet", variables)
    assert str(told.value) == (
        "these are no variables of 'lenet'; 2 missing: params/dense3/kernel, params/dense3/bias; 2 unexpected: "
        "params/dense4/bias, params/dense4/kernel; 1 of another shape: params/conv1/bias [6, 1] instead of [6]")


@pytest.mark.parametrize(("name", "options", "words"), [
    ("resnet81", {}, "no network 'resnet81'; did you mean 'resnet18'"),
    ("mlp", {}, "the network 'mlp' has no names in PyTorch: its weights cannot be converted"),
    ("lenet_relu", {}, "the network 'lenet_relu' has no names in PyTorch"),
    ("resnet18", {"widht": 1}, "'resnet18' has no option 'widht'; did you mean 'width'"),
    ("vgg11", {"scan": True}, "'vgg11' has no option 'scan'"),
    ("resnet18", {"norm": "bach"}, "did you mean 'batch'"),
    ("alexnet", {"image_size": 20}, "'alexnet' cannot be built for 20x20x3 images: .*too small"),
    ("densenet_d2l", {"bottleneck": 4}, "options has layers without names in PyTorch.*: .*block1/layer1/norm2/mean"),
    ("googlenet_d2l", {"norm": "batch"}, "options has layers without names in PyTorch.*: .*conv1/norm/mean"),
])
@pytest.mark.usefixtures("short_googlenet")
def test_what_cannot_be_converted(name, options, words):
    with pytest.raises(UserError, match=words):
        weights.from_torchvision(name, {}, **options)
    with pytest.raises(UserError, match=words):
        weights.to_torchvision(name, {"params": {}}, **options)
