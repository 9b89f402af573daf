"""Data sets that lie on the devices as uint8: a batch is gathered by its indices, inside the compiled step."""
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modern_cnn.data import augment
from modern_cnn.data.spec import Arrays, Feed, Placement, Spec


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of `size` examples in an epoch: an int32 permutation that depends on seed and epoch alone."""
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed % 2**32, epoch])))
    return random.permutation(size).astype(np.int32)  # RandomState's streams are frozen across numpy versions


def balanced_order(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """Return the order of an epoch of N examples, as many of each class: int32 [N], the indices of labels int [N].

    The examples of a class take turns, so that the numbers of times that two of them come differ by one at most. The
    order depends on seed, epoch and labels alone.
    """
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed % 2**32, epoch])))
    classes, chosen = random.permutation(np.unique(labels)), []  # the first of them have the examples left over
    for number, wanted in zip(classes, np.bincount(np.arange(len(labels)) % len(classes)), strict=True):
        own = np.flatnonzero(labels == number)
        turns = [random.permutation(own) for _ in range(-(-wanted // len(own)))]
        chosen.append(np.concatenate(turns)[:wanted])
    return random.permutation(np.concatenate(chosen)).astype(np.int32)


def spaced(size: int, most: int) -> np.ndarray:
    """Return at most `most` indices of `size` examples, evenly spaced and ascending: classes often lie one by one."""
    return np.unique(np.linspace(0, size - 1, min(most, size)).astype(int))


def evaluation_batches(size: int, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (indices int32 [B], mask bool [B]) of batches over `size` examples; padding has index 0 and mask False."""
    indices = np.arange(math.ceil(size / batch_size) * batch_size, dtype=np.int32).reshape(-1, batch_size)
    mask = indices < size
    return list(zip(indices * mask, mask, strict=True))


def gather(data: tuple[jax.Array, jax.Array], indices: jax.Array, shape: tuple[int, int, int]) -> dict[str, jax.Array]:
    """Return 'image' uint8 [B, *shape] and 'label' int32 [B] of a split on the device; smaller images are enlarged."""
    images, labels = data
    chosen = jnp.take(images, indices, axis=0)
    if chosen.shape[1:] != shape:
        chosen = augment.enlarge(chosen, shape[0])
    return {"image": chosen, "label": jnp.take(labels, indices, axis=0)}


class Resident(Feed):
    """The feed of a data set in memory (`sources.Dataset`), which lies on every device of the run as a whole.

    An epoch has the order of `epoch_order`, or if `balanced` that of `balanced_order`.
    """

    def __init__(self, spec: Spec, splits: Mapping[str, Arrays], devices: Placement, balanced: bool = False):
        self._spec, self._splits, self._devices, self._balanced = spec, splits, devices, balanced
        self._data = {split: devices.replicate(tuple(arrays)) for split, arrays in splits.items()}

    def train_labels(self) -> np.ndarray:
        _, labels = self._splits["train"]
        return labels

    def train(self, seed: int, epoch: int, first: int, batch_size: int) -> Iterator[tuple]:
        size = self._spec.sizes["train"]
        order = balanced_order(seed, epoch, self.train_labels()) if self._balanced else epoch_order(seed, epoch, size)
        order = self._devices.replicate(order)
        return itertools.repeat((self._data["train"], order), size // batch_size - first)

    def train_batch(self, number: Any, batch_size: int, data: Any, order: jax.Array) -> dict[str, jax.Array]:
        indices = self._devices.shard_batch(lax.dynamic_slice(order, (number * batch_size,), (batch_size,)))
        return gather(data, indices, self._spec.image_shape) | {"number": indices}

    def evaluation(self, split: str, batch_size: int) -> Iterator[tuple]:
        for indices, mask in evaluation_batches(self._spec.sizes[split], batch_size):
            yield self._data[split], indices, mask

    def eval_batch(self, data: Any, indices: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        indices, mask = self._devices.shard_batch((indices, mask))
        return gather(data, indices, self._spec.image_shape) | {"mask": mask}
