"""Sets that do not fit into memory: image files are decoded while training goes, in an order that is known beforehand.

Grain reads ahead in threads: Pillow lets go of Python's lock while it decodes. What the n-th batch of an epoch holds
depends on seed, epoch and n alone, so a resumed run draws the order again and goes on in the middle.
"""
import collections
import dataclasses
import hashlib
import io
import itertools
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modern_cnn.data import formats
from modern_cnn.data import resident as batches
from modern_cnn.data.augment import RATIOS, TRIES

SAMPLE = 1000  # training images from which 'standard' takes mean and deviation
AHEAD = 2  # batches that are decoded, or on their way to the device, before they are asked for


@dataclasses.dataclass(frozen=True)
class Files:
    """A split of image files: paths and int32 labels [N]."""
    paths: list[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, int, str]:
        return self.paths[index], int(self.labels[index]), str(self.paths[index])

    def take(self, indices: np.ndarray) -> "Files":
        return Files([self.paths[i] for i in indices], self.labels[indices])

    def describe(self) -> str:
        """Changes when a file comes, goes, or has another size."""
        return "\n".join(f"{path.parent.name}/{path.name} {path.stat().st_size} {label}"
                         for path, label in zip(self.paths, self.labels, strict=True))


@dataclasses.dataclass(frozen=True)
class Records:
    """A split that TensorFlow Datasets has prepared: encoded images by their number (an ArrayRecord data source)."""
    source: Any
    name: str
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int, str]:
        record = self.source[int(self.indices[index])]
        return io.BytesIO(record["image"]), int(record["label"]), f"{self.name}, example {self.indices[index]}"

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]: reads the whole split."""
        return np.array([self[i][1] for i in range(len(self))], np.int32)

    def take(self, indices: np.ndarray) -> "Records":
        return dataclasses.replace(self, indices=self.indices[indices])

    def describe(self) -> str:
        return f"{self.name} {len(self)}"


Split = Files | Records


def folder(directory: Path) -> tuple[dict[str, Split], list[str]]:
    """(splits, class names) of `formats.list_folder`."""
    listed, classes = formats.list_folder(directory)
    return {split: Files([path for path, _ in files], np.array([label for _, label in files], np.int32))
            for split, files in listed.items()}, classes


def digest(splits: dict[str, Split]) -> str:
    """Of what the files are called, how large they are and what they are labelled; their pixels are not read."""
    lines = (f"{name}\n{splits[name].describe()}" for name in sorted(splits))
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:16]


def crop_box(random: np.random.RandomState, width: int, height: int, smallest: float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random crop: a share of the area between `smallest` and 1, of a ratio in RATIOS.

    "Inception" cropping (Szegedy et al. 2014, section 6), by torchvision's rule: after TRIES that do not fit, the
    largest centred crop whose ratio is allowed.
    """
    for _ in range(TRIES):
        area = width * height * random.uniform(smallest, 1)
        ratio = math.exp(random.uniform(*map(math.log, RATIOS)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w + 1), random.randint(0, height - h + 1)
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _random_crop(seed: tuple[int, ...], size: int, smallest: float, image: Image.Image) -> Image.Image:
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    return image.crop(crop_box(random, *image.size, smallest)).resize((size, size), Image.Resampling.BILINEAR)


def decode(split: Split, index: int, image_size: int, channels: int,
           cut: Callable[[Image.Image], Image.Image] | None = None) -> tuple[np.ndarray, np.int32]:
    """(uint8 [image_size, image_size, channels], label) of an example."""
    file, label, name = split[index]
    image = formats.decode(file, image_size, cut, name)
    return (image[..., None] if channels == 1 and image.ndim == 2 else formats.in_color(image)), np.int32(label)


def sample(split: Split, image_size: int, channels: int) -> np.ndarray:
    """uint8 [n, S, S, C]: at most SAMPLE examples, evenly spaced."""
    indices = np.unique(np.linspace(0, len(split) - 1, min(SAMPLE, len(split))).astype(int))
    return np.stack([image for image, _ in _in_order(partial(decode, split, image_size=image_size, channels=channels),
                                                     indices, SAMPLE)])


def _in_order(read: Callable[[int], Any], indices: np.ndarray, ahead: int) -> Iterator[Any]:
    """read(i) for each of `indices`, by threads that work `ahead`."""
    import grain

    dataset = grain.MapDataset.source(indices.tolist()).map(read)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=ahead)))


class Streamed:
    """A data set whose examples are decoded when they are needed, each process those of its own devices.

    Args:
      spec, splits: of a `sources.Dataset`, the splits of this module.
      devices: of the run (`training.mesh.Devices`).
      smallest_crop: share of an image's area that a random crop of training has at least; 0: the centre, not cropped.
    """

    def __init__(self, spec, splits: dict[str, Split], devices, smallest_crop: float = 0.0):
        self._spec, self._splits, self._devices, self._smallest = spec, splits, devices, smallest_crop

    def train(self, seed: int, epoch: int, first: int, batch_size: int) -> Iterator[tuple]:
        """Arguments for `train_batch`, for the batches of an epoch from number `first` on."""
        order = batches.epoch_order(seed, epoch, len(self._splits["train"]))
        ends = range((first + 1) * batch_size, len(order) + 1, batch_size)
        size = self._spec.image_shape[0]

        def cut_of(index: int):
            return partial(_random_crop, (seed, epoch, index), size, self._smallest) if self._smallest else None

        return self._batches("train", [(order[end - batch_size:end], None) for end in ends], cut_of)

    def train_batch(self, number, batch_size: int, batch):
        """{'image': uint8 [B, H, W, C], 'label'}: it has been put together on the host."""
        return batch

    def evaluation(self, split: str, batch_size: int) -> Iterator[tuple]:
        """Arguments for `eval_batch` that visit each example of a split once."""
        wanted = batches.evaluation_batches(len(self._splits[split]), batch_size)
        return self._batches(split, wanted, lambda index: None)

    def eval_batch(self, batch):
        """{'image', 'label', 'mask': False for what pads the last batch}."""
        return batch

    def _batches(self, split: str, wanted: list, cut_of: Callable) -> Iterator[tuple]:
        """({'image', 'label', 'mask' where there is one},) for each (indices, mask), AHEAD of them under way."""
        if not wanted:
            return
        size, _, channels = self._spec.image_shape
        rows = self._devices.local_rows(len(wanted[0][0]))
        examples = _in_order(lambda i: decode(self._splits[split], i, size, channels, cut_of(i)),
                             np.concatenate([indices[rows] for indices, _ in wanted]), AHEAD * len(rows))
        under_way: collections.deque = collections.deque()
        for indices, mask in wanted:
            images, labels = zip(*itertools.islice(examples, len(rows)), strict=True)
            batch = {"image": np.stack(images), "label": np.array(labels)}
            if mask is not None:
                batch["mask"] = mask[rows]
            under_way.append(self._devices.place_batch(batch, len(indices)))  # returns before it has arrived
            if len(under_way) == AHEAD:
                yield (under_way.popleft(),)
        yield from ((batch,) for batch in under_way)
