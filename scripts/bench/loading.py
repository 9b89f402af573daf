"""Batches of a streamed folder's images without training: by our feed, PyTorch's DataLoader and tf.data."""
import os
from collections.abc import Sequence

import jax
import numpy as np

from modern_cnn.data import sources
from modern_cnn.data import streamed as stream
from modern_cnn.errors import UserError
from modern_cnn.training.devices import Devices
from scripts.bench.timing import Step, in_turn, summarize


class ImageFolder:
    """Image files as torchvision's ImageFolder gives them by PIL, RandomResizedCrop and ToTensor, with their label."""

    def __init__(self, files: stream.Files, image_size: int, smallest_crop: float):
        self.files, self.image_size, self.smallest_crop = files, image_size, smallest_crop

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        import torch
        from PIL import Image

        path, label, _ = self.files[index]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        image = image.crop(stream.crop_box(np.random, *image.size, self.smallest_crop))
        image = np.array(image.resize((self.image_size,) * 2, Image.Resampling.BILINEAR), copy=True)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous().float().div(255), label


def our_loading(config, dataset: sources.Dataset) -> Step:
    """An epoch of a streamed set's batches, on the device."""
    feed = dataset.feed(Devices(**config.parallel), config.augment.resized_crop)

    def epoch():
        for (batch,) in feed.train(config.seed, 0, 0, config.data.batch_size):
            jax.block_until_ready(batch)

    return epoch


def torch_loader(dataset, batch_size: int, workers: int, train: bool = True):
    """A DataLoader of an indexed dataset; of a training split in a drawn order, without an incomplete last batch."""
    import torch

    # Workers by spawn, and kept: a fork of a process in which JAX has threads may hang.
    options = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    return torch.utils.data.DataLoader(dataset, batch_size, shuffle=train, drop_last=train, num_workers=workers,
                                       **options)


def torch_loading(config, dataset: sources.Dataset, workers: int) -> Step:
    """The same by DataLoader."""
    files = ImageFolder(dataset.splits["train"], config.data.image_size, config.augment.resized_crop)
    loader = torch_loader(files, config.data.batch_size, workers)
    return lambda: [None for _ in loader]


def tf_loading(config, dataset: sources.Dataset) -> Step:
    """The same by tf.data, which decodes no more of a file than the crop; antialiased as the others are."""
    import tensorflow as tf

    files, size = dataset.splits["train"], config.data.image_size

    def load(path, label):
        content = tf.io.read_file(path)
        box, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(content), tf.zeros([0, 0, 4]), aspect_ratio_range=stream.RATIOS,
            area_range=(config.augment.resized_crop, 1.0), max_attempts=stream.TRIES, min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True)
        image = tf.io.decode_and_crop_jpeg(content, tf.concat([box[:2], shape[:2]], 0), channels=3)
        return tf.cast(tf.round(tf.image.resize(image, (size, size), antialias=True)), tf.uint8), label

    batches = (tf.data.Dataset.from_tensor_slices(([str(path) for path in files.paths], files.labels))
               .shuffle(len(files)).map(load, tf.data.AUTOTUNE, deterministic=True)
               .batch(config.data.batch_size, drop_remainder=True).prefetch(stream.AHEAD))
    return lambda: [None for _ in batches.as_numpy_iterator()]


def compare_loading(config, peers: Sequence[str], rounds: int) -> list[dict]:
    """As `epochs.compare_epochs`, of a streamed folder's batches alone, without training.

    Raises:
      UserError: the config does not stream random crops of a folder.
    """
    if not (config.data.stream and config.augment.resized_crop and config.data.source.startswith("folder:")):
        raise UserError("--loading times random crops of a streamed folder: add --config.data.source=folder:DIR "
                        "--config.data.stream=true --config.data.image_size=224 --config.augment.resized_crop=0.08")
    dataset = sources.load(config.data)
    runners = {"ours": our_loading(config, dataset)}
    if "torch" in peers:
        runners |= {f"torch, {workers} workers": torch_loading(config, dataset, workers)
                    for workers in (0, os.cpu_count())}
    if "tf.data" in peers:
        runners["tf.data"] = tf_loading(config, dataset)
    size = dataset.spec.sizes["train"]
    return [{"phase": "loading", "model": "none", "batch_size": config.data.batch_size,
             "image_shape": list(dataset.spec.image_shape), "dtype": "uint8", **numbers, "ready_s": 0.0,
             "images_per_second": size // config.data.batch_size * config.data.batch_size / numbers["median_ms"] * 1e3}
            for numbers in summarize(in_turn(runners, rounds, 1))]
