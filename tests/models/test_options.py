"""Options of many networks: normalisation, dropout, type of the computations, rematerialisation, loops over blocks."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from modern_cnn.errors import UserError
from modern_cnn.layers import NORMS, BatchNorm, Conv
from modern_cnn.models import build, googlenet
from modern_cnn.models.resnet import Bottleneck, Residual
from modern_cnn.models.vgg import VGGBlock
from modern_cnn.weights import convert
from tests.functional.oracle import FAST_COMPILE
from tests.models.cases import NARROW, SHALLOW, Case, case, slow
from tests.models.compare import our_step

pytestmark = pytest.mark.usefixtures("short_googlenet")
KEY = jax.random.key(0)
# ResNet with each of them is compared with PyTorch in test_twins. GoogLeNet's last map must have pixels that differ
# after its 3x3 pooling, or instance normalisation leaves nothing of them.
NORMALISED = [*map(case, ("lenet", "lenet_relu", "alexnet", "nin_d2l")), case("vgg11", **SHALLOW),
              Case("googlenet", (96, 80, 3), NARROW), case("densenet121", block_sizes=(2, 1)),
              case("mobilenet_v1", **SHALLOW), case("regnetx32_d2l", stage_sizes=(1, 1))]
QUICK_NORMS = {"alexnet": ("group",), "nin_d2l": ("instance",), "vgg11": ("batch",), "mobilenet_v1": ("none",),
               "densenet121": ("layer",), "lenet": NORMS}
NO_DROPOUT = {"dropout_rate": 0.0, "aux_dropout_rate": 0.0}


def fast(function):
    return jax.jit(function, compiler_options=FAST_COMPILE)


def without_dropout(module):
    return module.clone(**{field: rate for field, rate in NO_DROPOUT.items() if hasattr(module, field)})


def unlike_initial(module, images):
    """Return float64 variables of uniform noise, around 1 for scales and variances."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1])
        return random.uniform(-1, 1, leaf.shape) * np.sqrt(6 / fan_in) if leaf.ndim > 1 else (
            random.uniform(-0.3, 0.3, leaf.shape) + (path[-1].key in ("scale", "var")))

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(module.init, KEY, images))


@pytest.mark.parametrize(("case", "norm"), [
    (each, norm) if norm in QUICK_NORMS.get(each.name, ()) else slow(each, norm)
    for each in NORMALISED for norm in NORMS if norm != each.ours().norm], ids=str)
def test_any_normalisation_goes_with_any_network(case, norm):
    """Each parameter has an effect in training mode; only batch norm has running statistics."""
    module, images = without_dropout(case.ours(norm=norm)), case.images()[:2 if norm == "batch" else 1]
    with jax.enable_x64(True):
        variables = unlike_initial(module, images)
        params = variables.pop("params")
        assert set(variables) == ({"batch_stats"} if norm == "batch" else set())

        @fast
        def outputs(params):
            logits, new = module.apply({"params": params, **variables}, images, train=True,
                                       mutable=["batch_stats", "aux_logits"])
            assert ("batch_stats" in new) == (norm == "batch")
            return jnp.stack([logits, *jax.tree.leaves(new.get("aux_logits", {}))])

        before = outputs(params)
        assert jnp.isfinite(before).all()
        paths, tree = jax.tree_util.tree_flatten_with_path(params)
        leaves = [leaf for _, leaf in paths]
        assert any(path[-1].key == "scale" for path, _ in paths) == (norm != "none")
        for i, (path, leaf) in enumerate(paths):
            moved = leaf + 0.1 * np.random.default_rng(i).uniform(size=leaf.shape)
            change = np.abs(outputs(jax.tree.unflatten(tree, [*leaves[:i], moved, *leaves[i + 1:]])) - before).max()
            # a normalisation of single channels cancels the bias of the layer before it
            may_be_silent = norm != "none" and path[-1].key == "bias" and "norm" not in path[-2].key
            assert may_be_silent or change > 1e-6, f"{jax.tree_util.keystr(path)} changes nothing"


@pytest.mark.parametrize("case", [
    case("resnet18", **SHALLOW), case("densenet121", block_sizes=(1,)), case("mobilenet_v1", **SHALLOW),
    case("regnet_x_3_2gf", stage_sizes=(1,), stage_features=(48,)), slow(case("googlenet", aux_logits=False))], ids=str)
def test_without_normalisation_convolutions_have_biases(case):
    for norm in NORMS:
        variables = jax.eval_shape(case.ours(norm=norm).init, KEY, case.images())
        first = variables["params"]["conv1"]
        assert ("bias" in first.get("conv", first)) == (norm == "none")


@pytest.mark.parametrize("case", [
    case("mlp", dropout_rate=0.5),
    case("resnet18", dropout_rate=0.5, stage_sizes=(1,), stage_features=(64,)),
    case("densenet121", block_sizes=(1,), dropout_rate=0.5),
    *map(slow, (*(case(name, dropout_rate=0.5) for name in ("alexnet", "nin_d2l", "googlenet_d2l")),
                case("regnetx32_d2l", dropout_rate=0.5, stage_sizes=(1, 1)), case("vgg11", **SHALLOW),
                case("mobilenet_v1", dropout_rate=0.5, **SHALLOW), case("resnet18", dropout_rate=0.5, **SHALLOW),
                case("densenet121", block_sizes=(2,), dropout_rate=0.5))),
], ids=str)
def test_dropout_acts_in_training_alone(case):
    module, images = case.ours(), case.images().astype(np.float32)
    variables = jax.tree.map(np.float32, unlike_initial(module, images))

    def train(module, key):
        return module.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    dropping = fast(functools.partial(train, module))
    one, same, other = (dropping(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    without = fast(functools.partial(train, without_dropout(module)))(jax.random.key(1))
    assert (one != without).any()
    evaluated = [fast(net.apply)(variables, images) for net in (module, without_dropout(module))]  # no key is asked for
    np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize("case", [
    *map(case, ("mlp", "lenet_bn", "alexnet")), case("resnet18", **SHALLOW), case("densenet121", block_sizes=(1,)),
    *map(slow, (*map(case, ("lenet_relu_bn", "vgg11_bn", "nin_d2l", "googlenet", "regnetx32_d2l")),
                case("preact_resnet50", **SHALLOW), case("mobilenet_v1", **SHALLOW),
                case("densenet121", block_sizes=(2, 3))))], ids=str)
def test_bfloat16_is_close_to_float32(case):
    images = case.images().astype(np.float32)
    variables = jax.tree.map(np.float32, unlike_initial(case.ours(), images))
    exact = fast(case.ours().apply)(variables, images)
    half = fast(case.ours(dtype="bfloat16").apply)(variables, images)
    assert half.dtype == jnp.bfloat16
    error = np.abs(np.asarray(half, np.float32) - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 0.05


def same(one, other):
    """Assert equal loss, logits, gradients and statistics, each to 1e-11 of the largest number of its kind."""
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-12)
    for a, b in (one.logits, other.logits), (one.gradients, other.gradients), (one.stats, other.stats):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        largest = max((np.abs(leaf).max() for leaf in jax.tree.leaves(b)), default=0)
        jax.tree.map(lambda x, y, scale=largest: np.testing.assert_allclose(x, y, rtol=0, atol=1e-11 * scale), a, b)


@pytest.mark.parametrize("case", [
    case("densenet121", block_sizes=(1,), dropout_rate=0.2), *map(slow, (
        *(case("vgg11_bn", **SHALLOW, dropout_rate=rate) for rate in (0.0, 0.2)), case("googlenet_d2l"),
        case("mobilenet_v1", **SHALLOW),
        case("densenet121", block_sizes=(2, 2), dropout_rate=0.2)))], ids=str)
def test_rematerialisation_changes_no_number(case):
    """With dropout: the backward pass, which computes again, must draw the same mask."""
    images, labels = case.images(), case.labels()
    with jax.enable_x64(True):
        variables = unlike_initial(case.ours(), images)
        plain = our_step(case.ours(), variables, images, labels)
        same(our_step(case.ours(remat=True), variables, images, labels), plain)
        evaluated = [fast(case.ours(remat=remat).apply)(variables, images) for remat in (False, True)]
    np.testing.assert_allclose(*evaluated, rtol=1e-12, atol=1e-12 * np.abs(evaluated[0]).max())


REMAT, SCAN = {"remat": True}, {"scan": True}


@pytest.mark.parametrize(("case", "ways"), [
    (case("resnet18", stage_sizes=(3,), stage_features=(64,), dropout_rate=0.2), (REMAT | SCAN,)),
    slow(case("resnet18", stage_sizes=(3, 1), stage_features=(64, 128), dropout_rate=0.2), (REMAT, SCAN, REMAT | SCAN)),
    slow(case("preact_resnet50", stage_sizes=(2, 2), stage_features=(64, 64)), (REMAT | SCAN,)),
    slow(case("regnetx32_d2l", stage_sizes=(3, 2)), (REMAT, SCAN, REMAT | SCAN)),
    slow(case("resnet20", stage_sizes=(3, 2), stage_features=(16, 32), norm="group"), (SCAN,))], ids=str)
def test_loops_over_blocks_and_rematerialisation_change_no_number(case, ways):
    """Blocks in a loop have the variables of the single blocks, stacked, and stay equal in a step."""
    images, labels = case.images(), case.labels()
    with jax.enable_x64(True):
        variables = unlike_initial(case.ours(), images)
        plain = our_step(case.ours(), variables, images, labels)
        evaluated = fast(case.ours().apply)(variables, images)
        stacked = convert.stack_blocks(variables)
        jax.tree.map(np.testing.assert_array_equal, convert.unstack_blocks(stacked), variables)
        for options in ways:
            module, given = case.ours(**options), stacked if "scan" in options else variables
            assert jax.tree.map(np.shape, given) == jax.tree.map(np.shape, jax.eval_shape(module.init, KEY, images))
            step = our_step(module, given, images, labels)
            single = convert.unstack_blocks({"gradients": step.gradients, "stats": step.stats})
            step.gradients, step.stats = single["gradients"], single["stats"]
            same(step, plain)
        np.testing.assert_allclose(fast(module.apply)(given, images), evaluated, rtol=0,
                                   atol=1e-12 * np.abs(evaluated).max())


@pytest.mark.parametrize(("block", "channels", "preactivation"), [
    (Residual, 8, False), (Bottleneck, 32, True), slow(Residual, 8, True), slow(Bottleneck, 32, False)])
def test_zero_init_makes_a_block_the_identity(block, channels, preactivation):
    images = np.random.default_rng(0).random((2, 6, 5, channels), np.float32)  # at least 0, as after a ReLU
    norm = functools.partial(BatchNorm, train=True)
    options = {"features": 8, "preactivation": preactivation, "conv": functools.partial(Conv, use_bias=False),
               "norm": norm}
    y, variables = fast(block(zero_init=True, **options).init_with_output)(KEY, images)
    np.testing.assert_array_equal(y, images)
    y, ordinary = fast(block(**options).init_with_output)(KEY, images)
    assert np.abs(y - images).max() > 0.1
    assert jax.tree.structure(variables) == jax.tree.structure(ordinary)


@pytest.mark.parametrize(("name", "layer", "zero"), [
    ("resnet18", ("norm2", "scale"), True), ("resnet18", ("norm2", "scale"), False),
    ("preact_resnet18", ("conv2", "kernel"), True), slow("preact_resnet18", ("conv2", "kernel"), False),
    ("regnetx32_d2l", ("norm3", "scale"), True), slow("regnetx32_d2l", ("norm3", "scale"), False),
    *(slow(*net, zero) for zero in (False, True) for net in (("resnet50", ("norm3", "scale")),
                                                             ("preact_resnet50", ("conv3", "kernel"))))])
def test_zero_init_residual_reaches_every_block(name, layer, zero):
    net = case(name, **SHALLOW)
    params = fast(net.ours(zero_init_residual=zero).init)(KEY, net.images())["params"]
    blocks = [layers for block, layers in params.items() if "block" in block]
    assert len(blocks) == 3
    for block in blocks:
        still = [f"{name}/{leaf}" for name, leaves in block.items() for leaf, value in leaves.items()
                 if leaf != "bias" and not value.any()]
        assert still == (["/".join(layer)] if zero else [])


@pytest.mark.parametrize("branches", [(1, 3), (2, 4), (3,)])
def test_branches_left_out_leave_the_others_as_they_were(branches):
    """test_twins compares the whole block with PyTorch's."""
    images = np.random.default_rng(0).random((2, 6, 5, 3))
    whole, part = (googlenet.Inception((2, 3, 4, 1, 3, 5), branches=some) for some in (googlenet.BRANCHES, branches))
    with jax.enable_x64(True):  # in float32, 1e-6 of the smallest numbers is less than rounding
        variables = fast(whole.init)(KEY, images)
        outputs = fast(whole.apply)(variables, images)
        kept = {name: layer for name, layer in variables["params"].items() if int(name[6]) in branches}
        got = fast(part.apply)({"params": kept}, images)
    assert jax.tree.structure(kept) == jax.tree.structure(jax.eval_shape(part.init, KEY, images)["params"])
    wanted = [np.split(outputs, (2, 6, 9), axis=-1)[number - 1] for number in branches]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.concatenate(wanted, -1), rtol=1e-10)


def test_googlenet_leaves_the_branch_out_of_every_block():
    params = jax.eval_shape(case("googlenet", branches=(1, 2, 4)).ours().init, KEY, jnp.zeros((1, 64, 48, 3)))["params"]
    blocks = [set(layers) for name, layers in params.items() if name.startswith("inception")]
    assert blocks == [{"branch1", "branch2_reduce", "branch2", "branch4"}] * 3


def test_vgg_blocks_of_other_kernels_keep_the_map():
    images = np.random.default_rng(0).random((2, 6, 8, 3))
    with jax.enable_x64(True):
        block = VGGBlock(4, 2, kernel_size=5)
        variables = unlike_initial(block, images)
        got = fast(block.apply)(variables, images)
    y = torch.tensor(images.transpose(0, 3, 1, 2))
    for layer in variables["params"].values():
        kernel, bias = torch.tensor(layer["kernel"].transpose(3, 2, 0, 1)), torch.tensor(layer["bias"])
        y = torch.relu(torch.nn.functional.conv2d(y, kernel, bias, padding=2))
    np.testing.assert_allclose(got, torch.max_pool2d(y, 2).numpy().transpose(0, 2, 3, 1), rtol=1e-10)


def test_identity_layers_make_nested_function_classes():
    """A plain network with added identity layers is the shallower network: its logits are equal."""
    few, many = (build("resnet20", stage_sizes=sizes, shortcut="none", norm="none", initializer="identity")
                 for sizes in ((1, 1), (3, 4)))
    few, many = (net.clone(stage_features=(8, 12)) for net in (few, many))
    images = np.random.default_rng(0).random((2, 9, 8, 3), np.float32)
    shallow, deep = (fast(net.init)(KEY, images) for net in (few, many))
    np.testing.assert_allclose(fast(many.apply)({"params": deep["params"] | shallow["params"]}, images),
                               fast(few.apply)(shallow, images), rtol=1e-5)


def test_the_stride_is_in_the_3x3_convolution_unless_asked():
    """Both have the same shapes and parameters, with 4.09 and 3.86 billion multiplications; their results differ."""
    first, second = (case("resnet50", stride_in_1x1=stride, **SHALLOW) for stride in (False, True))
    variables, images = first.variables(), first.images().astype(np.float32)
    one, other = (fast(net.ours().apply)(variables, images) for net in (first, second))
    assert np.abs(one - other).max() > 0.01 * np.abs(one).max()


def test_a_shortcut_of_zeros_pads_channels_at_the_end():
    net = build("resnet20", stage_sizes=(1, 1), stage_features=(4, 8))
    images = np.random.default_rng(0).random((1, 6, 6, 3), np.float32)
    variables = unlike_initial(net, images)
    stats = jax.tree.map(np.float32, variables["batch_stats"])
    params = jax.tree.map(np.float32, variables["params"])
    params["stage2_block1"] = jax.tree.map(np.zeros_like, params["stage2_block1"])  # only the shortcut is left
    apply = fast(functools.partial(net.apply, mutable=["intermediates"]))
    _, sown = apply({"params": params, "batch_stats": stats}, images)
    (before,), (after,) = (sown["intermediates"][stage] for stage in ("stage1", "stage2"))
    np.testing.assert_array_equal(after[..., :4], before[:, ::2, ::2])
    assert not after[..., 4:].any()


NAN = float("nan")


@pytest.mark.parametrize(("name", "options", "words"), [
    ("mlp", {"hidden_sizes": ()}, "whole numbers from 1 to 1,000,000"), ("mlp", {"hidden_sizes": 7}, "whole numbers"),
    ("mlp", {"hidden_sizes": (2_000_000,)}, "from 1 to 1,000,000"),
    ("alexnet", {"hidden": (0,)}, "whole numbers from 1 to 1,000,000"),
    ("alexnet", {"hidden": (2.5,)}, "whole numbers"),
    ("resnet18", {"stage_sizes": (0, 0, 0, 0)}, "whole numbers"),
    ("resnet18", {"stage_sizes": "2222"}, "whole numbers"),
    ("resnet18", {"stage_sizes": [1, -1, 1, 1]}, "whole numbers from 1 to 1,000,000"),
    ("densenet121", {"growth": 2.5}, "a whole number from 1 to 1,000,000"),
    ("lenet", {"padding": -1}, "from 0 to 1,000,000"),
    ("googlenet", {"aux_logits": 7}, "True or False"), ("resnet18", {"scan": "yes"}, "True or False"),
    ("mlp", {"dropout_rate": 7}, "at least 0 and below 1"), ("mlp", {"dropout_rate": 1.0}, "at least 0 and below 1"),
    ("mlp", {"dropout_rate": NAN}, "at least 0 and below 1"), ("lenet", {"width": "half"}, "a number of at least 0"),
    ("lenet", {"width": 10**400}, "at most 1000000"), ("lenet", {"width": True}, "a number"),
    ("alexnet", {"hidden_bias": NAN}, "a number"), ("lenet", {"norm": 7}, "a name"),
    ("resnet18", {"stem": 1}, "a name"),
    ("googlenet", {"pool": "max"}, "a function"), ("lenet", {"dtype": "fp16"}, "one of bfloat16, float16, float32"),
    ("lenet", {"dtype": "int8"}, "one of bfloat16"), ("lenet", {"dtype": 7}, "one of bfloat16"),
    ("lenet", {"dtype": "float64"}, "one of bfloat16")])  # JAX would silently compute in float32
def test_options_that_make_no_network(name, options, words):
    with pytest.raises(UserError, match=f"the option {next(iter(options))}=.* must be .*{words}"):
        build(name, **options)


@pytest.mark.parametrize(("name", "options"), [
    ("vgg11", {"hidden": ()}), ("nin_d2l", {"hidden": []}), ("alexnet_2012", {"hidden_bias": -1}),
    ("resnet18", {"padding": "SAME"}), ("lenet", {"dtype": jnp.bfloat16}), ("lenet", {"dtype": "float16"}),
    ("lenet", {"padding": 0}), ("densenet121", {"bottleneck": 0}), ("lenet", {"width": np.float32(0.5)}),
    ("mlp", {"dropout_rate": jnp.float32(2)})])  # a traced number has no value
def test_options_that_do(name, options):
    build(name, **options)


@pytest.mark.parametrize(("name", "options", "words"), [
    ("resnet18", {"stage_sizes": (1, 1)}, "must be equally long"), ("vgg11", {"stage_features": (8,)}, "equally long"),
    ("alexnet", {"features": (8, 8)}, "must be those of 5 convolutions")])
def test_stages_that_do_not_match(name, options, words):
    with pytest.raises(UserError, match=words):
        jax.eval_shape(build(name, **options).init, KEY, jnp.zeros((1, 224, 224, 3)))
