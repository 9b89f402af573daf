"""What the rest of the program knows of a data set: its description, its splits, and the protocol of its feeds."""
import dataclasses
import functools
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from modern_cnn.errors import UserError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation, as torchvision's networks expect them
COUNTED = 256  # images whose pixels are counted at a time: np.bincount takes 8 bytes for each


def normalization(normalize: str, images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) of each channel, for pixels in [0, 1]; 'standard' is that of `images`, uint8 [N, H, W, C]."""
    channels = images.shape[-1]
    if normalize == "imagenet" and channels != 3:
        raise UserError(f"config.data.normalize='imagenet' is for images with 3 channels (RGB), not {channels}")
    if normalize != "standard":
        return {"unit": ((0.0,) * channels, (1.0,) * channels), "symmetric": ((0.5,) * channels, (0.5,) * channels),
                "imagenet": IMAGENET}[normalize]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), COUNTED):
        for c in range(channels):
            counts[c] += np.bincount(images[start:start + COUNTED, ..., c].ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = [float(levels @ n / n.sum()) for n in counts]
    std = [float(np.sqrt((levels - m) ** 2 @ n / n.sum())) for m, n in zip(mean, counts, strict=True)]
    return tuple(mean), tuple(max(s, 1e-6) for s in std)


@dataclasses.dataclass(frozen=True)
class Spec:
    """The description of a data set."""
    source: str  # as it was asked for
    origin: str  # where the images were found
    image_shape: tuple[int, int, int]  # (H, W, C) in pixels, as the network sees them
    num_classes: int
    class_names: tuple[str, ...]  # the numbers if the source has no names
    sizes: dict[str, int]  # examples in each split
    mean: tuple[float, ...]  # of each channel, to normalise pixels in [0, 1]
    std: tuple[float, ...]
    digest: str  # of all images and labels as they are stored; a resumed run notices by it that the data changed

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Spec":
        """Return the description that a run.json has as 'data'."""
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                  for name, value in data.items()}
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


class Arrays(NamedTuple):
    """A decoded split in memory, or mapped from the cache: images uint8 [N, H, W, C] and labels int32 [N]."""
    images: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> "Arrays":
        """Return the split with only the examples `indices`, in their order."""
        return Arrays(self.images[indices], self.labels[indices])

    def relabel(self, numbers: np.ndarray) -> "Arrays":
        """Return the split with label `numbers[i]` where it was i."""
        return Arrays(self.images, numbers[self.labels])


@dataclasses.dataclass(frozen=True)
class Files:
    """A split of image files that are not decoded yet: paths and labels int32 [N]. `take`, `relabel`: see `Arrays`."""
    paths: list[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, int, str]:
        """Return (encoded image, label, name for error messages)."""
        return self.paths[index], int(self.labels[index]), str(self.paths[index])

    def take(self, indices: np.ndarray) -> "Files":
        return Files([self.paths[i] for i in indices], self.labels[indices])

    def relabel(self, numbers: np.ndarray) -> "Files":
        return Files(self.paths, numbers[self.labels])

    def describe(self) -> str:
        """Return a text that changes when a file is added, removed, resized or relabelled."""
        return "\n".join(f"{path.parent.name}/{path.name} {path.stat().st_size} {label}"
                         for path, label in zip(self.paths, self.labels, strict=True))


@dataclasses.dataclass(frozen=True)
class Records:
    """A split that TensorFlow Datasets has prepared: encoded images, read by their number. Methods as in `Files`."""
    source: Any  # of ArrayRecords
    name: str  # for error messages
    indices: np.ndarray  # int [N], the numbers of the examples in `source`
    numbers: np.ndarray | None = None  # int32, the label for each label in `source`, if it is another

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int, str]:
        record = self.source[int(self.indices[index])]
        label = int(record["label"] if self.numbers is None else self.numbers[record["label"]])
        return io.BytesIO(record["image"]), label, f"{self.name}, example {self.indices[index]}"

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Return all labels, int32 [N]; this reads the whole split."""
        return np.array([self[i][1] for i in range(len(self))], np.int32)

    def take(self, indices: np.ndarray) -> "Records":
        return dataclasses.replace(self, indices=self.indices[indices])

    def relabel(self, numbers: np.ndarray) -> "Records":
        return dataclasses.replace(self, numbers=numbers)

    def describe(self) -> str:
        """Return a text that changes with the number of examples; prepared sets do not change otherwise."""
        return f"{self.name} {len(self)}"


class Placement(Protocol):
    """The methods of `training.devices.Devices` that a feed needs."""

    def replicate(self, tree: Any) -> Any: ...
    def shard_batch(self, tree: Any) -> Any: ...
    def local_rows(self, batch_size: int) -> np.ndarray: ...
    def place_batch(self, tree: Any, batch_size: int) -> Any: ...


class Feed(Protocol):
    """The source of a run's batches on the devices: `resident.Resident` or `streamed.Streamed`.

    On the host, `train_labels` returns the labels of all training images; `train` the arguments of `train_batch` for
    the batches of an epoch, from number `first` on; and `evaluation` those of `eval_batch` for batches that visit each
    example of a split once. Inside the compiled step, these two return 'image' uint8 [B, H, W, C] and 'label' int32
    [B]; the former also 'number' int32 [B], of the image in the training split, and the latter 'mask' bool [B], False
    for padding.
    """

    def train_labels(self) -> np.ndarray: ...
    def train(self, seed: int, epoch: int, first: int, batch_size: int) -> Iterator[tuple]: ...
    def train_batch(self, number: Any, batch_size: int, *args: Any, **kwargs: Any) -> dict[str, jax.Array]: ...
    def evaluation(self, split: str, batch_size: int) -> Iterator[tuple]: ...
    def eval_batch(self, *args: Any, **kwargs: Any) -> dict[str, jax.Array]: ...
