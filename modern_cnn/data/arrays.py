"""Data sets and NumPy arrays, for notebooks: `modern_cnn.data.load` and `modern_cnn.data.from_arrays`."""
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modern_cnn import buckets, settings, zoo
from modern_cnn.data import Pair, augment, cache, sources
from modern_cnn.data.spec import Arrays, Spec, normalization
from modern_cnn.errors import UserError, parse_json


def from_arrays(train: Pair, test: Pair, validation: Pair | None = None, *, class_names: Sequence[str] = (),
                normalize: str = "unit") -> sources.Dataset:
    """Return a data set of (images uint8 [N, H, W, C], labels int [N]) for each split, for `training.program.Program`.

    The labels are 0 to K - 1, for K `class_names`, or else up to the largest label of `train`. `normalize` is as in
    config.data. Raise UserError for arrays of another type or shape, or a label out of range.
    """
    settings.check_fields("data", {"normalize": normalize})
    given = {"train": train, "validation": validation, "test": test}
    splits = {split: _checked(split, *pair) for split, pair in given.items() if pair is not None}
    images, labels = splits["train"]
    names = tuple(class_names) or tuple(map(str, range(int(labels.max()) + 1)))
    for split, (its, numbers) in splits.items():
        if its.shape[1:] != images.shape[1:]:
            raise UserError(f"the images of {split} are {its.shape[1:]}, and those of train {images.shape[1:]}")
        if numbers.min() < 0 or numbers.max() >= len(names):
            raise UserError(f"the labels of {split} are {numbers.min()} to {numbers.max()}, and there are {len(names)} "
                            f"classes, 0 to {len(names) - 1}")
    sizes = {split: len(numbers) for split, (_, numbers) in splits.items()}
    shape = (images.shape[1], images.shape[2], images.shape[3])
    spec = Spec("arrays", "arrays", shape, len(names), names, sizes, *normalization(normalize, images),
                cache.digest(splits))
    return sources.Dataset(spec, splits)


def _checked(split: str, images: Any, labels: Any) -> Arrays:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(f"the images of {split} are {images.dtype} {[*images.shape]}, and must be uint8 [N, H, W, C], "
                        "pixels from 0 to 255: gray images are images[..., None]")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise UserError(f"the labels of {split} are {labels.dtype} {[*labels.shape]}, and must be whole numbers, one "
                        f"for each of {len(images)} images")
    return Arrays(images, labels.astype(np.int32))


def load_arrays(source: str, split: str = "test", like: str | Path = "",
                **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (images float32 [N, H, W, C], normalised, and labels int32 [N]) of a split of a data set in memory.

    `fields` are others of the `data` section: image_size=28, normalize="standard". With `like`, the workdir of a run or
    zoo:NAME, size, channels, normalisation and the numbers of the classes are those that its network has learnt; and
    the splits of the run's own source are those of the run. Raise UserError if there is no such set, split, field or
    zoo network, if `like` is no workdir, if the images do not fit its network, or if those of its own source have
    changed and the split may hold images that it was trained on.
    """
    settings.check_fields("data", fields)
    if like:
        dataset, trained = _load_like(source, split, like, fields)
        mean, std, shape = trained.mean, trained.std, trained.image_shape
    else:
        dataset = sources.load(settings.Data(source, **fields))
        mean, std, shape = dataset.spec.mean, dataset.spec.std, dataset.spec.image_shape
    if split not in dataset.splits:
        raise UserError(f"{source} has no split {split!r}, only {', '.join(dataset.splits)}")
    images, labels = dataset.splits[split]
    images = images if images.shape[1:] == shape else augment.enlarge(images, shape[0])
    return np.asarray(augment.normalize(images, mean, std)), labels


def _load_like(source: str, split: str, like: str | Path, fields: dict[str, Any]) -> tuple[sources.Dataset, Spec]:
    """Return (a data set as the network of a run takes it, the description of the data that it was trained on)."""
    try:
        name = zoo.named(like)
        files = zoo.card(name) if name else {file: parse_json(buckets.read(like, f"{file}.json"))
                                             for file in ("config", "run")}
        section, trained = settings.from_json(files["config"]).data, Spec.from_json(files["run"]["data"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{like} is not the workdir of a run: cannot read its files ({e})") from e
    shape = trained.image_shape
    own = bool(trained.digest) and sources.is_same(source, trained)
    if own:
        section = dataclasses.replace(section, source=source, stream=False, balanced=False, **fields)
    else:
        square: dict[str, Any] = {"image_size": shape[0], "resize": section.resize} if shape[0] == shape[1] else {}
        section = settings.Data(source, **square | fields)
    dataset = sources.load(section, shape[2])
    its = dataset.spec.image_shape
    if its[2] != shape[2] or (its != shape and shape[0] != shape[1]):
        raise UserError(f"{source}: its images are {[*its]}, and {like} takes {[*shape]}")
    if own:
        sources.check_unchanged(dataset, trained, split)
    return (dataset if dataset.spec.class_names == trained.class_names else dataset.relabel(trained.class_names),
            trained)
