"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition"), as two textbooks define it.

Maps are flattened in the order height, width, channels. PyTorch puts channels first: `dense1` has its rows permuted.
"""
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn import functional as F
from modern_cnn.errors import lookup
from modern_cnn.layers import ACTIVATIONS, Conv, Dense, Dropout, initializers, normalization, scaled
from modern_cnn.models.variant import Variant


class LeNet(nn.Module):
    """The textbook's LeNet: 5x5 convolutions, sigmoid, average pooling (Dive into Deep Learning, sections 6.6, 7.5.4).

    `lenet` pads 28x28 images to 32x32 and has 61,706 parameters. `lenet_bn` does not pad, normalises before each
    sigmoid, and has 44,878 parameters and 452 running statistics.

    Call: images [N, H, W, C] float -> logits [N, num_classes]; H and W at least 12 with padding 2, 16 without padding.

    Attributes:
      padding: zeros on each side of the image, for the first convolution.
      activation: 'sigmoid', 'tanh' or 'relu', after each layer except the last.
      width: factor of the convolutions' channels.
    """
    num_classes: int = 10
    padding: int = 2
    activation: str = "sigmoid"
    dropout_rate: float = 0.0
    width: float = 1.0
    norm: str = "none"
    unbiased: bool = True
    axis_name: str | None = None
    initializer: str = "xavier_uniform"
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv = partial(Conv, kernel_size=5, dtype=self.dtype, **initializers(self.initializer, "conv"))
        dense = partial(Dense, dtype=self.dtype, **initializers(self.initializer, "dense"))
        norm = normalization(self.norm, train=train, unbiased=self.unbiased, axis_name=self.axis_name, dtype=self.dtype)
        activate = lookup(ACTIVATIONS, self.activation, "activation")

        x = activate(norm(name="norm1")(conv(scaled(6, self.width), padding=self.padding, name="conv1")(x)))
        x = F.avg_pool(x, 2)
        self.sow("intermediates", "stage1", x)
        x = activate(norm(name="norm2")(conv(scaled(16, self.width), name="conv2")(x)))
        x = F.avg_pool(x, 2)
        self.sow("intermediates", "stage2", x)
        x = x.reshape(x.shape[0], -1)
        x = activate(norm(name="norm3")(dense(120, name="dense1")(x)))
        self.sow("intermediates", "stage3", x)
        x = Dropout(self.dropout_rate, train)(x)
        x = activate(norm(name="norm4")(dense(84, name="dense2")(x)))
        self.sow("intermediates", "stage4", x)
        x = Dropout(self.dropout_rate, train)(x)
        return dense(self.num_classes, name="dense3")(x)


class LeNetReLU(nn.Module):
    """The TensorFlow text's LeNet: 3x3 convolutions, max-pooling, then ReLU (sections 10.4 and 10.8.3).

    `lenet_relu` has 60,074 parameters on 28x28 images. `lenet_relu_bn` normalises after each convolution, with Keras's
    epsilon 1e-3 and decay 0.99; it has 60,118 parameters and 44 running statistics. Kernels are Xavier uniform and
    biases zero, which are Keras's defaults.

    Call: images [N, H, W, C] float -> logits [N, num_classes]; H and W at least 10.
    """
    num_classes: int = 10
    dropout_rate: float = 0.0
    width: float = 1.0
    norm: str = "none"
    unbiased: bool = False
    axis_name: str | None = None
    initializer: str = "keras"
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv = partial(Conv, kernel_size=3, dtype=self.dtype, **initializers(self.initializer, "conv"))
        dense = partial(Dense, dtype=self.dtype, **initializers(self.initializer, "dense"))
        norm = normalization(self.norm, train=train, decay=0.99, epsilon=1e-3, unbiased=self.unbiased,
                             axis_name=self.axis_name, dtype=self.dtype)

        x = nn.relu(F.max_pool(norm(name="norm1")(conv(scaled(6, self.width), name="conv1")(x)), 2))
        self.sow("intermediates", "stage1", x)
        x = nn.relu(F.max_pool(norm(name="norm2")(conv(scaled(16, self.width), name="conv2")(x)), 2))
        self.sow("intermediates", "stage2", x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(120, name="dense1")(x))
        self.sow("intermediates", "stage3", x)
        x = Dropout(self.dropout_rate, train)(x)
        x = nn.relu(dense(84, name="dense2")(x))
        self.sow("intermediates", "stage4", x)
        x = Dropout(self.dropout_rate, train)(x)
        return dense(self.num_classes, name="dense3")(x)


VARIANTS = {
    "lenet": Variant(LeNet, {}, (28, 28, 1), 10, "the textbook's, 6.6"),
    "lenet_bn": Variant(LeNet, {"padding": 0, "norm": "batch"}, (28, 28, 1), 10, "the textbook's, 7.5.4"),
    "lenet_relu": Variant(LeNetReLU, {}, (28, 28, 1), 10, "the TensorFlow text's, 10.4"),
    "lenet_relu_bn": Variant(LeNetReLU, {"norm": "batch"}, (28, 28, 1), 10, "the TensorFlow text's, 10.8.3"),
}
