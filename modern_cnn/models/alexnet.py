"""AlexNet: five convolutions, three dense layers (Krizhevsky et al. 2012, "ImageNet classification with deep CNNs")."""
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from modern_cnn import functional as F
from modern_cnn.errors import UserError
from modern_cnn.layers import Dropout, scaled
from modern_cnn.models.base import LARGEST, ConvNet, Variant


class AlexNet(ConvNet, kw_only=True):
    """A convolution 11x11 with stride 4, one 5x5, three 3x3, three max-poolings, two dense layers of 4096 units.

    Call: images [N, H, W, C] float -> logits [N, num_classes]; H and W at least 63 (`alexnet`), 65 (`alexnet_d2l`) or
    67 (`alexnet_2012`).

    Attributes:
      features: channels of the five convolutions, before `width`.
      padding: zeros on each side of the image, for the first convolution.
      groups: groups of the second, fourth and fifth convolution; 2 is the paper's split over two GPUs.
      response_norm: normalise the first two convolutions by local response (section 3.3: k=2, n=5, beta=0.75;
        alpha=1e-4 multiplies the mean of the squares, as in the paper's code, Caffe and PyTorch).
      pooled_size: average the last map to a square of this size, so that any image fits; 0 leaves the map as it is.
      hidden: units of the hidden dense layers.
      dropout_first: dropout before each hidden dense layer (torchvision), or after it (paper and textbook).
      hidden_bias: initial bias of the second, fourth and fifth convolution and the hidden dense layers (section 5);
        None takes the initializer's.
    """
    limits: ClassVar = {"padding": (0, LARGEST), "pooled_size": (0, LARGEST), "hidden_bias": (-LARGEST, LARGEST)}
    features: Sequence[int] = (64, 192, 384, 256, 256)
    padding: int = 2
    groups: int = 1
    response_norm: bool = False
    pooled_size: int = 6
    hidden: Sequence[int] = (4096, 4096)
    dropout_rate: float = 0.5
    dropout_first: bool = True
    hidden_bias: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        raised = {} if self.hidden_bias is None else {"bias_init": nn.initializers.constant(self.hidden_bias)}
        conv, dense, norm = self.constructors(train)
        dropout = partial(Dropout, self.dropout_rate, train)
        split = partial(conv, groups=self.groups, **raised)
        convolutions = (partial(conv, kernel_size=11, strides=4, padding=self.padding),
                        partial(split, kernel_size=5, padding=2), partial(conv, kernel_size=3, padding=1),
                        *[partial(split, kernel_size=3, padding=1)] * 2)

        if len(self.features) != len(convolutions):
            raise UserError(f"features={tuple(self.features)} must be those of {len(convolutions)} convolutions")
        stage = 0
        for i, (convolution, features) in enumerate(zip(convolutions, self.features, strict=True), start=1):
            x = convolution(self.groups * scaled(features // self.groups, self.width), name=f"conv{i}")(x)
            x = nn.relu(norm(name=f"norm{i}")(x))
            if self.response_norm and i in (1, 2):
                x = F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=2.0)
            if i in (1, 2, 5):
                x = F.max_pool(x, 3, 2)
                self.sow("intermediates", f"stage{(stage := stage + 1)}", x)
        if self.pooled_size:
            x = F.adaptive_avg_pool(x, self.pooled_size)
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate(self.hidden, start=1):
            x = dropout()(x) if self.dropout_first else x
            x = nn.relu(dense(units, name=f"dense{i}", **raised)(x))
            x = x if self.dropout_first else dropout()(x)
        return dense(self.num_classes, name=f"dense{len(self.hidden) + 1}")(x)


VARIANTS = {
    # 61,100,840 parameters (Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks")
    "alexnet": Variant(AlexNet, {}, (224, 224, 3), 1000, "torchvision's, after Krizhevsky 2014", torchvision=True),
    "alexnet_d2l": Variant(  # 46,764,746 parameters
        AlexNet, {"features": (96, 256, 384, 384, 256), "padding": 1, "pooled_size": 0, "dropout_first": False,
                  "initializer": "xavier_uniform"}, (224, 224, 1), 10, "the textbook's, 7.1"),
    "alexnet_2012": Variant(  # 60,965,224 parameters
        AlexNet, {"features": (96, 256, 384, 384, 256), "padding": 0, "pooled_size": 0, "dropout_first": False,
                  "groups": 2, "response_norm": True, "initializer": "normal", "hidden_bias": 1.0},
        (227, 227, 3), 1000, "the paper's, for two GPUs"),
}
