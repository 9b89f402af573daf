"""ResNet: blocks with a shortcut from input to output (He et al. 2015, "Deep residual learning").

Its relatives are here too: pre-activation (He et al. 2016, "Identity mappings in deep residual networks"), ResNeXt
(Xie et al. 2016, "Aggregated residual transformations for deep neural networks"), the thin networks for CIFAR, the
plain networks without shortcuts, and the networks of the two textbooks.
"""
import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn import functional as F
from modern_cnn.errors import UserError, did_you_mean, lookup
from modern_cnn.functional.conv import Padding
from modern_cnn.layers import Conv, Dropout, scaled
from modern_cnn.models.base import EVAL_NORM, STEMS, Constructor, ConvNet, Variant, run_stage, stages

_SHORTCUTS = ("projection", "conv", "pad", "none")
_STEMS = STEMS | {"keras": STEMS["imagenet"] | {"padding": "SAME"}, "notebook": {"kernel_size": 3}}
_STEM_POOLS = {"imagenet": (3, 2, 1), "keras": (3, 2, "SAME"), "notebook": (2, 1, "SAME")}  # window, stride, padding


def add_shortcut(y: jax.Array, x: jax.Array, *, strides: int, kind: str, conv: Constructor,
                 norm: Constructor) -> jax.Array:
    """Return y [N, H / strides, W / strides, features] plus the block's input x [N, H, W, C], brought to y's shape.

    `kind` says how: 'projection', a 1x1 convolution and normalisation (the paper's option B); 'conv', the convolution
    alone; 'pad', each `strides`-th pixel, and channels of zeros at the end (option A). 'none' returns y alone. Raise
    UserError if it is another. `conv` and `norm` are constructors, as in `Residual`. Call it inside a compact method.
    """
    if kind not in _SHORTCUTS:
        raise UserError(f"there is no shortcut {kind!r}{did_you_mean(kind, _SHORTCUTS)}")
    if kind == "none":
        return y
    if strides == 1 and x.shape[-1] == y.shape[-1]:
        return y + x
    if kind == "pad":
        x = x[:, ::strides, ::strides]
        return y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, y.shape[-1] - x.shape[-1])))
    x = conv(y.shape[-1], 1, strides=strides, name="shortcut_conv")(x)
    return y + (norm(name="shortcut_norm")(x) if kind == "projection" else x)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, H, W, C] -> [N, H / strides, W / strides, features] (figure 2).

    Attributes:
      strides: stride of the first convolution and of the shortcut.
      preactivation: apply normalisation and ReLU before each convolution, not after it (He et al. 2016, figure 4e).
      activated: with `preactivation`, the input is already normalised and rectified, as in a network's first block.
      shortcut: the `kind` of `add_shortcut`.
      padding: padding of the 3x3 convolutions.
      zero_init: begin as the identity: the scale of the last normalisation is 0 (pre-activation: the last kernel).
    """
    features: int
    strides: int = 1
    preactivation: bool = False
    activated: bool = False
    shortcut: str = "projection"
    padding: Padding = 1
    zero_init: bool = False
    conv: Constructor = Conv
    norm: Constructor = EVAL_NORM

    def convolutions(self) -> list[tuple[int, int, int, int]]:
        """Return (channels, size of the window, stride, groups) of each convolution."""
        return [(self.features, 3, self.strides, 1), (self.features, 3, 1, 1)]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = nn.initializers.zeros
        *convs, last = [
            partial(self.conv, features, size, strides=stride, padding=self.padding if size > 1 else 0, groups=groups,
                    name=f"conv{i}")
            for i, (features, size, stride, groups) in enumerate(self.convolutions(), start=1)]
        kind = "conv" if self.preactivation and self.shortcut == "projection" else self.shortcut
        add = partial(add_shortcut, strides=self.strides, kind=kind, conv=self.conv, norm=self.norm)
        if self.preactivation:
            y = x if self.activated else nn.relu(self.norm(name="norm1")(x))
            if self.strides != 1 or x.shape[-1] != self.convolutions()[-1][0]:
                x = y
            for i, conv in enumerate(convs, start=2):
                y = nn.relu(self.norm(name=f"norm{i}")(conv()(y)))
            y = last(**({"kernel_init": zeros, "bias_init": zeros} if self.zero_init else {}))(y)
            return add(y, x)
        y = x
        for i, conv in enumerate(convs, start=1):
            y = nn.relu(self.norm(name=f"norm{i}")(conv()(y)))
        norm = self.norm(name=f"norm{len(convs) + 1}", **({"scale_init": zeros} if self.zero_init else {}))
        return nn.relu(add(norm(last()(y)), x))


class Bottleneck(Residual):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: [N, H, W, C] -> [N, H / strides, W / strides, 4 * features].

    The 3x3 convolution has the stride, as in torchvision ("v1.5"); with `stride_in_1x1` the first one has it, as in the
    paper (figure 5). The other attributes are those of `Residual`.

    Attributes:
      groups: groups of the 3x3 convolution. Many make it ResNeXt's block (Xie et al. 2016, figure 3c).
      inside: channels of the first two convolutions; 0: `features`. `groups` must divide them.
      expansion: the output's channels as a multiple of `features`, if it is not 4.
    """
    stride_in_1x1: bool = False
    groups: int = 1
    inside: int = 0
    expansion: int = 4

    def convolutions(self) -> list[tuple[int, int, int, int]]:
        first, second = (self.strides, 1) if self.stride_in_1x1 else (1, self.strides)
        inside = self.inside or self.features
        return [(inside, 1, first, 1), (inside, 3, second, self.groups), (self.expansion * self.features, 1, 1, 1)]


class ResNet(ConvNet, kw_only=True):
    """A stem, stages of blocks, global average pooling and a dense layer. Each stage but the first halves the map.

    Attributes:
      stage_sizes, stage_features: number of blocks of each stage, and their channels before `width`.
      block: 'residual' or 'bottleneck'.
      stem: 'imagenet', 7x7 with stride 2 and 3x3 max-pooling with stride 2; 'keras', the same with Keras's padding,
        one pixel less at top and left; 'cifar', 3x3; 'notebook', 3x3 unpadded and 2x2 max-pooling with stride 1.
      preactivation, shortcut, padding, stride_in_1x1: attributes of the blocks.
      groups, base_width: bottlenecks' 3x3 convolutions have so many groups, each of `base_width` channels where a
        stage has 64 features, and of twice as many where it has 128. 32 and 4 are ResNeXt's 32x4d (table 1).
      zero_init_residual: begin with blocks that are the identity (Goyal et al. 2017, section 5.1).
      use_bias: give the convolutions biases; without normalisation they always have them.
      remat: store only each block's input for the backward pass, and compute the rest again.
      scan: run the blocks of a stage after the first as a loop over one block, with parameters stacked along a first
        axis. Compiling takes as long as for two blocks a stage.
    """
    limits: ClassVar = {"decay": (0, math.nextafter(1, 0))}
    stage_sizes: Sequence[int]
    stage_features: Sequence[int] = (64, 128, 256, 512)
    block: str = "residual"
    stem: str = "imagenet"
    preactivation: bool = False
    shortcut: str = "projection"
    padding: Padding = 1
    stride_in_1x1: bool = False
    groups: int = 1
    base_width: int = 64
    zero_init_residual: bool = False
    use_bias: bool = False
    norm: str = "batch"
    decay: float = 0.9
    epsilon: float = 1e-5
    initializer: str = "resnet"
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train, decay=self.decay, epsilon=self.epsilon)
        conv = partial(conv, use_bias=self.use_bias or self.norm == "none")
        block = partial(self._block, conv, norm)

        width = scaled(self.stage_features[0], self.width)
        stem = lookup(_STEMS, self.stem, "stem")
        x = nn.relu(norm(name="norm1")(conv(width, **stem, name="conv1")(x)))
        if self.stem in _STEM_POOLS:
            window, stride, padding = _STEM_POOLS[self.stem]
            x = F.max_pool(x, window, stride, padding=padding)
        self.sow("intermediates", "stem", x)
        for stage, (size, features) in enumerate(stages(self.stage_sizes, self.stage_features), start=1):
            x = run_stage(x, block(scaled(features, self.width)), size, strides=1 if stage == 1 else 2,
                          name=f"stage{stage}", scan=self.scan, activated=stage == 1)
            self.sow("intermediates", f"stage{stage}", x)
        if self.preactivation:
            x = nn.relu(norm(name="norm2")(x))
        x = Dropout(self.dropout_rate, train)(F.global_avg_pool(x))
        return dense(self.num_classes, name="dense")(x)

    def _block(self, conv: Constructor, norm: Constructor, features: int) -> Constructor:
        """Return the constructor of the blocks of a stage, with this network's options."""
        if self.zero_init_residual and self.shortcut == "none":
            raise UserError("zero_init_residual with shortcut='none' makes each block return 0: leave one out")
        if self.zero_init_residual and self.norm == "none" and not self.preactivation:
            raise UserError("zero_init_residual sets the scale of a normalisation, but norm='none': leave one out")
        block = lookup({"residual": Residual, "bottleneck": Bottleneck}, self.block, "block")
        extra = {"stride_in_1x1": self.stride_in_1x1, "groups": self.groups,
                 "inside": self.groups * scaled(self.base_width, features / 64)}
        if block is Residual:
            if self.stride_in_1x1 or (self.groups, self.base_width) != (1, 64):
                raise UserError("stride_in_1x1, groups and base_width need block='bottleneck', but the blocks are "
                                f"{self.block!r}")
            extra = {}
        return partial(nn.remat(block) if self.remat else block, features, preactivation=self.preactivation,
                       shortcut=self.shortcut, padding=self.padding, zero_init=self.zero_init_residual, conv=conv,
                       norm=norm, **extra)


_IMAGENET = {"resnet18": {"stage_sizes": (2, 2, 2, 2)},
             "resnet34": {"stage_sizes": (3, 4, 6, 3)},
             "resnet50": {"stage_sizes": (3, 4, 6, 3), "block": "bottleneck"},
             "resnet101": {"stage_sizes": (3, 4, 23, 3), "block": "bottleneck"},
             "resnet152": {"stage_sizes": (3, 8, 36, 3), "block": "bottleneck"}}
_RESNEXT = _IMAGENET["resnet50"] | {"groups": 32, "base_width": 4}
_CIFAR = {"stage_features": (16, 32, 64), "stem": "cifar", "shortcut": "pad"}
# The TensorFlow text has biases everywhere, and Keras's padding and batch normalisation.
_NOTEBOOK = {"stem": "notebook", "shortcut": "conv", "use_bias": True, "padding": "SAME", "decay": 0.99,
             "epsilon": 1e-3, "unbiased": False, "initializer": "keras"}
VARIANTS = {
    # resnet18 has 11,689,512 parameters, resnet50 25,557,032, resnet152 60,192,808
    **{name: Variant(ResNet, options, (224, 224, 3), 1000, "torchvision's", torchvision=True)
       for name, options in _IMAGENET.items()},
    # parameter-free shortcuts: resnet20 has 269,722 parameters, resnet1202 19,421,274
    **{f"resnet{depth}": Variant(ResNet, {"stage_sizes": ((depth - 2) // 6,) * 3, **_CIFAR}, (32, 32, 3), 10,
                                 "the paper's, section 4.2") for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"preact_{name}": Variant(ResNet, options | {"preactivation": True}, (224, 224, 3), 1000,
                                 "pre-activation, of He et al. 2016") for name, options in _IMAGENET.items()},
    **{f"plain{depth}": Variant(ResNet, _IMAGENET[f"resnet{depth}"] | {"shortcut": "none"}, (224, 224, 3), 1000,
                                "the paper's, without shortcuts") for depth in (18, 34)},
    "resnext50_32x4d": Variant(  # 25,028,904 parameters
        ResNet, _RESNEXT, (224, 224, 3), 1000, "torchvision's: ResNeXt, of Xie et al. 2016", torchvision=True),
    "resnet18_d2l": Variant(  # 11,178,378 parameters
        ResNet, _IMAGENET["resnet18"] | {"shortcut": "conv", "use_bias": True, "initializer": "xavier_uniform"},
        (96, 96, 1), 10, "the textbook's, 7.6"),
    # resnet18_cifar has 11,176,970 parameters
    **{f"resnet{depth}_cifar": Variant(ResNet, _IMAGENET[f"resnet{depth}"] | _NOTEBOOK, (32, 32, 3), 10,
                                       "the TensorFlow text's, 10.14") for depth in (18, 34)},
}
