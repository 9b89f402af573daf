import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from modern_cnn import functional as F
from modern_cnn.errors import UserError
from modern_cnn.initializers import INITIALIZERS, initializers
from modern_cnn.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Dropout,
    GroupNorm,
    Identity,
    InstanceNorm,
    LayerNorm,
    LocallyConnected,
    SeparableConv,
    normalization,
    scaled,
)
from tests.draws import is_normal, is_uniform

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def close(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1, np.abs(np.asarray(want)).max()))


# layer, input, fan_in, fan_out as torch counts them: the window's pixels times channels (of one group, going in)
FANS = {
    "dense": (Dense, {"features": 3000}, (2, 400), 400, 3000),
    "conv": (Conv, {"features": 2000, "kernel_size": (5, 3)}, (1, 7, 7, 6), 90, 30_000),
    "grouped": (Conv, {"features": 2000, "kernel_size": 3, "groups": 2}, (1, 7, 7, 6), 27, 18_000),
}


@pytest.mark.parametrize("kind", FANS)
@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name not in ("identity", "dirac")])
def test_initial_kernels_and_biases_are_drawn_as_named(name, kind):
    layer, options, shape, fan_in, fan_out = FANS[kind]
    of_layer = "dense" if kind == "dense" else "conv"
    parameters = layer(**options, **initializers(name, of_layer)).init(KEY, jnp.ones(shape))["params"]
    uniform, normal_ = (is_uniform, 1 / np.sqrt(fan_in)), (is_normal, 0.01)
    xavier = is_uniform, np.sqrt(6 / (fan_in + fan_out))
    he_in, he_out = (is_normal, np.sqrt(2 / fan_in)), (is_normal, np.sqrt(2 / fan_out))
    conv, dense, zero_biases = {
        "xavier_uniform": (xavier, xavier, ()), "keras": (xavier, xavier, ("conv", "dense")),
        "torch": (uniform, uniform, ()), "normal": (normal_, normal_, ("conv", "dense")),
        "vgg": (he_out, normal_, ("conv", "dense")), "googlenet": (normal_, normal_, ()),
        "resnet": (he_out, uniform, ()), "densenet": (he_in, uniform, ("dense",))}[name]
    drawn_from, deviation = dense if kind == "dense" else conv
    drawn_from(parameters["kernel"], deviation)
    if of_layer in zero_biases:
        assert not parameters["bias"].any()
    else:
        is_uniform(parameters["bias"], 1 / np.sqrt(fan_in))


def test_identity_kernels_are_torchs_dirac_or_hes():
    for size in (1, 3, 5):
        square = Conv(6, size, **initializers("identity", "conv")).init(KEY, jnp.ones((1, 7, 7, 6)))["params"]
        dirac = torch.nn.init.dirac_(torch.empty(6, 6, size, size)).numpy()
        np.testing.assert_array_equal(square["kernel"], dirac.transpose(2, 3, 1, 0))
        assert not square["bias"].any()
    layer, options, shape, _, fan_out = FANS["conv"]
    is_normal(layer(**options, **initializers("identity", "conv")).init(KEY, jnp.ones(shape))["params"]["kernel"],
              np.sqrt(2 / fan_out))
    assert initializers("identity", "dense") == initializers("torch", "dense") | {"bias_init": nn.initializers.zeros}


def test_dirac_kernels_copy_channels_with_their_first_filters():
    """As torch.nn.init.dirac_ on the first filters, as many as there are channels; test_initialization has the rest."""
    for inside, outside in ((3, 8), (8, 3)):
        conv = Conv(outside, 3, **initializers("dirac", "conv"))
        kernel = conv.init(KEY, jnp.ones((1, 7, 7, inside)))["params"]["kernel"]
        copies = torch.nn.init.dirac_(torch.empty(min(inside, outside), inside, 3, 3)).numpy()
        np.testing.assert_array_equal(kernel[..., :inside], copies.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("kind", FANS)
def test_torchs_own_layers_obey_those_formulas(kind):
    """The bounds above hold for PyTorch's layers too."""
    _, options, shape, fan_in, fan_out = FANS[kind]
    torch.manual_seed(0)
    if kind == "dense":
        layer = torch.nn.Linear(shape[-1], options["features"])
    else:
        layer = torch.nn.Conv2d(shape[-1], options["features"], options["kernel_size"], groups=options.get("groups", 1))
    is_uniform(layer.weight.detach(), 1 / np.sqrt(fan_in))
    is_uniform(layer.bias.detach(), 1 / np.sqrt(fan_in))
    torch.nn.init.xavier_uniform_(layer.weight)
    is_uniform(layer.weight.detach(), np.sqrt(6 / (fan_in + fan_out)))
    for mode, fan in ("fan_in", fan_in), ("fan_out", fan_out):
        torch.nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
        is_normal(layer.weight.detach(), np.sqrt(2 / fan))


def test_the_defaults_are_torchs():
    for layer, options, shape, fan_in, _ in FANS.values():
        parameters = layer(**options).init(KEY, jnp.ones(shape))["params"]
        is_uniform(parameters["kernel"], 1 / np.sqrt(fan_in))
        is_uniform(parameters["bias"], 1 / np.sqrt(fan_in))


def test_an_unknown_initializer_or_norm_names_the_closest():
    with pytest.raises(UserError, match="no initializer 'xavier'; did you mean 'xavier_uniform'"):
        initializers("xavier", "conv")
    with pytest.raises(UserError, match="no normalisation 'bach'; did you mean 'batch'"):
        normalization("bach")
    with pytest.raises(UserError, match="no normalisation 'zzz'; known: batch, group, instance, layer, none"):
        normalization("zzz")


def test_a_width_scales_channels_to_at_least_one():
    assert [scaled(n, 0.25) for n in (64, 6, 2, 1)] == [16, 2, 1, 1]
    assert [scaled(64, width) for width in (1, 1.5, 1e-9)] == [64, 96, 1]
    for width in (0, -1, math.inf, math.nan):
        with pytest.raises(UserError, match=f"width={width} must be above 0"):
            scaled(64, width)
    with pytest.raises(UserError, match="a layer cannot have 0 channels"):
        scaled(0, 2)


def test_dense_is_torchs():
    x, layer = normal(4, 5), torch.nn.Linear(5, 3)
    parameters = {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}
    close(Dense(3).apply({"params": parameters}, x), layer(torch.tensor(x)).detach())


def test_dense_works_on_the_last_axis_and_without_bias():
    variables = Dense(3, use_bias=False).init(KEY, jnp.ones((2, 4, 5)))
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (5, 3)}}
    close(Dense(3, use_bias=False).apply(variables, normal(2, 4, 5)), normal(2, 4, 5) @ variables["params"]["kernel"])


@pytest.mark.parametrize(("options", "theirs"), [
    ({"kernel_size": 3}, {}),
    ({"kernel_size": (3, 2), "strides": (2, 1), "padding": 1}, {"stride": (2, 1), "padding": 1}),
    ({"kernel_size": 3, "dilation": 2, "groups": 2}, {"dilation": 2, "groups": 2}),
    ({"kernel_size": 1, "use_bias": False}, {"bias": False}),
], ids=str)
def test_conv_is_torchs(options, theirs):
    x, layer = normal(2, 9, 8, 4), torch.nn.Conv2d(4, 6, options["kernel_size"], **theirs)
    parameters = {"kernel": layer.weight.detach().numpy().transpose(2, 3, 1, 0)}
    if layer.bias is not None:
        parameters["bias"] = layer.bias.detach().numpy()
    want = layer(torch.tensor(x).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1)
    close(Conv(6, **options).apply({"params": parameters}, x), want)
    initial = Conv(6, **options).init(KEY, x)["params"]
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, parameters)


@pytest.mark.parametrize("options", [{}, {"strides": 2, "padding": "SAME"}, {"use_bias": False, "padding": 1}], ids=str)
def test_locally_connected_is_its_function(options):
    x = normal(2, 7, 6, 3)
    layer = LocallyConnected(4, (3, 2), **options)
    parameters = layer.init(KEY, x)["params"]
    geometry = {key: value for key, value in options.items() if key != "use_bias"}
    close(layer.apply({"params": parameters}, x),
          F.locally_connected2d(x, parameters["kernel"], parameters.get("bias"), **geometry))
    assert parameters["kernel"].shape[2:] == (3, 2, 3, 4)
    assert ("bias" in parameters) == options.get("use_bias", True)
    is_uniform(parameters["kernel"], 1 / np.sqrt(3 * 2 * 3))  # the fan is one pixel's, as of a dense layer


def test_sharing_weights_is_what_saves_parameters():
    """A 3x3 window has nine weights for any image (the TensorFlow text, 10.1.2); unshared, nine for each pixel."""
    for size in (5, 28):
        x = jnp.ones((1, size, size, 1))
        (shared,) = jax.tree.leaves(Conv(1, 3, use_bias=False).init(KEY, x))
        (unshared,) = jax.tree.leaves(LocallyConnected(1, 3, use_bias=False).init(KEY, x))
        assert (shared.size, unshared.size) == (9, 9 * (size - 2) ** 2)


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 5)])
def test_batch_norm_is_linens_over_several_steps(shape):
    ours = BatchNorm(train=True, decay=0.8, epsilon=1e-3)
    theirs = nn.BatchNorm(use_running_average=False, momentum=0.8, epsilon=1e-3, use_fast_variance=False)
    variables = ours.init(KEY, normal(*shape))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, theirs.init(KEY, normal(*shape)))
    parameters = {"scale": normal(5, seed=1), "bias": normal(5, seed=2)}
    our_stats = their_stats = variables["batch_stats"]
    for step in range(4):
        x = 3 + 2 * normal(*shape, seed=step)
        y, ours_new = ours.apply({"params": parameters, "batch_stats": our_stats}, x, mutable=["batch_stats"])
        want, theirs_new = theirs.apply({"params": parameters, "batch_stats": their_stats}, x, mutable=["batch_stats"])
        our_stats, their_stats = ours_new["batch_stats"], theirs_new["batch_stats"]
        close(y, want)
        jax.tree.map(close, our_stats, their_stats)
    evaluated = BatchNorm(train=False, epsilon=1e-3).apply({"params": parameters, "batch_stats": our_stats}, x)
    theirs = theirs.clone(use_running_average=True)
    close(evaluated, theirs.apply({"params": parameters, "batch_stats": our_stats}, x))


def test_unbiased_batch_norm_is_torchs_over_several_steps():
    """The defaults agree: torch's momentum of 0.1 is our decay of 0.9."""
    ours, theirs = BatchNorm(train=True, unbiased=True), torch.nn.BatchNorm2d(5)
    variables = ours.init(KEY, normal(2, 3, 3, 5))
    for step in range(4):
        x = 3 + 2 * normal(2, 3, 3, 5, seed=step)
        y, new = ours.apply(variables, x, mutable=["batch_stats"])
        variables = {**variables, **new}
        close(y, theirs(torch.tensor(x).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1))
        close(new["batch_stats"]["mean"], theirs.running_mean)
        close(new["batch_stats"]["var"], theirs.running_var)


@pytest.mark.parametrize("shape", [(3, 12), (3, 5, 4, 12)])
@pytest.mark.parametrize(("layer", "groups"), [
    (LayerNorm(epsilon=1e-3), 1), (GroupNorm(groups=4, epsilon=1e-3), 4), (GroupNorm(groups=8, epsilon=1e-3), 4),
    (InstanceNorm(epsilon=1e-3), 12)], ids=str)
def test_the_normalisations_of_single_images_are_torchs_group_norm(layer, groups, shape):
    """A layer norm is one group, an instance norm one group for each channel; 8 groups of 12 channels become 4."""
    x = 3 + 2 * normal(*shape)
    parameters = {"scale": normal(12, seed=1), "bias": normal(12, seed=2)}
    assert jax.tree.map(jnp.shape, layer.init(KEY, x)) == {"params": {"scale": (12,), "bias": (12,)}}
    y = layer.apply({"params": parameters}, x)
    if x.ndim == 2 and groups == 12:  # one number has no deviation: it is only scaled
        close(y, x * parameters["scale"] + parameters["bias"])
        return
    theirs = torch.nn.functional.group_norm(
        torch.tensor(np.moveaxis(x, -1, 1)), groups, *map(torch.tensor, parameters.values()), eps=1e-3)
    close(y, np.moveaxis(theirs.numpy(), 1, -1))


@pytest.mark.parametrize("layer", [BatchNorm, LayerNorm, GroupNorm, InstanceNorm])
def test_normalisations_begin_with_scales_of_one_or_as_asked(layer):
    options = {"train": False} if layer is BatchNorm else {}
    for wanted, asked in (1, {}), (0, {"scale_init": nn.initializers.zeros}):
        parameters = layer(**options, **asked).init(KEY, normal(2, 3, 3, 8))["params"]
        np.testing.assert_array_equal(parameters["scale"], np.full(8, wanted))
        np.testing.assert_array_equal(parameters["bias"], np.zeros(8))


@pytest.mark.parametrize("shape", [(1, 5), (4, 3, 3, 5)])
def test_init_leaves_the_running_statistics_alone(shape):
    """This holds in training mode, and for a batch of one, whose variance is 0 or not defined."""
    layer = BatchNorm(train=True, unbiased=True)
    y, variables = layer.init_with_output(KEY, 7 + normal(*shape))
    close(variables["batch_stats"]["mean"], np.zeros(5), 0)
    close(variables["batch_stats"]["var"], np.ones(5), 0)
    assert jnp.isfinite(y).all()


def test_batch_norm_passes_its_axis_name_on():
    layer = BatchNorm(train=True, axis_name="devices")
    x = normal(6, 5)
    variables = layer.init(KEY, x)
    y, new = jax.vmap(lambda x: layer.apply(variables, x, mutable=["batch_stats"]), axis_name="devices")(
        x.reshape(3, 2, 5))
    want, wanted = BatchNorm(train=True).apply(variables, x, mutable=["batch_stats"])
    close(y.reshape(6, 5), want)
    jax.tree.map(lambda each, whole: close(each, np.broadcast_to(whole, (3, 5))), new, wanted)


@pytest.mark.parametrize("layer", [Dense(3), Conv(3, 2), LocallyConnected(3, 2), BatchNorm(train=True), LayerNorm(),
                                   GroupNorm(), InstanceNorm()], ids=lambda layer: type(layer).__name__)
def test_bfloat16_computes_but_does_not_store(layer):
    layer = layer.clone(dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(KEY, normal(2, 4, 4, 2))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    _, new = layer.apply(variables, normal(2, 4, 4, 2), mutable=["batch_stats"])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new))


def test_dropout_draws_from_its_stream_in_training_alone():
    x = jnp.ones((100, 100))
    y = Dropout(0.25, train=True).apply({}, x, rngs={"dropout": KEY})
    np.testing.assert_array_equal(y, Dropout(0.25, train=True).apply({}, x, rngs={"dropout": KEY}))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((np.asarray(y) == 0).mean() - 0.25) < 0.03
    for quiet in Dropout(0.25, train=False), Dropout(0.0, train=True):
        np.testing.assert_array_equal(quiet.apply({}, x), x)  # without a key


def test_normalization_builds_what_it_names():
    norm = normalization("batch", train=True, decay=0.5, dtype=jnp.bfloat16)(epsilon=0.25)
    assert isinstance(norm, BatchNorm)
    assert (norm.train, norm.decay, norm.epsilon, norm.dtype) == (True, 0.5, 0.25, jnp.bfloat16)
    for name, layer in ("layer", LayerNorm), ("group", GroupNorm), ("instance", InstanceNorm):
        norm = normalization(name, train=True, decay=0.5, dtype=jnp.bfloat16, unbiased=True)(epsilon=0.25, name="n")
        assert isinstance(norm, layer)
        assert (norm.epsilon, norm.dtype, norm.name) == (0.25, jnp.bfloat16, "n")
    none = normalization("none", train=True, decay=0.5)(scale_init=nn.initializers.zeros)
    assert isinstance(none, Identity)
    np.testing.assert_array_equal(none.apply({}, normal(2, 3)), normal(2, 3))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3), (0, 4, 4, 3)])
def test_batch_norm_refuses_to_train_on_one_value(shape, unbiased):
    """Its mean is the value itself, so nothing of the image is left."""
    layer, x = BatchNorm(train=True, unbiased=unbiased), jnp.ones(shape)
    variables = layer.init(jax.random.key(0), x)  # which looks at no value
    words = r"cannot train on fewer than two values in each channel: .*config\.data\.batch_size"
    with pytest.raises(UserError, match=words):
        layer.apply(variables, x, mutable=["batch_stats"])
    layer.apply(variables, jnp.ones((2, *shape[1:])), mutable=["batch_stats"])
    BatchNorm(train=False).apply(variables, x)


@pytest.mark.parametrize(("layer", "channels", "words"), [
    (Dense(0), 4, "features=0: give it"),
    (Dense(3), 0, "channels=0: give it"),
    (Conv(0, 3), 4, "features=0"),
    (Conv(8, 3, groups=0), 4, "groups=0"),
    (Conv(8, 3, groups=4), 6, "channels=6 in 4 groups: they must divide it"),
    (Conv(6, 3, groups=4, kernel_init=initializers("dirac", "conv")["kernel_init"]), 4, "features=6 in 4 groups"),
    (LocallyConnected(0, 3), 4, "features=0"),
    (ConvTranspose(0, 3), 4, "features=0"),
    (DepthwiseConv(3, multiplier=0), 4, "multiplier=0"),
    (SeparableConv(0, 3), 4, "features=0"),
    (GroupNorm(groups=0), 4, "groups=0"),
    (GroupNorm(groups=-4), 4, "groups=-4"),
], ids=str)
def test_a_layer_without_channels_is_refused(layer, channels, words):
    with pytest.raises(UserError, match=words):
        layer.init(KEY, jnp.ones((2, 5, 5, channels)))
    if isinstance(layer, LocallyConnected):
        with pytest.raises(UserError, match=r"takes images \[N, H, W, C\], not \(2, 5\)"):
            layer.init(KEY, jnp.ones((2, 5)))
