"""The loading of a streamed folder's images, without training: by our feed, PyTorch's DataLoader and tf.data."""
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from modern_cnn.data import augment, sources, streamed
from modern_cnn.data.spec import Files
from modern_cnn.errors import UserError
from modern_cnn.settings import Settings
from modern_cnn.training.devices import Devices
from scripts.bench.timing import Runner, compare


class ImageFolder:
    """A folder as torchvision's ImageFolder loads it, with RandomResizedCrop and ToTensor: float [C, H, W], label."""

    def __init__(self, files: Files, image_size: int, smallest_crop: float):
        self.files, self.image_size, self.smallest_crop = files, image_size, smallest_crop
        self.random = np.random.RandomState(0)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        import torch
        from PIL import Image

        path, label, _ = self.files[index]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        image = image.crop(augment.crop_box(self.random, *image.size, self.smallest_crop))
        image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255), label


def our_loading(config: Settings, dataset: sources.Dataset) -> Callable[[], None]:
    """Return a function that brings an epoch of a streamed set's batches to the device."""
    feed = dataset.feed(Devices(**dataclasses.asdict(config.parallel)), config.augment.resized_crop)

    def epoch() -> None:
        for (batch,) in feed.train(config.seed, 0, 0, config.data.batch_size):
            jax.block_until_ready(batch)

    return epoch


def torch_loader(dataset: Any, batch_size: int, workers: int, train: bool = True) -> Any:
    """Return a DataLoader of an indexed dataset; for training shuffled, without the incomplete last batch."""
    import torch

    # Workers are spawned and kept: a fork of a process in which JAX has threads may hang.
    options: dict[str, Any] = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    return torch.utils.data.DataLoader(dataset, batch_size, shuffle=train, drop_last=train, num_workers=workers,
                                       **options)


def torch_loading(config: Settings, files: Files, workers: int) -> Callable[[], list]:
    """Return a function that loads the same epoch by DataLoader."""
    loader = torch_loader(ImageFolder(files, config.data.image_size, config.augment.resized_crop),
                          config.data.batch_size, workers)
    return lambda: [None for _ in loader]


def tf_loading(config: Settings, files: Files) -> Callable[[], list]:
    """Return a function that loads the same epoch by tf.data.

    It decodes only the crop of a JPEG, and its resizing is antialiased, as that of the others.
    """
    import tensorflow as tf

    size = config.data.image_size

    def load(path, label):
        content = tf.io.read_file(path)
        box, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(content), tf.zeros([0, 0, 4]), aspect_ratio_range=augment.CROP_RATIOS,
            area_range=(config.augment.resized_crop, 1.0), max_attempts=augment.CROP_TRIES, min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True)
        image = tf.io.decode_and_crop_jpeg(content, tf.concat([box[:2], shape[:2]], 0), channels=3)
        return tf.cast(tf.round(tf.image.resize(image, (size, size), antialias=True)), tf.uint8), label

    batches = (tf.data.Dataset.from_tensor_slices(([str(path) for path in files.paths], files.labels))
               .shuffle(len(files)).map(load, tf.data.AUTOTUNE, deterministic=True)
               .batch(config.data.batch_size, drop_remainder=True).prefetch(streamed.AHEAD))
    return lambda: [None for _ in batches.as_numpy_iterator()]


def compare_loading(config: Settings, peers: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return a record of our loading and of each peer's, as `timing.compare` has them; the first epoch does not count.

    Args:
      peers: of 'torch' and 'tf.data'; PyTorch loads without workers, and with one for each core.
    Raises:
      UserError: the config does not stream random crops of a folder.
    """
    if not (config.data.stream and config.augment.resized_crop and config.data.source.startswith("folder:")):
        raise UserError("--loading times random crops of a streamed folder: add --config.data.source=folder:DIR "
                        "--config.data.stream=true --config.data.image_size=224 --config.augment.resized_crop=0.08")
    dataset = sources.load(config.data)
    files = dataset.splits["train"]
    assert isinstance(files, Files)
    runners = {"ours": Runner(our_loading(config, dataset))}
    if "torch" in peers:
        runners |= {f"torch, {workers} workers": Runner(torch_loading(config, files, workers))
                    for workers in (0, os.cpu_count() or 1)}
    if "tf.data" in peers:
        runners["tf.data"] = Runner(tf_loading(config, files))
    batch_size = config.data.batch_size
    return compare(runners, rounds, 1, len(files) // batch_size * batch_size, phase="loading", model="none",
                   batch_size=batch_size, image_shape=list(dataset.spec.image_shape), dtype="uint8")
