"""The summary of a network against counts by hand, PyTorch's and published ones."""
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from modern_cnn import functional as F
from modern_cnn import models
from modern_cnn.errors import UserError
from modern_cnn.inspection.summary import Row, lines, scaled, summarize
from modern_cnn.layers import Conv, ConvTranspose, Dense, DepthwiseConv, GroupNorm, LocallyConnected, SeparableConv
from tests.forked import run_script
from tests.models.cases import slow
from tests.test_cli import ROOT, refused

# (parameters, running means and variances, multiply-accumulates) at the source's input, counted over PyTorch's modules
FACTS = {
    "mlp": (335_114, 0, 784 * 256 + 2 * 256 * 256 + 256 * 10),
    "lenet": (61_706, 0, 416_520),
    "lenet_bn": (44_878, 452, 281_640),
    "alexnet_d2l": (46_764_746, 0, 938_146_176),
    "vgg11_d2l": (128_806_154, 0, 7_547_232_256),
    "nin_d2l": (1_992_166, 0, 762_297_352),
    "googlenet_d2l": (5_977_530, 0, 276_066_304),
    "resnet18_d2l": (11_178_378, 7_808, 318_657_536),
    "densenet_d2l": (758_226, 6_608, 129_077_168),
    "alexnet": (61_100_840, 0, 714_188_480),
    "vgg11": (132_863_336, 0, 7_609_090_048),
    "vgg11_bn": (132_868_840, 5_504, 7_609_090_048),
    "vgg13": (133_047_848, 0, 11_308_466_176),
    "vgg13_bn": (133_053_736, 5_888, 11_308_466_176),
    "vgg16": (138_357_544, 0, 15_470_264_320),
    "vgg16_bn": (138_365_992, 8_448, 15_470_264_320),
    "vgg19": (143_667_240, 0, 19_632_062_464),
    "vgg19_bn": (143_678_248, 11_008, 19_632_062_464),
    "googlenet": (13_004_888, 15_072, 1_498_376_192),
    "resnet18": (11_689_512, 9_600, 1_814_073_344),
    "resnet34": (21_797_672, 17_024, 3_663_761_408),
    "resnet50": (25_557_032, 53_120, 4_089_184_256),
    "resnet101": (44_549_160, 105_344, 7_801_405_440),
    "resnet152": (60_192_808, 151_424, 11_513_626_624),
    "densenet121": (7_978_856, 83_648, 2_834_161_664),
    "densenet161": (28_681_000, 219_936, 7_727_907_072),
    "densenet169": (14_149_480, 158_400, 3_359_843_328),
    "densenet201": (20_013_928, 229_056, 4_291_365_888),
    "resnext50_32x4d": (25_028_904, 68_224, 4_230_479_872),
    "mobilenet_v1": (4_231_976, 21_888, 568_740_352),
    "regnet_x_3_2gf": (15_296_552, 62_560, 3_176_621_952),
    "regnetx32_d2l": (179_290, 3_936, 40_293_152),
}
# The last map's, by hand: size + (window - 1) * stride for each layer. Araujo et al. 2019 have 195, 212 and 315 too.
FIELDS = {
    "lenet": 5 + 1 + 4 * 2 + 2,
    "alexnet": 195,
    "vgg16": 212,
    "nin_d2l": 195,
    # stem 7 and 3, two blocks, stride 2 in a first 3x3, the rest at the new stride
    "resnet18": 7 + 2 * 2 + 4 * 8 + (8 + 3 * 16) + (16 + 3 * 32) + (32 + 3 * 64),
    "resnet50": 7 + 2 * 2 + 3 * 8 + (8 + 3 * 16) + (16 + 5 * 32) + (32 + 2 * 64),
    "resnet20": 3 + 6 * 2 + (2 + 5 * 4) + (4 + 5 * 8),
    "googlenet_d2l": 7 + 2 * 2 + 2 * 4 + 2 * 4 + 2 * 4 * 8 + 2 * 8 + 5 * 4 * 16 + 2 * 16 + 2 * 4 * 32,
    "densenet121": 7 + 2 * 2 + 6 * 8 + 4 + 12 * 16 + 8 + 24 * 32 + 16 + 16 * 64,
    "mobilenet_v1": 3 + 4 + (4 + 8) + (8 + 16) + (16 + 5 * 32) + (32 + 64),
    "regnetx32_d2l": 3 + (4 + 3 * 8) + (8 + 5 * 16),
}
DEEP = {"resnet101", "resnet152", "preact_resnet101", "preact_resnet152", "resnet110", "resnet1202"}
QUICK = {"mlp", "lenet", "lenet_relu_bn", "alexnet", "alexnet_2012", "vgg16", "vgg11_bn", "nin_d2l", "nin_cifar",
         "googlenet", "resnet18", "resnet50", "preact_resnet18", "plain18", "resnet20", "resnet1202", "densenet_d2l",
         "resnext50_32x4d", "mobilenet_v1", "regnetx32_d2l"}


def totals(summary):
    return summary.params, summary.bn_running_scalars, summary.macs


def of(name, **options):
    image_shape, num_classes = models.INPUTS[name]
    return summarize(models.build(name, num_classes, **options), image_shape)


class Net(nn.Module):
    """A function of the images."""
    body: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x, *, train=False):
        return self.body(x)


def layers_of(body, image_shape=(12, 12, 4)):
    return summarize(Net(body), image_shape).layers


def test_lenet_by_hand():
    row = partial(Row, calls=1)
    whole = {"receptive_field": ("all", "all"), "stride": (0, 0)}
    expected = [
        row("conv1", "conv", (28, 28, 6), 25 * 6 + 6, 0, 28 * 28 * 25 * 6, 4 * 28 * 28 * 6, (5, 5), (1, 1)),
        row("avg_pool1", "pool", (14, 14, 6), 0, 0, 0, 4 * 14 * 14 * 6, (6, 6), (2, 2)),
        row("conv2", "conv", (10, 10, 16), 25 * 6 * 16 + 16, 0, 10 * 10 * 25 * 6 * 16, 4 * 1600, (14, 14), (2, 2)),
        row("avg_pool2", "pool", (5, 5, 16), 0, 0, 0, 4 * 400, (16, 16), (4, 4)),
        row("dense1", "dense", (120,), 400 * 120 + 120, 0, 400 * 120, 4 * 120, **whole),
        row("dense2", "dense", (84,), 120 * 84 + 84, 0, 120 * 84, 4 * 84, **whole),
        row("dense3", "dense", (10,), 84 * 10 + 10, 0, 84 * 10, 4 * 10, **whole)]
    summary = of("lenet")
    assert summary.layers == expected
    assert summary.param_bytes == 4 * 61_706
    assert summary.activation_bytes == 4 * (4704 + 1176 + 1600 + 400 + 120 + 84 + 10)
    assert (summary.norm_params, summary.receptive_field) == (0, (16, 16))
    norms = [row for row in of("lenet_bn").layers if row.kind == "norm"]
    assert [(row.params, row.bn_running_scalars, row.macs) for row in norms] == [(n, n, 0) for n in (12, 32, 240, 168)]
    assert [row.output_shape for row in norms] == [(24, 24, 6), (8, 8, 16), (120,), (84,)]


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in models.MODELS])
def test_the_rows_add_up_and_the_totals_are_the_published_ones(name):
    summary = of(name, **({"scan": True} if name in DEEP else {}))
    for total in ("params", "bn_running_scalars", "macs", "activation_bytes"):
        assert sum(getattr(row, total) for row in summary.layers) == getattr(summary, total)
    assert len({row.name for row in summary.layers}) == len(summary.layers)
    idle = [row for row in summary.layers if row.kind not in ("conv", "dense", "norm", "pool")]
    assert [(row.name, row.kind) for row in idle] == (
        [("aux1", "unused"), ("aux2", "unused")] if name in ("googlenet", "googlenet_2014") else [])
    assert all(row.macs == row.calls == 0 and row.output_shape is None for row in idle)
    if name in FACTS:
        assert totals(summary) == FACTS[name]
    if name in FIELDS:
        assert summary.receptive_field == (FIELDS[name],) * 2


def test_other_inputs_and_options():
    assert totals(summarize(models.build("vgg11_d2l", width=0.25), (224, 224, 1))) == (43_093_322, 0, 512_155_648)
    assert totals(summarize(models.build("resnet18_d2l"), (224, 224, 1))) == (11_178_378, 7_808, 1_734_890_496)
    assert totals(summarize(models.build("lenet", padding=0), (28, 28, 1))) == (44_426, 0, 281_640)
    assert totals(of("googlenet", aux_logits=False)) == (6_624_904, 14_560, 1_498_376_192)
    assert of("googlenet").norm_params == 15_072  # as many scales and biases as running numbers, auxiliary heads' too


@pytest.mark.parametrize("name", ["vgg11_bn", slow("googlenet_d2l"), slow("resnet50"), "densenet_d2l"])
def test_rematerialisation_changes_nothing(name):
    assert of(name, remat=True) == of(name)


@pytest.mark.parametrize(("name", "remat"), [
    ("resnet20", True), slow("resnet20", False), slow("preact_resnet50", False)])
def test_scanned_blocks_count_as_often_as_they_run(name, remat):
    plain, scanned = of(name), of(name, scan=True, remat=remat)
    assert replace(scanned, layers=[]) == replace(plain, layers=[])
    assert len(scanned.layers) < len(plain.layers)
    rows = {row.name: row for row in plain.layers}
    for row in scanned.layers:
        first, blocks, rest = row.name.partition("_blocks/")
        if blocks:  # the sum of theirs, and the last one's receptive field
            each = [rows[f"{first}_block{i}/{rest}"] for i in range(2, row.calls + 2)]
            for total in ("params", "bn_running_scalars", "macs", "activation_bytes"):
                assert getattr(row, total) == sum(getattr(one, total) for one in each)
            assert (row.kind, row.output_shape, row.receptive_field) == (
                each[-1].kind, each[-1].output_shape, each[-1].receptive_field)
            assert f"{first}_block{row.calls + 2}/{rest}" not in rows
        else:
            assert row == rows[row.name]


def test_a_function_in_a_scan_has_one_row():
    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return F.max_pool(F.avg_pool(Conv(4, 3, padding=1, name="conv")(x), 3, 1, padding=1), 3, 1, padding=1), None

    def body(x):
        loop = nn.scan(Step, length=3, variable_axes={"params": 0}, split_rngs={"params": True})
        return F.max_pool(loop(name="steps")(x, None)[0], 2)

    assert [(row.name, row.calls, row.activation_bytes, row.receptive_field[0]) for row in layers_of(body)] == [
        ("steps/conv", 3, 3 * 2304, 15), ("steps/avg_pool", 3, 3 * 2304, 17), ("steps/max_pool", 3, 3 * 2304, 19),
        ("max_pool", 1, 576, 20)]


@pytest.mark.parametrize("name", ["lenet_bn", "alexnet_2012", "resnet20"])
def test_half_the_bytes_an_activation(name):
    """Normalisations and averages compute in float32 and return bfloat16 too."""
    for half, full in zip(of(name, dtype="bfloat16").layers, of(name).layers, strict=True):
        assert half == replace(full, activation_bytes=full.activation_bytes // 2)


class MatrixConv(nn.Module):
    """Patches times a matrix. A convolution with an identity cuts the patches out; its products do not count."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.ones, (3, 3, 4, 8))
        numbers = ("NHWC", "HWIO", "NHWC")
        patches = lax.conv_general_dilated_patches(x, (3, 3), (1, 1), "SAME", dimension_numbers=numbers)
        return patches @ kernel.transpose(2, 0, 1, 3).reshape(-1, 8)


LAYERS = {  # kind, multiply-accumulates, parameters on 12x12x4
    "conv": (partial(Conv, 8, 3, padding=1), "conv", 144 * 9 * 4 * 8, 9 * 4 * 8 + 8),
    "strides": (partial(Conv, 8, 3, strides=2), "conv", 25 * 9 * 4 * 8, 9 * 4 * 8 + 8),
    "groups": (partial(Conv, 8, 3, padding=1, groups=2), "conv", 144 * 9 * 2 * 8, 9 * 2 * 8 + 8),
    "depthwise": (partial(DepthwiseConv, 3, 2, padding=1), "conv", 144 * 9 * 8, 9 * 8 + 8),
    "separable": (partial(SeparableConv, 8, 3, padding=1), "conv", 144 * (9 * 4 + 4 * 8), 9 * 4 + 4 * 8 + 8),
    "transposed": (partial(ConvTranspose, 8, 3, strides=2), "conv", 144 * 9 * 4 * 8, 9 * 4 * 8 + 8),
    "unshared": (partial(LocallyConnected, 8, 3), "local", 100 * 9 * 4 * 8, 100 * (9 * 4 * 8 + 8)),
    "pixelwise": (partial(Dense, 8), "dense", 144 * 4 * 8, 4 * 8 + 8),
    "patches": (MatrixConv, "conv", 144 * 9 * 4 * 8, 9 * 4 * 8),
}


@pytest.mark.parametrize(("layer", "kind", "macs", "params"), LAYERS.values(), ids=LAYERS)
def test_every_kind_of_layer(layer, kind, macs, params):
    row, = layers_of(lambda x: layer(name="layer")(x))
    assert (row.name, row.kind, row.macs, row.params) == ("layer", kind, macs, params)
    assert row.activation_bytes == 4 * math.prod(row.output_shape)


def test_poolings_by_other_functions_have_rows_too():
    rows = layers_of(lambda x: nn.max_pool(nn.max_pool(nn.relu(x), (2, 2)), (3, 3)).mean((1, 2)))
    assert [(row.name, row.kind, row.output_shape) for row in rows] == [
        ("max_pool1", "pool", (11, 11, 4)), ("max_pool2", "pool", (9, 9, 4)), ("global_avg_pool", "pool", (4,))]
    rows = layers_of(lambda x: nn.avg_pool(GroupNorm(2, name="norm")(x), (2, 2)).max((1, 2)))
    assert [(row.name, row.kind) for row in rows] == [
        ("norm", "norm"), ("avg_pool", "pool"), ("global_max_pool", "pool")]
    rows = layers_of(lambda x: F.adaptive_avg_pool(F.avg_pool(F.avg_pool(x, 2, 1), 2, 1), 5))
    assert [(row.name, row.output_shape) for row in rows] == [
        ("avg_pool1", (11, 11, 4)), ("avg_pool2", (10, 10, 4)), ("adaptive_avg_pool", (5, 5, 4))]
    row, = layers_of(lambda x: F.adaptive_avg_pool(x, 7))  # as a product with matrices, which is not a dense layer
    assert (row.name, row.output_shape, row.macs) == ("adaptive_avg_pool", (7, 7, 4), 0)


def test_a_layer_that_is_used_twice_and_parameters_outside_of_layers():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            conv = Conv(4, 3, padding=1, use_bias=False, name="conv")
            x = conv(nn.relu(conv(x))) * self.param("gain", nn.initializers.ones, (4,))
            return x.reshape(len(x), -1) @ self.param("kernel", nn.initializers.ones, (576, 10))

    conv, product, gain, kernel = summarize(Shared(), (12, 12, 4)).layers
    assert (conv.calls, conv.params, conv.macs) == (2, 144, 2 * 144 * 144)
    assert (conv.activation_bytes, conv.receptive_field) == (2 * 4 * 576, (5, 5))
    assert (product.name, product.kind, product.macs, product.params) == ("dot_general", "dense", 5760, 0)
    assert (gain, kernel) == (Row("gain", "other", params=4), Row("kernel", "other", params=5760))
    gram, = layers_of(lambda x: jnp.einsum("nhwc,nhwd->ncd", x, x))
    assert (gram.kind, gram.output_shape, gram.macs) == ("product", (4, 4), 144 * 4 * 4)
    assert gram.receptive_field == ("all", "all")


def test_what_cannot_be_summarized():
    with pytest.raises(UserError, match=r"cannot be built for 8x8x1 images: .* too small"):
        summarize(models.build("lenet"), (8, 8, 1))
    with pytest.raises(UserError, match="cannot be built"):
        summarize(models.build("lenet").clone(dtype="nonsense"), (28, 28, 1))
    with pytest.raises(UserError, match="width=0"):
        summarize(models.build("resnet18", width=0), (28, 28, 1))
    with pytest.raises(UserError, match="depends on the image"):
        layers_of(lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x))
    with pytest.raises(UserError, match="scans over the image"):
        layers_of(lambda x: lax.scan(lambda carry, row: (carry + row, None), x[0, 0], x[0])[0])


def test_the_text_fits_a_terminal():
    for name in ("googlenet", "resnet1202"):
        text = lines(of(name, **({"scan": True} if name == "resnet1202" else {})))
        assert max(map(len, text)) <= 120
    assert "stage1_blocks/conv1 x199" in "\n".join(text)
    assert [scaled(n) for n in (0, 999, 1000, 1_498_376_192)] == ["0", "999", "1.000 k", "1.498 G"]
    assert [scaled(n, "B", 1024) for n in (1023, 102_228_128, 2**41)] == ["1023 B", "97.49 MiB", "2048 GiB"]


def test_the_script_prints_a_table(script):
    result = script("summarize.py", "--model=resnet18")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "resnet18, images 224x224x3, 1,000 classes"
    assert lines[4].split() == ["conv1", "conv", "112x112x64", "9,408", "118,013,952", "3,136.0", "7", "2"]
    total, = (line for line in lines if line.startswith("total"))
    assert total.split()[1:4] == ["11,689,512", "9,600", "1,814,073,344"]
    assert "1.814 GMAC" in result.out
    assert "44.59 MiB" in result.out
    assert len(lines[2]) == len(lines[3]) == len(lines[4])


def test_the_script_prints_json(script):
    result = script("summarize.py", "--model=vgg11_d2l", "--option=width=0.25", "--option=hidden=[64, 32]", "--json",
                    "--image_size=96", "--channels=3", "--num_classes=7", "--option=norm=batch", "--batch=2")
    found = json.loads(result.out)
    variables, images = 4 * (found["params"] + found["bn_running_scalars"]), 2 * 96 * 96 * 3 * 4
    assert 0 <= found["training_bytes"]["held"] - variables - images < 1000  # labels, step, key, list of the outputs
    assert found["training_bytes"]["computed"] > 2 * found["layers"][0]["activation_bytes"]
    assert (found["model"], found["image_shape"], found["num_classes"]) == ("vgg11_d2l", [96, 96, 3], 7)
    expected = summarize(models.build("vgg11_d2l", 7, width=0.25, hidden=(64, 32), norm="batch"), (96, 96, 3))
    assert (found["params"], found["bn_running_scalars"], found["macs"]) == totals(expected)
    assert found["receptive_field"] == [150, 150]
    assert found["layers"][0] == {
        "name": "block1/conv1", "kind": "conv", "output_shape": [96, 96, 16], "params": 448, "bn_running_scalars": 0,
        "macs": 96 * 96 * 27 * 16, "activation_bytes": 4 * 96 * 96 * 16, "receptive_field": [3, 3], "stride": [1, 1],
        "calls": 1}
    assert found["layers"][-1]["receptive_field"] == ["all", "all"]


def summarize_three(*flags):
    """What the script prints that knows three networks only."""
    models.INPUTS = {name: models.INPUTS[name] for name in ("mlp", "lenet_bn", "resnet20")}
    run_script([f"{ROOT}/scripts/summarize.py", "--list", *flags], ".", {})


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_the_script_lists_the_networks(flags, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process = server.Process(target=summarize_three, args=flags)
    process.start()
    process.join(600)
    out = (tmp_path / "out").read_text()
    assert process.exitcode == 0, (tmp_path / "err").read_text()
    if flags:
        assert [(m["model"], m["params"], m["bn_running_scalars"], m["macs"]) for m in json.loads(out)] == [
            ("mlp", *FACTS["mlp"]), ("lenet_bn", *FACTS["lenet_bn"]), ("resnet20", 269_722, 1_376, 40_551_040)]
    else:
        assert out.splitlines()[2].split() == ["lenet_bn", "28x28x1", "10", "44,878", "452", "281,640", "16"]
        assert len(out.splitlines()) == 4


BAD_FLAGS = {
    "no network": ([], 1, ["--model is missing", "--list"]),
    "unknown network": (["--model=resnet511"], 1, ["no network 'resnet511'", "did you mean 'resnet"]),
    "unknown option": (["--model=lenet", "--option=nrom=batch"], 1, ["no option 'nrom'", "did you mean 'norm'"]),
    "misshapen option": (["--model=lenet", "--option=norm"], 1, ["--option=norm is not of the form"]),
    "no option": (["--model=lenet", "--option=num_classes=3"], 1, ["is not of the form"]),
    "image too small": (["--model=lenet", "--image_size=11"], 1, ["11x11x1", "too small"]),
    "size of no pixels": (["--model=lenet", "--image_size=0"], 2, ["--image_size=0"]),
    "channels": (["--model=lenet", "--channels=-3"], 2, ["--channels=-3"]),
    "classes": (["--model=lenet", "--num_classes=-1"], 2, ["--num_classes=-1"]),
    "unknown flag": (["--modle=lenet"], 2, ["'modle'", "model"]),
}


@pytest.mark.parametrize(("flags", "code", "words"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_bad_flags(script, flags, code, words):
    result = script("summarize.py", *flags)
    refused(result, code, *words)
    assert result.out == ""


def test_a_norm_without_scale_is_a_norm_and_a_kernel_that_is_not_learned_counts_as_running():
    found = summarize(models.build("airbench94"), (32, 32, 3))
    kinds = {row.name: row.kind for row in found.layers}
    assert (kinds["whiten"], kinds["block1/norm1"], found.norm_params) == ("conv", "norm", 2 * (64 + 256 + 256))
    assert next(row.bn_running_scalars for row in found.layers if row.name == "whiten") == 2 * 2 * 3 * 24
