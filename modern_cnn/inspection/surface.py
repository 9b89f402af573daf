"""The loss around a trained network, along lines through the space of its parameters."""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def filter_normalized(key: jax.Array, params: Any) -> Any:
    """A random direction like `params`, each filter of it as long as the network's own.

    Li et al. 2018, "Visualizing the loss landscape of neural nets", section 4: without it, weights that batch
    normalisation rescales freely would make sharp and flat look alike. A filter is what makes one output:
    kernel[..., o]. Biases and the scales of normalisation stay where they are, as in the paper's own code.
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


def difference(end: Any, start: Any) -> Any:
    """The direction that leads from one network's variables to another's."""
    return jax.tree.map(jnp.subtract, end, start)


def along(module: nn.Module, variables: Any, direction: Any, steps: Sequence[float], images: jax.Array,
          labels: jax.Array, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """(loss, accuracy), each [len(steps)], of `variables + step * direction` in evaluation mode.

    Args:
      variables: as `module.apply` takes them.
      direction: of the same shape, or of some of its collections: {'params': filter_normalized(key, params)}.
      images, labels: float [N, H, W, C] and int [N]; the loss is the mean cross-entropy over all of them, in nats.
    """
    @jax.jit
    def sums(step, images, labels):
        moved = {name: jax.tree.map(lambda value, change: value + step * change, value, direction[name])
                 if name in direction else value for name, value in variables.items()}
        logits = module.apply(moved, images, train=False)
        chosen = jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], axis=1)
        return -chosen.sum(), (logits.argmax(-1) == labels).sum()

    parts = [(images[i:i + batch_size], labels[i:i + batch_size]) for i in range(0, len(images), batch_size)]
    totals = np.array([[sums(step, *part) for part in parts] for step in steps]).sum(1) / len(images)
    return totals[:, 0], totals[:, 1]
