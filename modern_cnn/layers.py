"""Linen modules that hold parameters and batch statistics; `modern_cnn.functional` does all the arithmetic.

Parameters are float32. Each layer computes in `dtype`; None means the wider of its input's and its parameters' types
for dense and convolutional layers, and its input's type for normalisations.
"""
import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from modern_cnn import functional as F
from modern_cnn.errors import UserError, lookup
from modern_cnn.functional.conv import Padding, Pair, add_bias, explicit_padding, output_size, pair
from modern_cnn.functional.regularize import is_zero
from modern_cnn.initializers import TORCH, Initializer, depthwise_kernel, fan_in_uniform, grouped

ACTIVATIONS = {"sigmoid": nn.sigmoid, "tanh": nn.tanh, "relu": nn.relu, "relu6": nn.relu6}


def scaled(features: int, width: float) -> int:
    """Return a number of channels times a network's `width`, rounded, and at least 1.

    Raise UserError if `width` is not above 0 or not finite, or `features` is below 1.
    """
    if not 0 < width < math.inf:
        raise UserError(f"width={width} must be above 0 and finite: it multiplies the numbers of channels")
    if features < 1:
        raise UserError(f"a layer cannot have {features} channels: give it at least one")
    return max(1, round(width * features))


class _Weighted(nn.Module, kw_only=True):
    """The fields that dense and convolutional layers share. The initial values are PyTorch's by default."""
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    kernel_init: Initializer = TORCH
    bias_init: Initializer | None = None  # None: `fan_in_uniform` of the layer


def _check(groups: int = 1, **sizes: int) -> None:
    """Raise UserError for a size below 1, or groups that do not divide all sizes."""
    for name, size in {"groups": groups, **sizes}.items():
        if size < 1 or size % groups:
            raise UserError(f"a layer cannot have {name}={size}"
                            + (f" in {groups} groups: they must divide it" if size > 0 else ": give it at least one"))


def _promote(layer: _Weighted, fan_in: int, bias_shape: tuple[int, ...], *arrays: jax.Array) -> list[Any]:
    """Return the arrays, and the layer's bias or None after them, all in the type that the layer computes in."""
    bias_init = layer.bias_init or fan_in_uniform(fan_in)
    bias = layer.param("bias", bias_init, bias_shape) if layer.use_bias else None
    return promote_dtype(*arrays, bias, dtype=layer.dtype)


class Dense(_Weighted):
    """A dense layer, x @ kernel + bias: [..., in] -> [..., features], with the initial values of PyTorch's Linear."""
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check(channels=x.shape[-1], features=self.features)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        x, kernel, bias = _promote(self, x.shape[-1], (self.features,), x, kernel)
        return add_bias(x @ kernel, bias)


class Conv(_Weighted):
    """`functional.conv2d` with a kernel [kh, kw, C // groups, features] and a bias, initialised as PyTorch's Conv2d.

    Without `learned` the kernel is not in 'params' but in 'batch_stats', where no optimiser or weight decay finds it.
    """
    features: int
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "VALID"
    dilation: Pair = 1
    groups: int = 1
    learned: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check(self.groups, channels=x.shape[-1], features=self.features)
        shape = (*pair(self.kernel_size, "kernel_size"), x.shape[-1] // self.groups, self.features)
        kernel_init = grouped(self.kernel_init, self.groups)
        if self.learned:
            kernel: Any = self.param("kernel", kernel_init, shape)
        else:
            kernel = self.variable("batch_stats", "kernel", lambda: kernel_init(self.make_rng("params"), shape)).value
        x, kernel, bias = _promote(self, math.prod(shape[:3]), (self.features,), x, kernel)
        return F.conv2d(x, kernel, bias, strides=self.strides, padding=self.padding, dilation=self.dilation,
                        groups=self.groups)


class LocallyConnected(_Weighted):
    """`functional.locally_connected2d`: a convolution with its own kernel for each output pixel."""
    features: int
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "VALID"
    kernel_init: Initializer = field(
        default=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0, 1)), kw_only=True)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.ndim != 4:
            raise UserError(f"a locally connected layer takes images [N, H, W, C], not {x.shape}")
        _check(channels=x.shape[-1], features=self.features)
        window, strides = pair(self.kernel_size, "kernel_size"), pair(self.strides, "strides")
        pads = explicit_padding(self.padding, x.shape[1:3], window, strides)
        out = output_size(x.shape[1:3], window, strides, pads)
        kernel = self.param("kernel", self.kernel_init, (*out, *window, x.shape[-1], self.features))
        x, kernel, bias = _promote(self, math.prod(window) * x.shape[-1], (*out, self.features), x, kernel)
        return F.locally_connected2d(x, kernel, bias, strides=strides, padding=pads)


class ConvTranspose(_Weighted):
    """`functional.conv2d_transpose` with a kernel [kh, kw, features, C] and a bias, initialised as ConvTranspose2d."""
    features: int
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "VALID"
    output_padding: Pair = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check(channels=x.shape[-1], features=self.features)
        shape = (*pair(self.kernel_size, "kernel_size"), self.features, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape)
        fan_in = math.prod(shape[:3])  # PyTorch counts the output's channels
        x, kernel, bias = _promote(self, fan_in, (self.features,), x, kernel)
        return F.conv2d_transpose(x, kernel, bias, strides=self.strides, padding=self.padding,
                                  output_padding=self.output_padding)


class DepthwiseConv(_Weighted):
    """`functional.depthwise_conv2d`: kernel [kh, kw, C, multiplier], bias [C * multiplier], as Conv2d with C groups."""
    kernel_size: Pair
    multiplier: int = 1
    strides: Pair = 1
    padding: Padding = "VALID"
    dilation: Pair = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check(channels=x.shape[-1], multiplier=self.multiplier)
        window = pair(self.kernel_size, "kernel_size")
        kernel = self.param("kernel", depthwise_kernel(self.kernel_init), (*window, x.shape[-1], self.multiplier))
        x, kernel, bias = _promote(self, math.prod(window), (x.shape[-1] * self.multiplier,), x, kernel)
        return F.depthwise_conv2d(x, kernel, bias, strides=self.strides, padding=self.padding, dilation=self.dilation)


class SeparableConv(_Weighted):
    """`functional.separable_conv2d` with two kernels and a bias after the second convolution.

    `depthwise_kernel` [kh, kw, C, multiplier] and `pointwise_kernel` [1, 1, C * multiplier, features] begin as in
    PyTorch's Conv2d.
    """
    features: int
    kernel_size: Pair
    multiplier: int = 1
    strides: Pair = 1
    padding: Padding = "VALID"
    dilation: Pair = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check(channels=x.shape[-1], features=self.features, multiplier=self.multiplier)
        shape = (*pair(self.kernel_size, "kernel_size"), x.shape[-1], self.multiplier)
        between = shape[2] * shape[3]
        depthwise = self.param("depthwise_kernel", depthwise_kernel(self.kernel_init), shape)
        pointwise = self.param("pointwise_kernel", self.kernel_init, (1, 1, between, self.features))
        x, depthwise, pointwise, bias = _promote(self, between, (self.features,), x, depthwise, pointwise)
        return F.separable_conv2d(x, depthwise, pointwise, bias, strides=self.strides, padding=self.padding,
                                  dilation=self.dilation)


class _Norm(nn.Module, kw_only=True):
    """The fields that the normalisations share. They hold `scale` and `bias` [C] in 'params', both float32."""
    epsilon: float = 1e-5
    dtype: jnp.dtype | None = None
    use_scale: bool = True
    scale_init: Initializer = nn.initializers.ones


def _cast_with_scale(layer: _Norm, x: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
    """Return x in the layer's `dtype`, and the layer's `scale`, or None if it has none, and `bias`."""
    scale = layer.param("scale", layer.scale_init, x.shape[-1:]) if layer.use_scale else None
    bias = layer.param("bias", nn.initializers.zeros, x.shape[-1:])
    return x if layer.dtype is None else x.astype(layer.dtype), scale, bias


class BatchNorm(_Norm):
    """`functional.batch_norm`, which explains `unbiased` and `axis_name`, with `mean` and `var` in 'batch_stats'.

    Apply it with mutable=['batch_stats'] in training. The defaults are PyTorch's and the textbook's (their momentum of
    0.1 is a decay of 0.9).
    """
    train: bool
    decay: float = 0.9
    unbiased: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, scale, bias = _cast_with_scale(self, x)
        mean = self.variable("batch_stats", "mean", jnp.zeros, bias.shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, bias.shape, jnp.float32)
        if self.train and not self.is_initializing() and self.axis_name is None and x.size <= x.shape[-1]:
            raise UserError("batch normalisation cannot train on fewer than two values in each channel: it subtracts "
                            "the mean, and nothing is left. Take a larger --config.data.batch_size (for each "
                            "device and for each part of config.accumulate), larger images, or --config.model."
                            "norm=group")
        # `init` ignores the batch, in training too, so that it returns the initial statistics.
        y, mean_new, var_new = F.batch_norm(
            x, scale, bias, mean.value, var.value, train=self.train and not self.is_initializing(), decay=self.decay,
            epsilon=self.epsilon, unbiased=self.unbiased, axis_name=self.axis_name)
        if self.train:
            mean.value, var.value = mean_new, var_new
        return y


class LayerNorm(_Norm):
    """`functional.layer_norm` over height, width and channels of each image."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, scale, bias = _cast_with_scale(self, x)
        return F.layer_norm(x, scale, bias, axes=range(1, x.ndim), epsilon=self.epsilon)


class GroupNorm(_Norm):
    """`functional.group_norm`; its groups are the greatest common divisor of `groups` and the channels: 16 of 48."""
    groups: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check(groups=self.groups)
        x, scale, bias = _cast_with_scale(self, x)
        return F.group_norm(x, scale, bias, groups=math.gcd(self.groups, x.shape[-1]), epsilon=self.epsilon)


class InstanceNorm(_Norm):
    """`functional.instance_norm`. Vectors [N, C] have no pixels: they are only scaled."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, scale, bias = _cast_with_scale(self, x)
        if x.ndim == 2:
            return add_bias(x if scale is None else x * scale, bias).astype(x.dtype)
        return F.instance_norm(x, scale, bias, epsilon=self.epsilon)


class Identity(nn.Module):
    """A module that returns its input, for networks without normalisation."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class Dropout(nn.Module):
    """`functional.dropout` with a key of the 'dropout' stream in training; the identity in evaluation."""
    rate: float
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.train or is_zero(self.rate):
            return x
        return F.dropout(self.make_rng("dropout"), x, self.rate)


NORMS = {"batch": BatchNorm, "layer": LayerNorm, "group": GroupNorm, "instance": InstanceNorm, "none": Identity}


def normalization(name: str, **options) -> Callable[..., nn.Module]:
    """Return a constructor of a normalisation: `norm = normalization('batch', train=train)`; `norm(name='n1')(x)`.

    `name` is a key of NORMS (raise UserError if it is not), or 'frozen', which is batch normalisation by the running
    statistics, in training too. Options that are not fields of the normalisation are ignored.
    """
    if name == "frozen":
        name, options = "batch", options | {"train": False}
    module = lookup(NORMS, name, "normalisation")

    def construct(**extra) -> nn.Module:
        return module(**{key: value for key, value in (options | extra).items() if key in module.__dataclass_fields__})

    return construct
