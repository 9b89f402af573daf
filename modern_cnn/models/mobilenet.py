"""MobileNet: depthwise convolutions and 1x1 convolutions by turns (Howard et al. 2017, "MobileNets")."""
from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax

from modern_cnn import functional as F
from modern_cnn.errors import lookup
from modern_cnn.layers import ACTIVATIONS, Conv, Dropout, scaled
from modern_cnn.models.base import EVAL_NORM, SMALL_STEMS, Constructor, ConvNet, Variant, run_stage, stages


class SeparableBlock(nn.Module):
    """A 3x3 convolution of each channel alone, then a 1x1 convolution, both with normalisation and ReLU (figure 3).

    [N, H, W, C] -> [N, H / strides, W / strides, features]. The 3x3 convolution has the stride. `activation` may be
    another function than ReLU.
    """
    features: int
    strides: int = 1
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    conv: Constructor = Conv
    norm: Constructor = EVAL_NORM

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = self.conv(channels, 3, strides=self.strides, padding=1, groups=channels, name="conv1")(x)
        x = self.activation(self.norm(name="norm1")(x))
        x = self.conv(self.features, 1, name="conv2")(x)
        return self.activation(self.norm(name="norm2")(x))


class MobileNet(ConvNet, kw_only=True):
    """A stem, stages of separable blocks, global average pooling and a dense layer (table 1).

    Call: images [N, H, W, C] float -> logits [N, num_classes]. `width` is the paper's width multiplier.

    Attributes:
      stage_sizes, stage_features: number of blocks of each stage, and their channels before `width`. Each stage but the
        first halves the map.
      stem: 'imagenet', 3x3 with stride 2; 'cifar', 3x3 with stride 1.
      stem_features: the stem's channels, before `width`.
      activation: a key of `layers.ACTIVATIONS`. The authors' own code and timm have 'relu6', which is at most 6.
      use_bias: give the convolutions biases; without normalisation they always have them.
      remat: store only each block's input for the backward pass, and compute the rest again.
    """
    stage_sizes: Sequence[int] = (1, 2, 2, 6, 2)
    stage_features: Sequence[int] = (64, 128, 256, 512, 1024)
    stem: str = "imagenet"
    stem_features: int = 32
    activation: str = "relu"
    use_bias: bool = False
    norm: str = "batch"
    initializer: str = "densenet"  # He's normal: the paper does not say
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train)
        conv = partial(conv, use_bias=self.use_bias or self.norm == "none")
        activation = lookup(ACTIVATIONS, self.activation, "activation")
        block = partial(nn.remat(SeparableBlock) if self.remat else SeparableBlock, activation=activation, conv=conv,
                        norm=norm)

        stem = lookup(SMALL_STEMS, self.stem, "stem")
        x = activation(norm(name="norm1")(conv(scaled(self.stem_features, self.width), **stem, name="conv1")(x)))
        self.sow("intermediates", "stem", x)
        for stage, (size, features) in enumerate(stages(self.stage_sizes, self.stage_features), start=1):
            x = run_stage(x, partial(block, scaled(features, self.width)), size, strides=1 if stage == 1 else 2,
                          name=f"stage{stage}", scan=False)
            self.sow("intermediates", f"stage{stage}", x)
        x = Dropout(self.dropout_rate, train)(F.global_avg_pool(x))
        return dense(self.num_classes, name="dense")(x)


# 4,231,976 parameters. Table 1 writes stride 2 at the last 3x3 convolution too, but its map stays 7x7: the stride is 1.
VARIANTS = {"mobilenet_v1": Variant(MobileNet, {}, (224, 224, 3), 1000, "the paper's")}
