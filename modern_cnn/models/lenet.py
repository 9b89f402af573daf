"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition"), as two textbooks have it."""
from typing import ClassVar

import flax.linen as nn
import jax

from modern_cnn import functional as F
from modern_cnn.errors import lookup
from modern_cnn.layers import ACTIVATIONS, Dropout, scaled
from modern_cnn.models.base import LARGEST, ConvNet, Variant


class LeNet(ConvNet, kw_only=True):
    """The textbook's LeNet: 5x5 convolutions, sigmoid, average pooling (Dive into Deep Learning, sections 6.6, 7.5.4).

    `lenet` pads 28x28 images to 32x32 and has 61,706 parameters. `lenet_bn` does not pad, normalises before each
    sigmoid, and has 44,878 parameters and 452 running statistics. Call: images [N, H, W, C] float -> logits [N,
    num_classes]; H and W at least 12 with padding 2, 16 without padding.

    Attributes:
      padding: zeros on each side of the image, for the first convolution.
      activation: a key of `layers.ACTIVATIONS`, after each layer except the last.
    """
    limits: ClassVar = {"padding": (0, LARGEST)}
    padding: int = 2
    activation: str = "sigmoid"
    initializer: str = "xavier_uniform"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train)
        activate = lookup(ACTIVATIONS, self.activation, "activation")

        for i, (features, padding) in enumerate(((6, self.padding), (16, 0)), start=1):
            x = conv(scaled(features, self.width), 5, padding=padding, name=f"conv{i}")(x)
            x = F.avg_pool(activate(norm(name=f"norm{i}")(x)), 2)
            self.sow("intermediates", f"stage{i}", x)
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate((120, 84), start=1):
            x = activate(norm(name=f"norm{i + 2}")(dense(units, name=f"dense{i}")(x)))
            self.sow("intermediates", f"stage{i + 2}", x)
            x = Dropout(self.dropout_rate, train)(x)
        return dense(self.num_classes, name="dense3")(x)


class LeNetReLU(ConvNet, kw_only=True):
    """The TensorFlow text's LeNet: 3x3 convolutions, max-pooling, then ReLU (sections 10.4 and 10.8.3).

    `lenet_relu` has 60,074 parameters on 28x28 images. `lenet_relu_bn` normalises after each convolution, with Keras's
    epsilon 1e-3 and decay 0.99; it has 60,118 parameters and 44 running statistics. Kernels are Xavier uniform and
    biases zero, Keras's defaults. Call: images [N, H, W, C] float -> logits [N, num_classes]; H and W at least 10.
    """
    unbiased: bool = False
    initializer: str = "keras"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv, dense, norm = self.constructors(train, decay=0.99, epsilon=1e-3)

        for i, features in enumerate((6, 16), start=1):
            x = norm(name=f"norm{i}")(conv(scaled(features, self.width), 3, name=f"conv{i}")(x))
            x = nn.relu(F.max_pool(x, 2))
            self.sow("intermediates", f"stage{i}", x)
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate((120, 84), start=1):
            x = nn.relu(dense(units, name=f"dense{i}")(x))
            self.sow("intermediates", f"stage{i + 2}", x)
            x = Dropout(self.dropout_rate, train)(x)
        return dense(self.num_classes, name="dense3")(x)


VARIANTS = {
    "lenet": Variant(LeNet, {}, (28, 28, 1), 10, "the textbook's, 6.6"),
    "lenet_bn": Variant(LeNet, {"padding": 0, "norm": "batch"}, (28, 28, 1), 10, "the textbook's, 7.5.4"),
    "lenet_relu": Variant(LeNetReLU, {}, (28, 28, 1), 10, "the TensorFlow text's, 10.4"),
    "lenet_relu_bn": Variant(LeNetReLU, {"norm": "batch"}, (28, 28, 1), 10, "the TensorFlow text's, 10.8.3"),
}
