"""Exact evaluation: every example once. Of a state in training, and of a finished run from its workdir."""
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from modern_cnn import models
from modern_cnn.data import augment, sources
from modern_cnn.errors import UserError
from modern_cnn.training import steps
from modern_cnn.runs import workdir
from modern_cnn.runs.checkpoints import Checkpoints
from modern_cnn.training.devices import Devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)


def eval_function(spec: sources.Spec, feed, flip: bool = False) -> Callable:
    """(state, metrics, *arguments of the feed) -> metrics, with the batch's examples added, by `eval_step`."""
    def step(state, metrics, *args):
        batch = feed.eval_batch(*args)
        batch["image"] = augment.normalize(batch["image"], spec.mean, spec.std)
        return metrics.merge(steps.eval_step(state, batch, flip=flip))

    return step


def compile_eval(spec: sources.Spec, devices: Devices, feed, flip: bool = False) -> Callable:
    """`eval_function`, compiled."""
    return devices.on_every(eval_function(spec, feed, flip))


def evaluate(eval_fn: Callable, state: TrainState, feed, split: str, spec: sources.Spec, batch_size: int,
             devices: Devices) -> Metrics:
    """Metrics over every example of a split, each counted once."""
    metrics = devices.replicate(Metrics.empty())
    batch_size = -(-min(batch_size, spec.sizes[split]) // len(devices)) * len(devices)
    for args in feed.evaluation(split, batch_size):
        metrics = eval_fn(state, metrics, *args)
    return metrics


def load_run(directory: str | Path) -> tuple[Any, dict[str, Any], dict[str, Any], int]:
    """(module, variables, run.json, step) of a workdir's result: the best checkpoint on validation, or the last.

    Raises:
      UserError: not a workdir, or one without a good checkpoint.
    """
    directory = Path(directory)
    config, run = workdir.read_run(directory)
    module = models.build(**config["model"], num_classes=run["data"]["num_classes"])
    images = jnp.zeros((1, *run["data"]["image_shape"]))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    template = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    checkpoints = Checkpoints(directory, read_only=True)
    try:
        chosen, variables = checkpoints.result(template)
    finally:
        checkpoints.close()
    return module, variables, run, chosen


def evaluate_workdir(directory: str | Path, split: str = "test", data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Scores a workdir's result on a split of its data: {'accuracy', 'loss', 'count', ...}.

    Args:
      split: 'train', 'validation' or 'test'.
      data: fields of the config's data section to replace, e.g. {'source': 'idx:/elsewhere'}.
    Raises:
      UserError: no such split, or other classes or shapes than the network was trained on.
    """
    dataset = load_data(directory, split, data)
    module, variables, _, step = load_run(directory)
    spec, config = dataset.spec, workdir.read_run(Path(directory))[0]
    params = variables.pop("params")
    state = TrainState(np.int32(step), params, variables, (), module, None)
    devices = Devices()
    feed = dataset.feed(devices)
    flip = config.get("augment", {}).get("test_flip", False)  # older runs have no such field
    metrics = evaluate(compile_eval(spec, devices, feed, flip), devices.replicate(state), feed, split, spec,
                       config["data"]["batch_size"], devices)
    means = metrics.means(spec.num_classes)
    return {"split": split, "step": step, "accuracy": means["accuracy"], "loss": means["loss"],
            "count": int(metrics.count)} | means


def load_data(directory: str | Path, split: str, data: dict[str, Any] | None = None) -> sources.Dataset:
    """A run's data, or others, whose spec says how pixels were normalised in training.

    Args:
      data: as in `evaluate_workdir`.
    Raises:
      UserError: no such split, or other classes or shapes than the network was trained on.
    """
    config, run = workdir.read_run(Path(directory))
    section = ml_collections.ConfigDict(config["data"] | (data or {}))
    if not section.source:
        raise UserError(f"the weights in {directory} were imported without data: say which, --source=folder:DIR")
    dataset = sources.load(section)
    trained = run["data"]
    if [*dataset.spec.image_shape] != trained["image_shape"] or dataset.spec.num_classes != trained["num_classes"]:
        shape = [*dataset.spec.image_shape]
        raise UserError(f"{section.source} has {dataset.spec.num_classes} classes and {shape} images, "
                        f"but the network was trained on {trained['num_classes']} and {trained['image_shape']}")
    names, theirs = dataset.spec.class_names, tuple(trained["class_names"])
    unnamed = tuple(str(i) for i in range(len(names)))
    if names != theirs and unnamed not in (names, theirs):
        raise UserError(f"{section.source} has the classes {', '.join(names)}, but the network was trained on "
                        f"{', '.join(theirs)}")
    if not data and trained["digest"] and dataset.spec.digest != trained["digest"]:  # imported weights have none
        if split != "test":
            raise UserError(f"the images of {section.source} have changed since the run: what is {split} now may have "
                            "been something else in training")
        log.warning("the images of %s have changed since the run", section.source)
    if split not in dataset.splits:
        raise UserError(f"{section.source} has no split {split!r}, only {', '.join(dataset.splits)}")
    # Normalised as in training, also where the data are others.
    spec = dataclasses.replace(dataset.spec, mean=tuple(trained["mean"]), std=tuple(trained["std"]))
    return dataclasses.replace(dataset, spec=spec)


def examples(dataset: sources.Dataset, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [n, H, W, C] as the network sees them before normalisation, labels int32 [n]) of a split.

    Raises:
      UserError: an index beyond the split.
    """
    size = dataset.spec.sizes[split]
    outside = [index for index in indices if not 0 <= index < size]
    if outside:
        raise UserError(f"{dataset.spec.source} has no image {outside[0]}: its {split} split has {size:,}, from 0 on")
    chosen = dataset.splits[split]
    chosen = chosen.take(indices) if dataset.streamed else tuple(array[indices] for array in chosen)
    spec = dataclasses.replace(dataset.spec, sizes={split: len(indices)})
    feed = dataclasses.replace(dataset, spec=spec, splits={split: chosen}).feed(Devices(count=1))
    batches = [feed.eval_batch(*arguments) for arguments in feed.evaluation(split, min(len(indices), 128))]
    images, labels, mask = (np.concatenate([batch[name] for batch in batches]) for name in ("image", "label", "mask"))
    return images[mask], labels[mask]
