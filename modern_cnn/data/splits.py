"""Divisions of a training split, stratified and always the same: test, validation, and a smaller training split."""
from typing import TypeVar

import numpy as np

from modern_cnn.data.spec import Arrays, Files, Records
from modern_cnn.errors import UserError
from modern_cnn.settings import Data

AnySplit = TypeVar("AnySplit", Arrays, Files, Records)

TEST_FRACTION = 0.2  # of the training images, held out if a source has no test split


def stratified_holdout(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Return the sorted indices of `count` examples, each class in proportion (largest remainders first).

    They depend on the labels and `seed` alone.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    quota, remainder = np.divmod(sizes * count, len(labels))
    order = np.lexsort((-remainder, quota + 1 == sizes))  # a class's only remaining example goes last
    quota[order[:count - quota.sum()]] += 1
    random = np.random.RandomState(seed)  # its streams are frozen across numpy versions
    chosen = [random.permutation(np.flatnonzero(labels == c))[:q] for c, q in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


def _hold_out(train: AnySplit, labels: np.ndarray, count: int, reason: str) -> tuple[AnySplit, AnySplit]:
    """Return (the rest, a stratified holdout of `count`). Raise UserError if no example of a class would be left."""
    indices = stratified_holdout(labels, count)
    rest = np.setdiff1d(np.arange(len(labels)), indices)
    emptied = np.setdiff1d(labels, labels[rest])
    if len(emptied):
        raise UserError(f"{reason}: holding out {count} of {len(labels)} training images would leave none of class "
                        f"{emptied[0]} to train on")
    return train.take(rest), train.take(indices)


def hold_out_test(splits: dict[str, AnySplit], source: str, count: int = 0) -> dict[str, AnySplit]:
    """Return splits with a test split: the source's own, or one held out of its training images.

    Args:
      source: for error messages.
      count: images to hold out; 0: TEST_FRACTION of them.
    """
    if "test" in splits:
        return splits
    labels = splits["train"].labels
    count = count or max(1, round(TEST_FRACTION * len(labels)))
    train, test = _hold_out(splits["train"], labels, count, f"{source} has no test split")
    return splits | {"train": train, "test": test}


def _hold_out_validation(splits: dict[str, AnySplit], fraction: float, source: str) -> dict[str, AnySplit]:
    """Return splits with a fraction of the training images as 'validation'."""
    if not 0 < fraction < 1:
        raise UserError(f"config.data.validation={fraction} is not a fraction between 0 and 1")
    if "validation" in splits:
        raise UserError(f"{source} has a validation split of its own; set --config.data.validation=0")
    labels = splits["train"].labels
    count = round(fraction * len(labels))
    if not 0 < count < len(labels):
        raise UserError(f"config.data.validation={fraction} of {len(labels)} training images is {count}: no split")
    train, validation = _hold_out(splits["train"], labels, count, f"config.data.validation={fraction}")
    return splits | {"train": train, "validation": validation}


def _shrink_train(splits: dict[str, AnySplit], count: int, source: str) -> dict[str, AnySplit]:
    """Return splits with only `count` of the training images."""
    labels = splits["train"].labels
    if not 0 < count <= len(labels):
        raise UserError(f"config.data.train_size={count}: {source} has {len(labels)} training images")
    kept = stratified_holdout(labels, count)
    absent = np.setdiff1d(labels, labels[kept])
    if len(absent):
        raise UserError(f"config.data.train_size={count} of the {len(labels)} training images of {source} would leave "
                        f"none of class {absent[0]}")
    return splits | {"train": splits["train"].take(kept)}


def divide_train(splits: dict[str, AnySplit], config: Data) -> dict[str, AnySplit]:
    """Return splits with `config.validation` held out, and no more than `config.train_size` images to train on.

    Raises:
      UserError: more images than there are, or so few that a class has none.
    """
    if config.validation:
        splits = _hold_out_validation(splits, config.validation, config.source)
    return _shrink_train(splits, config.train_size, config.source) if config.train_size else splits
