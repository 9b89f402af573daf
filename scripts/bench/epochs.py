"""Epochs of a config, with their data and the evaluation on the test split: ours, and those of a PyTorch program."""
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from modern_cnn.data import decoding, sources
from modern_cnn.data.spec import Arrays
from modern_cnn.errors import UserError
from modern_cnn.runs import loop
from modern_cnn.settings import Settings
from modern_cnn.training.program import Program
from scripts.bench.loading import torch_loader
from scripts.bench.steps import torch_packages
from scripts.bench.timing import Runner, compare


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


class Images:
    """A split as torchvision's FashionMNIST has it, or for colour images its CIFAR10, with ToTensor.

    Each image goes by way of PIL to a float tensor [C, H, W].
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, image_size: int):
        import torch

        grey = images.shape[3] == 1  # FashionMNIST holds two tensors, CIFAR10 an array and a list
        self.images = torch.tensor(images[..., 0]) if grey else images
        self.labels = torch.tensor(labels) if grey else labels.tolist()
        self.image_size = image_size

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        import torch
        from PIL import Image

        pixels, label = self.images[index], int(self.labels[index])
        image = Image.fromarray(np.asarray(pixels))
        image = np.array(decoding.resize(image, self.image_size), copy=True)
        tensor = torch.from_numpy(image.reshape(*image.shape[:2], -1)).permute(2, 0, 1).contiguous()
        return tensor.float().div(255), label


def torch_epoch(config: Settings, workers: int, channels_last: bool = False) -> Runner:
    """Return an epoch of a PyTorch program as it is usually written: a Dataset of PIL images in a DataLoader.

    Args:
      config: of the run.
      workers: processes that load images.
      channels_last: the order of dimensions that is faster on CPUs, instead of PyTorch's default.
    Raises:
      UserError: PyTorch or the twins of the networks are missing, or the config streams its images.
    """
    torch, torch_net = torch_packages()
    start = time.perf_counter()
    dataset = sources.load(config.data)
    loaders = {}
    for split in ("train", "test"):
        arrays = dataset.splits[split]
        if not isinstance(arrays, Arrays):
            raise UserError("the peer torch holds all images in memory: set --config.data.stream=false, or leave out "
                            "the peer with --peer=")
        images = Images(np.asarray(arrays.images), np.asarray(arrays.labels), config.data.image_size)
        loaders[split] = torch_loader(images, config.data.batch_size, workers, train=split == "train")
    net = torch_net(config.model["name"], dataset.spec.num_classes, dataset.spec.image_shape[2])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), config.optimizer.learning_rate)
    cross_entropy = torch.nn.functional.cross_entropy

    def score(logits, y):
        """Return the loss, the sum of the losses, and the number of right answers: what our metrics count."""
        loss = cross_entropy(logits, y)
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


def compare_epochs(config: Settings, peers: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return a record of our epoch and of each peer's, as `timing.compare` has them; the first epoch does not count.

    Args:
      config: of the run.
      peers: only 'torch': without workers, with one for each core, and without workers channels-last.
      rounds: epochs of each, or more where they take less than a turn.
    Raises:
      UserError: the config cannot be trained, or PyTorch is missing.
    """
    runners = {"ours": our_epoch(config)}
    if "torch" in peers:
        runners |= {f"torch, {workers} workers": torch_epoch(config, workers) for workers in (0, os.cpu_count() or 1)}
        runners["torch, channels-last"] = torch_epoch(config, 0, channels_last=True)
    spec = sources.load(config.data).spec
    return compare(runners, rounds, 1, spec.sizes["train"], phase="epoch", model=config.model["name"],
                   batch_size=config.data.batch_size, image_shape=list(spec.image_shape), dtype="float32")
