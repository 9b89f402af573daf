"""Linen modules that hold parameters and batch statistics; `modern_cnn.functional` does all the arithmetic.

Parameters are float32; `dtype` is what they and the input are cast to for computing (None: the wider of the two).
"""
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn import functional as F
from modern_cnn.errors import UserError, did_you_mean
from modern_cnn.functional.conv import Padding, Pair, explicit_padding, output_size, pair

Initializer = Callable[..., jax.Array]


def fan_in_uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what PyTorch gives the biases of its dense and convolutional layers."""
    bound = fan_in ** -0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


# name -> (kernel initialiser, bias initialiser). A bias of None means `fan_in_uniform` of the layer it belongs to.
INITIALIZERS = {
    "xavier_uniform": (nn.initializers.xavier_uniform(), None),  # the textbook: PyTorch's layers, kernels redrawn
    "keras": (nn.initializers.xavier_uniform(), nn.initializers.zeros),
    "torch": (nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), None),
}


def initializers(name: str) -> dict[str, Initializer | None]:
    """`kernel_init` and `bias_init` by name, for `Conv` and `Dense`. Raises UserError for an unknown name."""
    if name not in INITIALIZERS:
        raise UserError(f"there is no initializer {name!r}{did_you_mean(name, INITIALIZERS)}")
    return dict(zip(("kernel_init", "bias_init"), INITIALIZERS[name], strict=True))


class Dense(nn.Module):
    """x @ kernel + bias over the last axis: [..., in] -> [..., features]. Draws as PyTorch's Linear does."""
    features: int
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    kernel_init: Initializer = INITIALIZERS["torch"][0]
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias_init = self.bias_init or fan_in_uniform(x.shape[-1])
        bias = self.param("bias", bias_init, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = x @ kernel
        return y if bias is None else y + bias


class Conv(nn.Module):
    """`functional.conv2d` with its kernel [kh, kw, C // groups, features] and bias. Draws as PyTorch's Conv2d does."""
    features: int
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "VALID"
    dilation: Pair = 1
    groups: int = 1
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    kernel_init: Initializer = INITIALIZERS["torch"][0]
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kh, kw = pair(self.kernel_size, "kernel_size")
        shape = (kh, kw, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias_init = self.bias_init or fan_in_uniform(kh * kw * shape[2])
        bias = self.param("bias", bias_init, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return F.conv2d(x, kernel, bias, strides=self.strides, padding=self.padding, dilation=self.dilation,
                        groups=self.groups)


class LocallyConnected(nn.Module):
    """`functional.locally_connected2d`: a convolution with a kernel of its own for every output pixel."""
    features: int
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "VALID"
    use_bias: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window, strides = pair(self.kernel_size, "kernel_size"), pair(self.strides, "strides")
        pads = explicit_padding(self.padding, x.shape[1:3], window, strides)
        out = output_size(x.shape[1:3], window, strides, pads)
        kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0, 1))
        kernel = self.param("kernel", kernel_init, (*out, *window, x.shape[-1], self.features))
        bias_init = fan_in_uniform(window[0] * window[1] * x.shape[-1])
        bias = self.param("bias", bias_init, (*out, self.features)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return F.locally_connected2d(x, kernel, bias, strides=strides, padding=pads)


class BatchNorm(nn.Module):
    """`functional.batch_norm` with `scale` and `bias` in 'params', `mean` and `var` in 'batch_stats'.

    In training, apply with mutable=['batch_stats']. The defaults are PyTorch's and the textbook's (momentum 0.1 there
    is decay 0.9 here); see `functional.batch_norm` for `unbiased` and `axis_name`.
    """
    train: bool
    decay: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = False
    axis_name: str | None = None
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if self.dtype is not None:
            x = x.astype(self.dtype)
        # Initialisation never looks at the batch, also in training: the statistics come back as they were.
        y, mean_new, var_new = F.batch_norm(
            x, scale, bias, mean.value, var.value, train=self.train and not self.is_initializing(), decay=self.decay,
            epsilon=self.epsilon, unbiased=self.unbiased, axis_name=self.axis_name)
        if self.train:
            mean.value, var.value = mean_new, var_new
        return y


class Identity(nn.Module):
    """Returns its input: the normalisation of a network without one."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class Dropout(nn.Module):
    """`functional.dropout` with a key from the 'dropout' stream in training; nothing in evaluation."""
    rate: float
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.train or self.rate == 0:
            return x
        return F.dropout(self.make_rng("dropout"), x, self.rate)


NORMS = {"batch": BatchNorm, "none": Identity}


def normalization(name: str, **options) -> Callable[..., nn.Module]:
    """A constructor for the named normalisation: `norm = normalization('batch', train=train)`; `norm(name='n1')(x)`.

    Args:
      name: one of NORMS.
      **options: fields of `BatchNorm`; ignored by 'none'.
    Raises:
      UserError: an unknown name.
    """
    if name not in NORMS:
        raise UserError(f"there is no normalisation {name!r}{did_you_mean(name, NORMS)}")
    known = NORMS[name].__dataclass_fields__
    fixed = {key: value for key, value in options.items() if key in known}
    return lambda **extra: NORMS[name](**fixed, **extra)
