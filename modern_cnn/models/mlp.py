"""Multilayer perceptron: each unit sees all pixels. The network that convolutional networks are compared with."""
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn.initializers import initializers
from modern_cnn.layers import Dense, Dropout
from modern_cnn.models.base import Variant


class MLP(nn.Module):
    """Dense layers with ReLU, by default 784-256-256-256-10: 335,114 parameters (the TensorFlow text, section 10.1).

    Call: images [N, H, W, C] float -> logits [N, num_classes]. Initial values are Keras's: Xavier uniform, and zero.
    """
    num_classes: int = 10
    hidden_sizes: Sequence[int] = (256, 256, 256)
    dropout_rate: float = 0.0
    initializer: str = "keras"
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        dense = partial(Dense, dtype=self.dtype, **initializers(self.initializer, "dense"))
        x = x.reshape(x.shape[0], -1)
        for i, size in enumerate(self.hidden_sizes, start=1):
            x = nn.relu(dense(size, name=f"dense{i}")(x))
            self.sow("intermediates", f"stage{i}", x)
            x = Dropout(self.dropout_rate, train)(x)
        return dense(self.num_classes, name=f"dense{len(self.hidden_sizes) + 1}")(x)


VARIANTS = {"mlp": Variant(MLP, {}, (28, 28, 1), 10, "the TensorFlow text's, 10.1")}
