"""GoogLeNet: parallel convolutions of several sizes (Szegedy et al. 2014, "Going deeper with convolutions")."""
from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn import functional as F
from modern_cnn.errors import UserError
from modern_cnn.layers import Conv, Dense, Dropout, Identity, scaled
from modern_cnn.models.base import Constructor, ConvNet, Variant

# The channels of each Inception block, stage by stage: see `Inception.features`.
INCEPTIONS = (
    {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64)},
    {"4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
     "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128)},
    {"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)},
)
BRANCHES = (1, 2, 3, 4)
_AUX_AFTER = {"4a": "aux1", "4d": "aux2"}
_POOL, _CEIL_POOL = (partial(F.max_pool, window_shape=3, strides=2, padding=1),
                     partial(F.max_pool, window_shape=3, strides=2, ceil_mode=True))


class ConvUnit(nn.Module):
    """A convolution, normalisation and ReLU: [N, H, W, C] -> [N, H', W', features]."""
    features: int
    kernel_size: int
    strides: int = 1
    padding: int = 0
    conv: Constructor = Conv
    norm: Constructor = Identity

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(self.features, self.kernel_size, strides=self.strides, padding=self.padding, name="conv")(x)
        return nn.relu(self.norm(name="norm")(x))


class Inception(nn.Module):
    """Four branches side by side (the paper's figure 2b): [N, H, W, C] -> [N, H, W, sum of the branches' channels].

    Attributes:
      features: channels of 1x1; of the reduction before 3x3, and 3x3; of the reduction before 5x5, and 5x5; of the
        projection after 3x3 max-pooling. The outputs are concatenated in this order.
      kernel_size: window of the third branch: 5 in the paper, 3 in torchvision.
      branches: the branches to build, from 1 to 4.
      unit: constructor of a convolution with its normalisation and ReLU.
    """
    features: Sequence[int]
    kernel_size: int = 5
    branches: Sequence[int] = BRANCHES
    unit: Constructor = ConvUnit

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one, reduce_three, three, reduce_five, five, projection = self.features
        outputs = []
        if 1 in self.branches:
            outputs.append(self.unit(one, 1, name="branch1")(x))
        if 2 in self.branches:
            y = self.unit(reduce_three, 1, name="branch2_reduce")(x)
            outputs.append(self.unit(three, 3, padding=1, name="branch2")(y))
        if 3 in self.branches:
            y = self.unit(reduce_five, 1, name="branch3_reduce")(x)
            outputs.append(self.unit(five, self.kernel_size, padding=self.kernel_size // 2, name="branch3")(y))
        if 4 in self.branches:
            outputs.append(self.unit(projection, 1, name="branch4")(F.max_pool(x, 3, 1, padding=1)))
        return jnp.concatenate(outputs, axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier on an inner map, only for training: pooling, 1x1 convolution, dense layer, dropout, dense layer.

    It returns logits [N, num_classes] and sows them in 'aux_logits'.
    """
    features: int
    num_classes: int
    pool: Callable[[jax.Array], jax.Array]
    dropout: Constructor = partial(Dropout, 0.7, train=False)
    unit: Constructor = ConvUnit
    dense: Constructor = Dense

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.unit(self.features, 1, name="conv1")(self.pool(x))
        x = nn.relu(self.dense(1024, name="dense1")(x.reshape(x.shape[0], -1)))
        x = self.dense(self.num_classes, name="dense2")(self.dropout()(x))
        if not self.is_initializing():  # else `init` would return them as variables
            self.sow("aux_logits", "logits", x)
        return x


class GoogLeNet(ConvNet, kw_only=True):
    """A stem, nine Inception blocks in three stages, global average pooling and one dense layer.

    Call: images [N, H, W, C] float -> logits [N, num_classes]; H and W at least 15 (`googlenet`), or 79
    (`googlenet_2014` with its auxiliary heads). In training the heads sow their logits in 'aux_logits', under `aux1`
    and `aux2`; the training step adds their losses.

    Attributes:
      kernel_size: window of the blocks' third branch.
      branches: the branches of each block: (1, 2, 4) leaves out the third.
      pool, last_pool: pooling between the stages, and before the last stage.
      response_norm: normalise by local response before and after the stem's last two convolutions (figure 3).
      aux_logits: build the auxiliary heads. `init` makes their parameters whatever `train` is.
      aux_pool: pooling at the start of the auxiliary heads.
      remat: store only each Inception block's input for the backward pass, and compute the rest again.
    """
    kernel_size: int = 5
    branches: Sequence[int] = BRANCHES
    pool: Callable[[jax.Array], jax.Array] = _CEIL_POOL
    last_pool: Callable[[jax.Array], jax.Array] = _CEIL_POOL
    response_norm: bool = False
    aux_logits: bool = True
    aux_pool: Callable[[jax.Array], jax.Array] = partial(F.adaptive_avg_pool, output_size=4)
    aux_dropout_rate: float = 0.7
    initializer: str = "keras"
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train, epsilon=1e-3)
        unit = partial(ConvUnit, conv=partial(conv, use_bias=self.norm == "none"), norm=norm)
        if not self.branches or set(self.branches) - set(BRANCHES):
            raise UserError(f"branches={self.branches} must be some of {BRANCHES}, at least one")
        inception = partial(nn.remat(Inception) if self.remat else Inception, kernel_size=self.kernel_size,
                            branches=self.branches, unit=unit)
        aux = partial(AuxiliaryHead, num_classes=self.num_classes, pool=self.aux_pool, unit=unit, dense=dense,
                      dropout=partial(Dropout, self.aux_dropout_rate, train))
        respond = F.local_response_norm if self.response_norm else lambda x: x

        x = unit(scaled(64, self.width), 7, strides=2, padding=3, name="conv1")(x)
        x = respond(self.pool(x))
        self.sow("intermediates", "stage1", x)
        x = unit(scaled(64, self.width), 1, name="conv2")(x)
        x = unit(scaled(192, self.width), 3, padding=1, name="conv3")(x)
        x = self.pool(respond(x))
        self.sow("intermediates", "stage2", x)
        for stage, blocks in enumerate(INCEPTIONS, start=3):
            for label, features in blocks.items():
                x = inception([scaled(n, self.width) for n in features], name=f"inception{label}")(x)
                if label in _AUX_AFTER and self.aux_logits and (train or self.is_initializing()):
                    aux(scaled(128, self.width), name=_AUX_AFTER[label])(x)
            if stage < 5:
                x = (self.pool if stage == 3 else self.last_pool)(x)
            self.sow("intermediates", f"stage{stage}", x)
        x = Dropout(self.dropout_rate, train)(F.global_avg_pool(x))
        return dense(self.num_classes, name="dense")(x)


VARIANTS = {
    # batch normalisation, and 3x3 where the paper has 5x5: 13,004,888 parameters, of them 6,379,984 auxiliary
    "googlenet": Variant(
        GoogLeNet, {"kernel_size": 3, "norm": "batch", "dropout_rate": 0.2, "initializer": "googlenet",
                    "last_pool": partial(F.max_pool, window_shape=2, ceil_mode=True)},
        (224, 224, 3), 1000, "torchvision's", torchvision=True),
    "googlenet_d2l": Variant(  # 5,977,530 parameters
        GoogLeNet, {"pool": _POOL, "last_pool": _POOL, "aux_logits": False, "initializer": "xavier_uniform"},
        (96, 96, 1), 10, "the textbook's, 7.4"),
    "googlenet_2014": Variant(  # 13,378,280 parameters, of them 6,379,728 auxiliary
        GoogLeNet, {"response_norm": True, "aux_pool": partial(F.avg_pool, window_shape=5, strides=3),
                    "dropout_rate": 0.4}, (224, 224, 3), 1000, "the paper's"),
}
