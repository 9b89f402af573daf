"""Epochs of a config, with their data and the scoring of the test split: ours, and a PyTorch program's."""
import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modern_cnn.data import formats, sources
from modern_cnn.runs import log as logs
from scripts.bench.loading import torch_loader
from scripts.bench.steps import torch_packages
from scripts.bench.timing import Step, in_turn, summarize


def our_epoch(config) -> tuple[Step, float]:
    """(an epoch of training, then the test split: what scripts/train.py does for a config; seconds to get ready)."""
    from modern_cnn.runs import loop

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        run = loop.Run(config, Path(directory))
        run.checkpoints.close()
        run.log.close()
    run.log = logs.RunLog(None, 0, run.plan.total_steps, run.plan.batch_size)  # no records: the peer writes none

    def epoch():
        run.plan = dataclasses.replace(run.plan, total_steps=run.step + run.plan.steps_per_epoch)
        run.train_epoch(lambda step: 0, profile=False)
        return run.score("test")["loss"]

    return epoch, time.perf_counter() - start


class Images:
    """A split as a PyTorch program has it, image by image: torchvision's FashionMNIST (of colour images its CIFAR10)
    with ToTensor, which go by way of PIL to a float tensor [C, H, W], and the label."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, image_size: int):
        import torch

        grey = images.shape[3] == 1  # there the images are tensors and so are the labels, else arrays and a list
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
        image = np.array(formats.resize(image, self.image_size), copy=True)
        tensor = torch.from_numpy(image.reshape(*image.shape[:2], -1)).permute(2, 0, 1).contiguous()
        return tensor.float().div(255), label


def torch_epoch(config, workers: int, channels_last: bool = False) -> tuple[Step, float]:
    """The usual loop of a PyTorch program: a Dataset of PIL images made tensors one by one, in a DataLoader.

    Usual is also PyTorch's own order of dimensions, channels first; on CPUs the other is faster.
    """
    torch, torch_net = torch_packages()
    start = time.perf_counter()
    dataset = sources.load(config.data)
    loaders = {split: torch_loader(Images(*map(np.asarray, dataset.splits[split]), config.data.image_size),
                                   config.data.batch_size, workers, train=split == "train")
               for split in ("train", "test")}
    net = torch_net(config.model.name, dataset.spec.num_classes, dataset.spec.image_shape[2])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), config.optimizer.learning_rate)
    cross_entropy = torch.nn.functional.cross_entropy

    def score(logits, y):
        """(loss, sum of the losses, how many are right): all is counted that we count."""
        loss = cross_entropy(logits, y)
        return loss, loss.item() * len(y), int((logits.argmax(1) == y).sum())

    def epoch():
        net.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            loss, *_ = score(net(x.contiguous(memory_format=layout)), y)
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            losses = [score(net(x), y)[1] for x, y in loaders["test"]]
        return sum(losses) / len(loaders["test"].dataset)

    return epoch, time.perf_counter() - start


def compare_epochs(config, peers: Sequence[str], rounds: int) -> list[dict]:
    """As `networks.compare`, of epochs with their data and the scoring of the test split; the first, with compilation,
    is left out. Of the peers only 'torch': without workers and with one a core, and without workers channels-last.
    """
    runners = {"ours": our_epoch(config)}
    if "torch" in peers:
        runners |= {f"torch, {workers} workers": torch_epoch(config, workers) for workers in (0, os.cpu_count())}
        runners["torch, channels-last"] = torch_epoch(config, 0, channels_last=True)
    times = in_turn({who: epoch for who, (epoch, _) in runners.items()}, rounds, 1)
    spec = sources.load(config.data).spec
    return [{"phase": "epoch", "model": config.model.name, "batch_size": config.data.batch_size,
             "image_shape": list(spec.image_shape), "dtype": "float32", **numbers,
             "images_per_second": spec.sizes["train"] / numbers["median_ms"] * 1e3,
             "ready_s": runners[numbers["who"]][1]} for numbers in summarize(times)]
