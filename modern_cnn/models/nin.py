"""Network in network: 1x1 convolutions are a small network at each pixel (Lin et al. 2013, "Network in network")."""
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax

from modern_cnn import functional as F
from modern_cnn.layers import Conv, Dropout, Identity, scaled
from modern_cnn.models.base import Constructor, ConvNet, Variant


class Stage(NamedTuple):
    """A NiN block, and the pooling and dropout after it. Channels of None are the number of classes."""
    features: Sequence[int | None]
    kernel_size: int
    strides: int = 1
    padding: int = 0
    pool: Callable[[jax.Array], jax.Array] | None = None
    dropout: bool = False


class NiNBlock(nn.Module):
    """A convolution and two 1x1 convolutions, each with ReLU: [N, H, W, C] -> [N, H', W', features[2]].

    Attributes:
      features: channels of the three convolutions.
      kernel_size, strides, padding: geometry of the first convolution.
    """
    features: Sequence[int]
    kernel_size: int
    strides: int = 1
    padding: int = 0
    conv: Constructor = Conv
    norm: Constructor = Identity

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first = partial(self.conv, kernel_size=self.kernel_size, strides=self.strides, padding=self.padding)
        for i, features in enumerate(self.features, start=1):
            conv = first if i == 1 else partial(self.conv, kernel_size=1)
            x = nn.relu(self.norm(name=f"norm{i}")(conv(features, name=f"conv{i}")(x)))
        return x


class NiN(ConvNet, kw_only=True):
    """NiN blocks with pooling between them; the last has one channel for each class, and its mean is the class's logit.

    The last block ends in ReLU as in the authors' code: no logit is below 0, and a class with a map of zeros does not
    learn. If `norm` is set, normalisation precedes each ReLU except those of the last block. `width` does not change
    channels that are classes.

    Call: images [N, H, W, C] float -> logits [N, num_classes]; H and W at least 67 (`nin_d2l`, `nin_imagenet`).

    Attributes:
      stages: blocks, and the pooling and dropout after each.
      hidden: units of hidden dense layers, e.g. AlexNet's (4096, 4096). They and a dense layer for the logits replace
        the last block and its average; () is the logits' layer alone. None keeps the last block.
    """
    stages: Sequence[Stage]
    hidden: Sequence[int] | None = None
    dropout_rate: float = 0.5
    initializer: str = "densenet"  # He's normal: the authors' fixed deviations suit their own preprocessing

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train)
        for i, stage in enumerate(self.stages if self.hidden is None else self.stages[:-1], start=1):
            features = [self.num_classes if n is None else scaled(n, self.width) for n in stage.features]
            x = NiNBlock(features, stage.kernel_size, stage.strides, stage.padding, conv,
                         norm if i < len(self.stages) else Identity, name=f"block{i}")(x)
            x = stage.pool(x) if stage.pool else x
            self.sow("intermediates", f"stage{i}", x)
            x = Dropout(self.dropout_rate, train)(x) if stage.dropout else x
        if self.hidden is None:
            return F.global_avg_pool(x)
        x = x.reshape(len(x), -1)
        for i, units in enumerate(self.hidden, start=1):
            x = nn.relu(dense(units, name=f"dense{i}")(x))
            x = Dropout(self.dropout_rate, train)(x)
        return dense(self.num_classes, name=f"dense{len(self.hidden) + 1}")(x)


_MAX = partial(F.max_pool, window_shape=3, strides=2)
_CEIL_MAX, _CEIL_AVG = partial(_MAX, ceil_mode=True), partial(F.avg_pool, window_shape=3, strides=2, ceil_mode=True)
_IMAGENET = (Stage((96,) * 3, 11, 4, 0, _MAX), Stage((256,) * 3, 5, 1, 2, _MAX), Stage((384,) * 3, 3, 1, 1, _MAX, True))
_CIFAR = (Stage((192, 160, 96), 5, 1, 2, _CEIL_MAX, True), Stage((192,) * 3, 5, 1, 2, _CEIL_AVG, True),
          Stage((192, 192, None), 3, 1, 1))
VARIANTS = {
    # 1,992,166, 966,986 and 7,595,176 parameters
    "nin_d2l": Variant(NiN, {"stages": (*_IMAGENET, Stage((None,) * 3, 3, 1, 1)), "initializer": "xavier_uniform"},
                       (224, 224, 1), 10, "the textbook's, 7.3"),
    "nin_cifar": Variant(NiN, {"stages": _CIFAR}, (32, 32, 3), 10, "the authors', of Caffe's model zoo"),
    "nin_imagenet": Variant(NiN, {"stages": (*_IMAGENET, Stage((1024, 1024, None), 3, 1, 1))},
                            (224, 224, 3), 1000, "the authors', of Caffe's model zoo"),
}
