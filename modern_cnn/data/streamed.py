"""Data sets that do not fit into memory: image files are decoded during training, in an order known beforehand.

Grain reads ahead in threads; Pillow releases Python's lock while it decodes. The n-th batch of an epoch depends on
seed, epoch and n alone, so a resumed run draws the order again and continues in the middle.
"""
import collections
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from PIL import Image

from modern_cnn.data.augment import crop_box
from modern_cnn.data.decoding import OR_SKIP, decode, to_rgb
from modern_cnn.data.resident import epoch_order, evaluation_batches, spaced
from modern_cnn.data.spec import Feed, Files, Placement, Records, Spec
from modern_cnn.errors import UserError

SAMPLE = 1000  # training images from which 'standard' takes mean and deviation
AHEAD = 2  # batches that are decoded, or on their way to the device, before they are asked for


def digest(splits: Mapping[str, Files | Records]) -> str:
    """Return a hash of the names, sizes and labels of all files; their pixels are not read."""
    lines = (f"{name}\n{splits[name].describe()}" for name in sorted(splits))
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:16]


def _random_crop(seed: tuple[int, ...], size: int, smallest: float, image: Image.Image) -> Image.Image:
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    return image.crop(crop_box(random, *image.size, smallest)).resize((size, size), Image.Resampling.BILINEAR)


def _read_example(split: Files | Records, index: int, image_size: int, channels: int,
                  transform: partial | None = None, scaled: int = 0) -> tuple[np.ndarray, np.int32]:
    """Return (uint8 [image_size, image_size, channels], label) of an example; the others are those of `decode`."""
    file, label, name = split[index]
    try:
        image = decode(file, image_size, transform, name, scaled)
    except UserError as e:
        raise UserError(f"{e}{OR_SKIP}") from e
    if channels == 1 and image.ndim == 3:
        raise UserError(f"{name} is a colour image, and the network takes gray ones")
    return (image[..., None] if channels == 1 and image.ndim == 2 else to_rgb(image)), np.int32(label)


def _read_ahead(read: Callable[[int], Any], indices: np.ndarray, ahead: int) -> Iterator[Any]:
    """Return read(i) for each of `indices` in order; threads read up to `ahead` of them before they are asked for."""
    import grain

    dataset = grain.MapDataset.source(indices.tolist()).map(read)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=ahead)))


def sample(split: Files | Records, image_size: int, channels: int, scaled: int = 0) -> np.ndarray:
    """Return at most SAMPLE images of a split, evenly spaced: uint8 [n, image_size, image_size, channels]."""
    indices = spaced(len(split), SAMPLE)
    read = partial(_read_example, split, image_size=image_size, channels=channels, scaled=scaled)
    return np.stack([image for image, _ in _read_ahead(read, indices, SAMPLE)])


class Streamed(Feed):
    """The feed of a streamed `sources.Dataset`: each process decodes its own rows when they are needed.

    Training images are random crops of at least `smallest_crop` of the area; 0: the centre, as all others; `scaled` is
    that of `decoding.resize`.
    """

    def __init__(self, spec: Spec, splits: Mapping[str, Files | Records], devices: Placement, smallest_crop: float,
                 scaled: int = 0):
        self._spec, self._splits, self._devices = spec, splits, devices
        self._smallest_crop, self._scaled = smallest_crop, scaled

    def train_labels(self) -> np.ndarray:
        return self._splits["train"].labels

    def train(self, seed: int, epoch: int, first: int, batch_size: int) -> Iterator[tuple]:
        order = epoch_order(seed, epoch, len(self._splits["train"]))
        ends = range((first + 1) * batch_size, len(order) + 1, batch_size)
        seeds = (seed, epoch) if self._smallest_crop else ()
        return self._batches("train", [(order[end - batch_size:end], None) for end in ends], seeds)

    def train_batch(self, number: Any, batch_size: int, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return batch  # the host has made it

    def evaluation(self, split: str, batch_size: int) -> Iterator[tuple]:
        return self._batches(split, evaluation_batches(len(self._splits[split]), batch_size))

    def eval_batch(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return batch

    def _batches(self, split: str, wanted: Sequence[tuple[np.ndarray, np.ndarray | None]],
                 seeds: tuple[int, ...] = ()) -> Iterator[tuple]:
        """Yield a batch, as a tuple of one, for each (indices, mask or None); with seeds, its images are cropped."""
        if not wanted:
            return
        size, _, channels = self._spec.image_shape
        rows = self._devices.local_rows(len(wanted[0][0]))

        def read(i: int) -> tuple[np.ndarray, np.int32]:
            crop = partial(_random_crop, (*seeds, i), size, self._smallest_crop) if seeds else None
            return _read_example(self._splits[split], i, size, channels, crop, self._scaled)

        examples = _read_ahead(read, np.concatenate([indices[rows] for indices, _ in wanted]), AHEAD * len(rows))
        under_way: collections.deque = collections.deque()
        for indices, mask in wanted:
            images, labels = zip(*itertools.islice(examples, len(rows)), strict=True)
            more = {"number": indices[rows]} if mask is None else {"mask": mask[rows]}
            batch = {"image": np.stack(images), "label": np.array(labels)} | more
            under_way.append(self._devices.place_batch(batch, len(indices)))  # returns before it has arrived
            if len(under_way) == AHEAD:
                yield (under_way.popleft(),)
        yield from ((batch,) for batch in under_way)
