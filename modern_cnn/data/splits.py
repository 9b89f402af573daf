"""Divisions of a training split, stratified and always the same: test, validation, and a smaller training split."""
import hashlib
import logging
from typing import TypeVar

import numpy as np

from modern_cnn.data.spec import Arrays, Files, Records
from modern_cnn.errors import UserError
from modern_cnn.settings import Data

log = logging.getLogger(__name__)

AnySplit = TypeVar("AnySplit", Arrays, Files, Records)

TEST_FRACTION = 0.2  # of the training images, held out if a source has no test split


def stratified_holdout(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the sorted indices of `count` examples, each class in proportion (largest remainders first)."""
    classes, sizes = np.unique(labels, return_counts=True)
    quota, remainder = np.divmod(sizes * count, len(labels))
    order = np.lexsort((-remainder, quota + 1 == sizes))  # a class's only remaining example goes last
    quota[order[:count - quota.sum()]] += 1
    random = np.random.RandomState(0)  # its streams are frozen across numpy versions
    chosen = [random.permutation(np.flatnonzero(labels == c))[:q] for c, q in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


def keep(train: AnySplit, kept: np.ndarray, reason: str) -> AnySplit:
    """Return the examples `kept` of a split. Raise UserError, which gives the reason, if a class has none of them."""
    emptied = np.setdiff1d(train.labels, train.labels[kept])
    if len(emptied):
        raise UserError(f"{reason} would leave none of class {emptied[0]} to train on")
    return train.take(kept)


def _hold_out(splits: dict[str, AnySplit], name: str, count: int, reason: str) -> dict[str, AnySplit]:
    """Return splits with `count` of the training images as the split `name`."""
    train = splits["train"]
    held = stratified_holdout(train.labels, count)
    rest = np.setdiff1d(np.arange(len(train.labels)), held)
    reason = f"{reason}: holding out {count} of {len(train.labels)} training images"
    return splits | {"train": keep(train, rest, reason), name: train.take(held)}


def hold_out_test(splits: dict[str, AnySplit], source: str, count: int = 0) -> dict[str, AnySplit]:
    """Return splits with a test split: the source's own, or `count` training images (0: TEST_FRACTION of them)."""
    if "test" in splits:
        return splits
    count = count or max(1, round(TEST_FRACTION * len(splits["train"].labels)))
    return _hold_out(splits, "test", count, f"{source} has no test split")


def warn_of_copies(splits: dict[str, Arrays], source: str) -> None:
    """Let the log say how many images of another split are equal to one of train, to the last pixel."""
    train = splits["train"].images
    rows, columns = (-(-side // 8) for side in train.shape[1:3])

    def thumbs(images: np.ndarray) -> list[bytes]:  # a few pixels of each image find the candidates
        return [thumb.tobytes() for thumb in images[:, ::rows, ::columns]]

    def whole(images: np.ndarray, among: set[bytes]) -> list[bytes]:
        return [hashlib.sha256(np.ascontiguousarray(image).data).digest()
                for image, thumb in zip(images, thumbs(images), strict=True) if thumb in among]

    for split in splits.keys() - {"train"}:
        images = splits[split].images
        if images.shape[1:] != train.shape[1:]:
            continue
        both = set(thumbs(images)) & set(thumbs(train))
        known = set(whole(train, both))
        if copies := sum(digest in known for digest in whole(images, both)):
            log.warning("%s: %d of the %d %s images are copies of training images: remove them, or keep each with its "
                        "copies in one of the folders train and test", source, copies, len(images), split)


def divide_train(splits: dict[str, AnySplit], config: Data) -> dict[str, AnySplit]:
    """Return splits with a share held out to validate, and so many to train on. Raise UserError if a class has none."""
    if config.validation:
        size = len(splits["train"].labels)
        count, asked = round(config.validation * size), f"config.data.validation={config.validation}"
        if "validation" in splits:
            raise UserError(f"{config.source} has a validation split of its own; set --config.data.validation=0")
        if not 0 < count < size:
            raise UserError(f"{asked} of {size} training images is {count}: no split")
        splits = _hold_out(splits, "validation", count, asked)
    if config.train_size:
        train, count, asked = splits["train"], config.train_size, f"config.data.train_size={config.train_size}"
        if not 0 < count <= len(train.labels):
            raise UserError(f"{asked}: {config.source} has {len(train.labels)} training images")
        reason = f"{asked} of the {len(train.labels)} training images of {config.source}"
        splits = splits | {"train": keep(train, stratified_holdout(train.labels, count), reason)}
    return splits
