"""The network of airbench (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.1).

The head is that of its author's later script, airbench94_muon; the paper's multiplies the logits by 1/9 instead.
"""
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn import functional as F
from modern_cnn.layers import Conv, Dropout, Identity, scaled
from modern_cnn.models.base import Constructor, ConvNet, Variant


def _gelu(x: jax.Array) -> jax.Array:
    return nn.gelu(x, approximate=False)


def _unit(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Return values with a standard deviation of 1, uniform."""
    return jax.random.uniform(key, shape, dtype, -3**0.5, 3**0.5)


class AirbenchBlock(nn.Module):
    """Two 3x3 convolutions, with pooling after the first: [N, H, W, C] -> [N, H/2, W/2, features]."""
    features: int
    conv: Constructor = Conv
    norm: Constructor = Identity

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = F.max_pool(self.conv(self.features, 3, padding=1, name="conv1")(x), 2)
        x = _gelu(self.norm(name="norm1")(x))
        x = self.conv(self.features, 3, padding=1, name="conv2")(x)
        return _gelu(self.norm(name="norm2")(x))


class Airbench(ConvNet, kw_only=True):
    """A whitening convolution, three blocks, and a dense layer without bias.

    The kernel of `whiten`, with two filters for each number of a patch, is not learned: it lies in 'batch_stats', and a
    `Program` replaces its first value by that of `training.whiten`. Convolutions start as a partial identity, the
    dense layer with a deviation of 1; logits are divided by the number of its inputs (256 for images of 32x32 pixels).
    Batch norm has no scale, a decay of 0.6 and an epsilon of 1e-12. Call: images [N, H, W, C] float -> logits [N,
    num_classes]; H and W at least 25.

    Attributes:
      stage_features: channels of the blocks, before `width`.
      whiten_size: side of the patches that are whitened.
    """
    stage_features: Sequence[int] = (64, 256, 256)
    whiten_size: int = 2
    norm: str = "batch"
    initializer: str = "dirac"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train, decay=0.6, epsilon=1e-12, use_scale=False)

        filters = 2 * self.whiten_size**2 * x.shape[-1]
        x = _gelu(conv(filters, self.whiten_size, learned=False, name="whiten")(x))
        for i, features in enumerate(self.stage_features, start=1):
            x = AirbenchBlock(scaled(features, self.width), partial(conv, use_bias=self.norm == "none"), norm,
                              name=f"block{i}")(x)
            self.sow("intermediates", f"stage{i}", x)
        x = F.max_pool(x, 3)
        x = Dropout(self.dropout_rate, train)(x.reshape(x.shape[0], -1))
        return dense(self.num_classes, use_bias=False, kernel_init=_unit, name="dense1")(x) / x.shape[-1]


VARIANTS = {"airbench94": Variant(Airbench, {}, (32, 32, 3), 10, "the author's, airbench94_muon")}
