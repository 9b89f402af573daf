"""How images reach the device: small sets live there as uint8, and a batch is a row of indices.

`Resident` and `stream.Streamed` are two ways of feeding the same compiled step: `train` and `evaluation` run on the
host and give arguments, from which `train_batch` and `eval_batch`, inside the compiled step, make the batch.
"""
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modern_cnn.data import augment


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of `size` examples in an epoch: int32, a permutation that depends on seed and epoch alone.

    A resumed run draws it again and goes on in the middle. RandomState's streams are frozen across numpy versions.
    """
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed % 2**32, epoch])))
    return random.permutation(size).astype(np.int32)


def evaluation_batches(size: int, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(indices int32 [B], mask bool [B]) that visit each of `size` examples once; masked zeros pad the last batch."""
    batches = []
    for start in range(0, size, batch_size):
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        mask = indices < size
        batches.append((np.where(mask, indices, 0).astype(np.int32), mask))
    return batches


def gather(data: tuple[jax.Array, jax.Array], indices: jax.Array, shape: tuple[int, int, int]) -> dict[str, jax.Array]:
    """{'image': uint8 [B, *shape], 'label': int32 [B]} of a split on the device; smaller images are enlarged."""
    images = jnp.take(data[0], indices, axis=0)
    if images.shape[1:] != shape:
        images = augment.enlarge(images, shape[0])
    return {"image": images, "label": jnp.take(data[1], indices, axis=0)}


class Resident:
    """A data set that lies on every device as a whole.

    Args:
      spec, splits: of a `sources.Dataset`.
      devices: of the run (`training.mesh.Devices`).
    """

    def __init__(self, spec, splits: dict[str, Any], devices):
        self._spec, self._devices = spec, devices
        self._data = {split: devices.replicate(arrays) for split, arrays in splits.items()}

    def train(self, seed: int, epoch: int, first: int, batch_size: int) -> Iterator[tuple]:
        """Arguments for `train_batch`, for the batches of an epoch from number `first` on."""
        order = self._devices.replicate(epoch_order(seed, epoch, self._spec.sizes["train"]))
        return itertools.repeat((self._data["train"], order))

    def train_batch(self, number: jax.Array, batch_size: int, data, order) -> dict[str, jax.Array]:
        """{'image': uint8 [B, H, W, C], 'label'}: batch `number` of the epoch."""
        indices = self._devices.shard_batch(lax.dynamic_slice(order, (number * batch_size,), (batch_size,)))
        return gather(data, indices, self._spec.image_shape)

    def evaluation(self, split: str, batch_size: int) -> Iterator[tuple]:
        """Arguments for `eval_batch` that visit each example of a split once."""
        for indices, mask in evaluation_batches(self._spec.sizes[split], batch_size):
            yield self._data[split], indices, mask

    def eval_batch(self, data, indices, mask) -> dict[str, jax.Array]:
        """{'image', 'label', 'mask': False for what pads the last batch}."""
        indices, mask = self._devices.shard_batch((indices, mask))
        return gather(data, indices, self._spec.image_shape) | {"mask": mask}
