"""The loss around a trained network, along lines through the space of its parameters."""
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modern_cnn.inspection.features import class_logits
from modern_cnn.inspection.traced import Array


def filter_normalized(key: jax.Array, params: Any) -> Any:
    """Return a random direction shaped like `params`, each of its filters as long as the network's own.

    Li et al. 2018, "Visualizing the loss landscape of neural nets", section 4. Batch normalisation makes the scale of
    the weights before it arbitrary, so directions of another length would make sharp and flat look alike. A filter is
    kernel[..., o]. The direction is 0 for biases and the scales of normalisation, as in the paper's code.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))

    def draw(key, leaf):
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        drawn, axes = jax.random.normal(key, leaf.shape, leaf.dtype), tuple(range(leaf.ndim - 1))
        lengths = [jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (leaf, drawn)]
        return drawn * lengths[0] / lengths[1]

    return jax.tree.unflatten(structure, [draw(*each) for each in zip(keys, leaves, strict=True)])


def along(module: nn.Module, variables: Any, direction: Any, steps: Iterable[float], images: Array, labels: Array,
          batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Return (loss, accuracy), each [number of steps], of `variables + step * direction` in evaluation mode.

    The direction is like `variables`, or some of its collections: {'params': filter_normalized(key, params)}. The loss
    is the mean cross-entropy over all images, float [N, H, W, C], and their labels, int [N], in nats.
    """
    @jax.jit
    def sums(step, images, labels):
        moved = {name: jax.tree.map(lambda value, change: value + step * change, value, direction[name])
                 if name in direction else value for name, value in variables.items()}
        logits = class_logits(module, moved, images)
        chosen = jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], axis=1)
        return -chosen.sum(), (logits.argmax(-1) == labels).sum()

    parts = [(images[i:i + batch_size], labels[i:i + batch_size]) for i in range(0, len(images), batch_size)]
    totals = np.array([[sums(step, *part) for part in parts] for step in steps]).sum(1) / len(images)
    return totals[:, 0], totals[:, 1]
