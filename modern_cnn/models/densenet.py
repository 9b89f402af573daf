"""DenseNet: each layer reads the maps of all layers before it (Huang et al. 2016, "Densely connected CNNs")."""
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn import functional as F
from modern_cnn.errors import UserError, lookup
from modern_cnn.layers import Conv, Dropout, scaled
from modern_cnn.models.base import EVAL_NORM, LARGEST, STEMS, Constructor, ConvNet, Variant


class DenseLayer(nn.Module):
    """Normalisation, ReLU and 3x3 convolution of all maps so far: a sequence of [N, H, W, C_i] -> [N, H, W, growth].

    The layer concatenates the maps itself, so that rematerialisation stores each map once.

    Attributes:
      growth: channels of the result.
      bottleneck: begin with a 1x1 convolution to this multiple of `growth` channels; 0 leaves it out.
      dropout: constructor of the dropout at the end.
    """
    growth: int
    bottleneck: int = 0
    dropout: Constructor = partial(Dropout, 0.0, train=False)
    conv: Constructor = Conv
    norm: Constructor = EVAL_NORM

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        x = nn.relu(self.norm(name="norm1")(jnp.concatenate(maps, axis=-1)))
        if self.bottleneck:
            x = self.conv(self.bottleneck * self.growth, 1, name="conv1")(x)
            x = nn.relu(self.norm(name="norm2")(x))
        x = self.conv(self.growth, 3, padding=1, name="conv2" if self.bottleneck else "conv1")(x)
        return self.dropout()(x)


class DenseBlock(nn.Module):
    """`layers` dense layers, `layer(growth, name=...)`: [N, H, W, C] -> [N, H, W, C + layers * growth], input first."""
    layers: int
    growth: int
    layer: Constructor = DenseLayer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        maps = [x]
        for i in range(1, self.layers + 1):
            maps.append(self.layer(self.growth, name=f"layer{i}")(maps))
        return jnp.concatenate(maps, axis=-1)


class Transition(nn.Module):
    """Normalisation, ReLU, 1x1 convolution and 2x2 average pooling: [N, H, W, C] -> [N, H/2, W/2, features]."""
    features: int
    conv: Constructor = Conv
    norm: Constructor = EVAL_NORM

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(self.norm(name="norm")(x))
        return F.avg_pool(self.conv(self.features, 1, name="conv")(x), 2)


class DenseNet(ConvNet, kw_only=True):
    """A stem, dense blocks with transitions between them that halve the map, global average pooling, a dense layer.

    Call: images [N, H, W, C] float -> logits [N, num_classes]; H and W at least 29 with the 'imagenet' stem.

    Attributes:
      block_sizes: number of layers of each dense block.
      growth: channels that each layer adds, before `width`.
      bottleneck: see `DenseLayer`.
      compression: the share of the channels that a transition keeps, above 0 and at most 1 (section 3's theta).
      stem: 'imagenet', 7x7 with stride 2, normalisation, ReLU, 3x3 max-pooling with stride 2; 'cifar', 3x3 alone.
      stem_features: the stem's channels, before `width`.
      use_bias: give the convolutions biases; without normalisation they always have them.
      dropout_rate: rate after each layer of a dense block (the paper: 0.2 without augmentation).
      remat: store only the maps that layers add, and the transitions' inputs; compute the rest again in the backward
        pass (Pleiss et al. 2017, "Memory-efficient implementation of DenseNets").
    """
    limits: ClassVar = {"bottleneck": (0, LARGEST)}
    block_sizes: Sequence[int]
    growth: int = 32
    bottleneck: int = 4
    compression: float = 0.5
    stem: str = "imagenet"
    stem_features: int = 64
    use_bias: bool = False
    norm: str = "batch"
    initializer: str = "densenet"
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train)
        conv = partial(conv, use_bias=self.use_bias or self.norm == "none")
        if not 0 < self.compression <= 1:
            raise UserError(f"compression={self.compression} must be above 0 and at most 1: a share of the channels")
        maybe_remat = nn.remat if self.remat else lambda module: module
        dropout = partial(Dropout, self.dropout_rate, train)
        layer = partial(maybe_remat(DenseLayer), bottleneck=self.bottleneck, dropout=dropout, conv=conv, norm=norm)

        stem = lookup(STEMS, self.stem, "stem")
        x = conv(scaled(self.stem_features, self.width), **stem, name="conv1")(x)
        if self.stem == "imagenet":
            x = F.max_pool(nn.relu(norm(name="norm1")(x)), 3, 2, padding=1)
        self.sow("intermediates", "stem", x)
        for i, size in enumerate(self.block_sizes, start=1):
            x = DenseBlock(size, scaled(self.growth, self.width), layer, name=f"block{i}")(x)
            self.sow("intermediates", f"stage{i}", x)
            if i < len(self.block_sizes):
                kept = int(self.compression * x.shape[-1])
                x = maybe_remat(Transition)(kept, conv, norm, name=f"transition{i}")(x)
                self.sow("intermediates", f"stage{i}_halved", x)
        x = F.global_avg_pool(nn.relu(norm(name="norm2")(x)))
        return dense(self.num_classes, name="dense")(x)


# The paper's table 1. densenet121 has 7,978,856 parameters.
_IMAGENET = {"densenet121": {"block_sizes": (6, 12, 24, 16)},
             "densenet161": {"block_sizes": (6, 12, 36, 24), "growth": 48, "stem_features": 96},
             "densenet169": {"block_sizes": (6, 12, 32, 32)},
             "densenet201": {"block_sizes": (6, 12, 48, 32)}}
VARIANTS = {
    **{name: Variant(DenseNet, options, (224, 224, 3), 1000, "torchvision's", torchvision=True)
       for name, options in _IMAGENET.items()},
    "densenet_d2l": Variant(  # 758,226 parameters
        DenseNet, {"block_sizes": (4, 4, 4, 4), "bottleneck": 0, "use_bias": True, "initializer": "xavier_uniform"},
        (96, 96, 1), 10, "the textbook's, 7.7"),
    "densenet_bc_100_12": Variant(  # 769,162 parameters
        DenseNet, {"block_sizes": (16, 16, 16), "growth": 12, "stem_features": 24, "stem": "cifar"},
        (32, 32, 3), 10, "the paper's, for CIFAR"),
}
