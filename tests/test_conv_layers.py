"""Modules of the other convolutions: transposed, depthwise and separable."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from modern_cnn import functional as F
from modern_cnn.layers import Conv, ConvTranspose, DepthwiseConv, SeparableConv
from tests.functional.oracle import WORKED, close

KEY = jax.random.key(0)
TOLERANCE = 1e-5


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def torchs(layer, x):
    return layer(torch.tensor(x).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1)


def is_uniform(values, bound):
    """Assert values within the bound, near it, and with the variance of U(-bound, bound), bound^2 / 3, to 10 %."""
    values = np.asarray(values)
    assert values.size >= 1000
    assert bound * 0.98 < np.abs(values).max() <= bound
    assert abs(values.mean()) < 0.1 * bound
    np.testing.assert_allclose((values ** 2).mean(), bound ** 2 / 3, rtol=0.1)


@pytest.mark.parametrize(("options", "theirs"), [
    ({"kernel_size": 3}, {}),
    ({"kernel_size": 4, "strides": 2, "padding": 1}, {"stride": 2, "padding": 1}),
    ({"kernel_size": (3, 2), "strides": (3, 2), "padding": 1, "output_padding": (2, 1), "use_bias": False},
     {"stride": (3, 2), "padding": 1, "output_padding": (2, 1), "bias": False}),
], ids=str)
def test_conv_transpose_is_torchs(options, theirs):
    x, layer = normal(2, 5, 6, 4), torch.nn.ConvTranspose2d(4, 3, options["kernel_size"], **theirs)
    parameters = {"kernel": layer.weight.detach().numpy().transpose(2, 3, 1, 0)}
    if layer.bias is not None:
        parameters["bias"] = layer.bias.detach().numpy()
    close(ConvTranspose(3, **options).apply({"params": parameters}, x), torchs(layer, x), TOLERANCE)
    initial = ConvTranspose(3, **options).init(KEY, x)["params"]
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, parameters)


@pytest.mark.parametrize(("options", "theirs"), [
    ({"kernel_size": 3}, {}),
    ({"kernel_size": (3, 2), "strides": 2, "padding": 1, "dilation": (1, 2), "use_bias": False},
     {"stride": 2, "padding": 1, "dilation": (1, 2), "bias": False}),
], ids=str)
@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_conv_is_torchs(options, theirs, multiplier):
    x, channels = normal(2, 7, 8, 4), 4 * multiplier
    layer = torch.nn.Conv2d(4, channels, options["kernel_size"], groups=4, **theirs)
    kernel = layer.weight.detach().numpy()[:, 0].transpose(1, 2, 0)
    parameters = {"kernel": kernel.reshape(*kernel.shape[:2], 4, multiplier)}
    if layer.bias is not None:
        parameters["bias"] = layer.bias.detach().numpy()
    ours = DepthwiseConv(multiplier=multiplier, **options)
    close(ours.apply({"params": parameters}, x), torchs(layer, x), TOLERANCE)
    assert jax.tree.map(jnp.shape, ours.init(KEY, x)["params"]) == jax.tree.map(jnp.shape, parameters)


@pytest.mark.parametrize("options", [
    {}, {"multiplier": 2, "strides": 2, "padding": "SAME"}, {"padding": 1, "dilation": 2, "use_bias": False},
], ids=str)
def test_separable_conv_is_a_depthwise_and_a_1x1_convolution(options):
    x, layer = normal(2, 7, 6, 3), SeparableConv(5, (3, 2), **options)
    parameters = layer.init(KEY, x)["params"]
    multiplier, biased = options.get("multiplier", 1), options.get("use_bias", True)
    shapes = {"depthwise_kernel": (3, 2, 3, multiplier), "pointwise_kernel": (1, 1, 3 * multiplier, 5)}
    assert jax.tree.map(jnp.shape, parameters) == shapes | ({"bias": (5,)} if biased else {})
    geometry = {key: value for key, value in options.items() if key not in ("multiplier", "use_bias")}
    first = DepthwiseConv((3, 2), multiplier, use_bias=False, **geometry)
    second = {"kernel": parameters["pointwise_kernel"]} | ({"bias": parameters["bias"]} if biased else {})
    y = first.apply({"params": {"kernel": parameters["depthwise_kernel"]}}, x)
    close(layer.apply({"params": parameters}, x), Conv(5, 1, use_bias=biased).apply({"params": second}, y), TOLERANCE)


def test_separating_is_what_saves_parameters():
    """The TensorFlow text: 3 channels to 4 with 3x3 windows need 108 weights, or 27 and 12."""
    example = WORKED["notebook"]["separable"]
    x, options = jnp.ones((1, 5, 5, example["inputs"])), {"use_bias": False, "kernel_size": example["kernel"]}
    (ordinary,) = jax.tree.leaves(Conv(example["outputs"], **options).init(KEY, x))
    assert ordinary.size == example["weights"]
    separable = SeparableConv(example["outputs"], **options).init(KEY, x)["params"]
    assert separable["depthwise_kernel"].size == example["depthwise_weights"]
    assert separable["pointwise_kernel"].size == example["pointwise_weights"]
    assert sum(a.size for a in jax.tree.leaves(separable)) == 39


def test_kernels_and_biases_are_drawn_as_torch_draws_them():
    x = jnp.ones((1, 4, 4, 5))
    ours = ConvTranspose(1000, (3, 2)).init(KEY, x)["params"]
    theirs = torch.nn.ConvTranspose2d(5, 1000, (3, 2))
    for kernel, bias in ((ours["kernel"], ours["bias"]), (theirs.weight.detach(), theirs.bias.detach())):
        is_uniform(kernel, (1000 * 3 * 2) ** -0.5)  # the fan counts the outputs
        is_uniform(bias, (1000 * 3 * 2) ** -0.5)

    ours = DepthwiseConv((3, 2), 200).init(KEY, x)["params"]
    theirs = torch.nn.Conv2d(5, 1000, (3, 2), groups=5)
    for kernel, bias in ((ours["kernel"], ours["bias"]), (theirs.weight.detach(), theirs.bias.detach())):
        is_uniform(kernel, (3 * 2) ** -0.5)
        is_uniform(bias, (3 * 2) ** -0.5)

    ours = SeparableConv(1000, (3, 2), 200).init(KEY, x)["params"]
    is_uniform(ours["depthwise_kernel"], (3 * 2) ** -0.5)
    is_uniform(ours["pointwise_kernel"], 1000 ** -0.5)
    is_uniform(ours["bias"], 1000 ** -0.5)


LAYERS = {"transposed": ConvTranspose(4, 3), "depthwise": DepthwiseConv(3, 2), "separable": SeparableConv(4, 3, 2)}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_dtype_is_the_computations_and_the_initialisers_are_the_callers(layer):
    x = normal(1, 5, 5, 2)
    half = layer.clone(dtype=jnp.bfloat16)
    variables = half.init(KEY, x)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert half.apply(variables, x).dtype == jnp.bfloat16
    assert layer.apply(variables, x).dtype == jnp.float32
    ones = layer.clone(kernel_init=jax.nn.initializers.ones, bias_init=jax.nn.initializers.zeros).init(KEY, x)["params"]
    assert all((value == (name != "bias")).all() for name, value in ones.items())


def test_conv_transpose_restores_what_conv_reads():
    """The decoder's convolution with the encoder's options gives the size back."""
    x = normal(1, 16, 16, 3)
    y = Conv(6, 5, strides=3, padding=2).init_with_output(KEY, x)[0]
    assert ConvTranspose(3, 5, strides=3, padding=2).init_with_output(KEY, y)[0].shape == x.shape
    kernel = normal(5, 5, 3, 6)
    close(ConvTranspose(3, 5, 3, 2, use_bias=False).apply({"params": {"kernel": kernel}}, y),
          F.conv2d_transpose(y, kernel, strides=3, padding=2), TOLERANCE)
