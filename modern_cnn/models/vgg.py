"""VGG: blocks of 3x3 convolutions (Simonyan and Zisserman 2014, "Very deep convolutional networks")."""
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from modern_cnn import functional as F
from modern_cnn.layers import Conv, Dropout, Identity, scaled
from modern_cnn.models.base import LARGEST, Constructor, ConvNet, Variant, stages


class VGGBlock(nn.Module):
    """`convolutions` convolutions with ReLU, then 2x2 max-pooling: [N, H, W, C] -> [N, H/2, W/2, features].

    Attributes:
      kernel_size: size of the convolutions' windows, odd; padding keeps the map's size.
      skip: add the block's input before the last ReLU; the input must have `features` channels.
    """
    features: int
    convolutions: int
    kernel_size: int = 3
    skip: bool = False
    conv: Constructor = Conv
    norm: Constructor = Identity

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        for i in range(1, self.convolutions + 1):
            x = self.conv(self.features, self.kernel_size, padding=self.kernel_size // 2, name=f"conv{i}")(x)
            x = self.norm(name=f"norm{i}")(x)
            if self.skip and i == self.convolutions:
                x = x + shortcut
            x = nn.relu(x)
        return F.max_pool(x, 2)


class VGG(ConvNet, kw_only=True):
    """Five VGG blocks and three dense layers.

    Call: images [N, H, W, C] float -> logits [N, num_classes]; H and W at least 32.

    Attributes:
      stage_sizes, stage_features: convolutions of each block and their channels, before `width`.
      kernel_size: size of all windows, odd. One 5x5 window covers as much as two of 3x3 (the paper's section 2.3).
      skip: add a shortcut over the convolutions of the last block (the TensorFlow text's section 10.12).
      pooled_size: average the last map to a square of this size, so that any image fits; 0 leaves the map as it is.
      hidden: units of the hidden dense layers.
      remat: store only each block's input for the backward pass, and compute the rest again.
    """
    limits: ClassVar = {"pooled_size": (0, LARGEST)}
    stage_sizes: Sequence[int]
    stage_features: Sequence[int] = (64, 128, 256, 512, 512)
    kernel_size: int = 3
    skip: bool = False
    pooled_size: int = 7
    hidden: Sequence[int] = (4096, 4096)
    dropout_rate: float = 0.5
    initializer: str = "vgg"
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train)
        block = partial(nn.remat(VGGBlock) if self.remat else VGGBlock, conv=conv, norm=norm)

        for i, (size, features) in enumerate(stages(self.stage_sizes, self.stage_features), start=1):
            skip = self.skip and i == len(self.stage_sizes)
            x = block(scaled(features, self.width), size, self.kernel_size, skip, name=f"block{i}")(x)
            self.sow("intermediates", f"stage{i}", x)
        if self.pooled_size:
            x = F.adaptive_avg_pool(x, self.pooled_size)
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate(self.hidden, start=1):
            x = nn.relu(dense(units, name=f"dense{i}")(x))
            x = Dropout(self.dropout_rate, train)(x)
        return dense(self.num_classes, name=f"dense{len(self.hidden) + 1}")(x)


# Configurations of the paper's table 1: the number of convolutions of each stage.
_STAGES = {"vgg11": ("A", (1, 1, 2, 2, 2)), "vgg13": ("B", (2, 2, 2, 2, 2)),
           "vgg16": ("D", (2, 2, 3, 3, 3)), "vgg19": ("E", (2, 2, 4, 4, 4))}
VARIANTS = {
    # vgg11 has 132,863,336 parameters, vgg19 143,667,240
    **{name + suffix: Variant(VGG, {"stage_sizes": sizes} | norm, (224, 224, 3), 1000, "torchvision's" + (
        "" if norm else f", the paper's {letter}"), torchvision=True)
       for name, (letter, sizes) in _STAGES.items() for suffix, norm in (("", {}), ("_bn", {"norm": "batch"}))},
    # with width=0.25, as the textbook trains it, 43,093,322 parameters
    "vgg11_d2l": Variant(VGG, {"stage_sizes": (1, 1, 2, 2, 2), "pooled_size": 0, "initializer": "xavier_uniform"},
                         (224, 224, 1), 10, "the textbook's, 7.2.2"),
    # 9,570,506 parameters; the text's pooling pads maps of odd size, ours does not
    "vgg13_cifar": Variant(
        VGG, {"stage_sizes": (2, 2, 2, 2, 2), "pooled_size": 0, "hidden": (256, 128), "dropout_rate": 0.0,
              "unbiased": False, "initializer": "keras"}, (32, 32, 3), 10, "the TensorFlow text's, 10.10"),
}
