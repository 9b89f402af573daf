"""Epochs of a config, ours and those of peers: training with its data and evaluation, or only the loading of images."""
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from PIL import Image

from modern_cnn.data import augment, decoding, sources, streamed
from modern_cnn.data.spec import Arrays, Files
from modern_cnn.errors import UserError, lookup
from modern_cnn.runs import loop
from modern_cnn.settings import Settings
from modern_cnn.training.devices import Devices
from modern_cnn.training.program import Program
from scripts.bench.steps import torch_packages
from scripts.bench.timing import Case, Records, Runner, along, compare


@dataclasses.dataclass
class Pictures:
    """A set as torchvision's are, with ToTensor: `load(index)` gives a PIL image, which becomes float [C, H, W]."""
    count: int
    load: Callable[[int], tuple[Image.Image, int]]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        import torch

        image, label = self.load(index)
        pixels = np.array(image)
        tensor = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()
        return tensor.float().div(255), label


def load_picture(images: Any, labels: Any, image_size: int, index: int) -> tuple[Image.Image, int]:
    """Return an image of a split in memory as torchvision's FashionMNIST and CIFAR10 do, resized, and its label."""
    return decoding.resize(Image.fromarray(np.asarray(images[index])), image_size), int(labels[index])


def load_crop(files: Files, random: np.random.RandomState, image_size: int, smallest: float,
              index: int) -> tuple[Image.Image, int]:
    """Return an image as torchvision's ImageFolder with RandomResizedCrop does, and its label."""
    path, label, _ = files[index]
    with open(path, "rb") as file:
        image = Image.open(file).convert("RGB")
    image = image.crop(augment.crop_box(random, *image.size, smallest))
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR), label


def torch_loader(pictures: Any, batch_size: int, workers: int, train: bool = True) -> Any:
    """Return a DataLoader; for training shuffled, without the incomplete last batch."""
    import torch

    # Workers are spawned and kept: a fork of a process in which JAX has threads may hang.
    return torch.utils.data.DataLoader(
        pictures, batch_size, shuffle=train, drop_last=train, num_workers=workers, persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None)


def our_epoch(config: Settings) -> Runner:
    """Return an epoch of `runs.loop.fit`, without the records of a run, and the evaluation on the test split."""
    start = time.perf_counter()
    program = Program(config, sources.load(config.data))
    state, step = program.init(), 0

    def epoch() -> float:
        nonlocal state, step
        step += program.plan.steps_per_epoch
        state = loop.fit(program, state=state, until=step).state
        return program.evaluate(state, "test").means(program.spec.num_classes)["loss"]

    return Runner(epoch, time.perf_counter() - start)


def torch_epoch(config: Settings, workers: int, channels_last: bool = False) -> Runner:
    """Return an epoch of a PyTorch program as it is usually written: a Dataset of PIL images in a DataLoader.

    `workers` processes load images. Channels-last is the order of dimensions that is faster on CPUs than the default.
    Raise UserError if PyTorch or the twins of the networks are missing, or the config streams its images.
    """
    torch, torch_net = torch_packages()
    if options := [name for name, value in config.model.items() if name != "name" and value is not None]:
        raise UserError(f"the peer torch has no option {options[0]!r} of a network: leave config.model.{options[0]} as "
                        "it is, or leave out the peer with --peer=")
    start = time.perf_counter()
    dataset = sources.load(config.data)
    loaders = {}
    for split in ("train", "test"):
        arrays = dataset.splits[split]
        if not isinstance(arrays, Arrays):
            raise UserError("the peer torch holds all images in memory: set --config.data.stream=false, or leave out "
                            "the peer with --peer=")
        images, labels = map(np.asarray, arrays)
        gray = images.shape[3] == 1  # FashionMNIST holds two tensors, CIFAR10 an array and a list
        held = (torch.tensor(images[..., 0]), torch.tensor(labels)) if gray else (images, labels.tolist())
        pictures = Pictures(len(labels), partial(load_picture, *held, config.data.image_size))
        loaders[split] = torch_loader(pictures, config.data.batch_size, workers, train=split == "train")
    net = torch_net(config.model["name"], dataset.spec.num_classes, dataset.spec.image_shape[2])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), config.optimizer.learning_rate)

    def score(logits, y):
        """Return the loss, the sum of the losses, and the number of right answers: what our metrics count."""
        loss = torch.nn.functional.cross_entropy(logits, y)
        return loss, loss.item() * len(y), int((logits.argmax(1) == y).sum())

    def epoch() -> float:
        net.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            loss, *_ = score(net(x.contiguous(memory_format=layout)), y)
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            losses = [score(net(x), y)[1] for x, y in loaders["test"]]
        return sum(losses) / dataset.spec.sizes["test"]

    return Runner(epoch, time.perf_counter() - start)


def our_loading(config: Settings, dataset: sources.Dataset) -> Runner:
    """Return what brings an epoch of a streamed set's batches to the device."""
    feed = dataset.feed(Devices(**dataclasses.asdict(config.parallel)), config.augment.resized_crop)

    def epoch() -> None:
        for (batch,) in feed.train(config.seed, 0, 0, config.data.batch_size):
            jax.block_until_ready(batch)

    return Runner(epoch)


def torch_loading(config: Settings, files: Files, workers: int) -> Runner:
    """Return what loads the same epoch by DataLoader."""
    load = partial(load_crop, files, np.random.RandomState(0), config.data.image_size, config.augment.resized_crop)
    loader = torch_loader(Pictures(len(files), load), config.data.batch_size, workers)
    return Runner(lambda: [None for _ in loader])


def tf_loading(config: Settings, files: Files) -> Runner:
    """Return what loads the same epoch by tf.data: it decodes only a JPEG's crop, and resizes antialiased as all do."""
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
    return Runner(lambda: [None for _ in batches.as_numpy_iterator()])


def compare_epochs(config: Settings, peers: Sequence[str], rounds: int, loading: bool = False) -> Records:
    """Return a record of our epoch and of each peer's, or of the loading of its images; the first does not count.

    PyTorch loads without workers, and with one for each core; it also trains channels-last. Raise UserError for a peer
    that is unknown or lacks its packages, or a config that cannot be trained, or loads no streamed random crops.
    """
    workers = {f"torch, {count} workers": count for count in (0, os.cpu_count() or 1)}
    streams = config.data.stream and config.augment.resized_crop and config.data.source.startswith("folder:")
    if loading and not streams:
        raise UserError("--loading times random crops of a streamed folder: add --config.data.source=folder:DIR "
                        "--config.data.stream=true --config.data.image_size=224 --config.augment.resized_crop=0.08")
    dataset, size = sources.load(config.data), config.data.batch_size
    spec, files = dataset.spec, dataset.splits["train"]
    if loading:
        makers, images = {"ours": partial(our_loading, dataset=dataset)}, spec.sizes["train"] // size * size
        torch = {who: partial(torch_loading, files=files, workers=count) for who, count in workers.items()}
        known = {"torch": torch, "tf.data": {"tf.data": partial(tf_loading, files=files)}}
    else:
        makers, images = {"ours": our_epoch}, spec.sizes["train"]
        torch = {who: partial(torch_epoch, workers=count) for who, count in workers.items()}
        known = {"torch": torch | {"torch, channels-last": partial(torch_epoch, workers=0, channels_last=True)}}
    for peer in peers:
        makers |= lookup(known, peer, "peer")
    runners = {who: make(config) for who, make in along(makers.items(), "getting ready")}
    phase, model, dtype = ("loading", "none", "uint8") if loading else (
        "epoch", config.model["name"], config.model.get("dtype") or "float32")
    return compare(phase, Case(model, size, spec.image_shape, dtype), runners, rounds, 1, images)
