"""The multilayer perceptron that convolutions replace: every pixel connected to every unit."""
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn.layers import Dense, Dropout, initializers
from modern_cnn.models.variant import Variant


class MLP(nn.Module):
    """784-256-256-256-10 with ReLU: 335,114 parameters on 28x28 (the TensorFlow text, section 10.1).

    Kernels are Xavier uniform and biases zero, as Keras draws them there.

    Call: images [N, H, W, C] float -> logits [N, num_classes].
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
