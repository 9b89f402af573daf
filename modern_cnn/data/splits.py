"""Parts of a training split, stratified and fixed: held out for testing and validation, or all that is trained on."""
import numpy as np

from modern_cnn.errors import UserError


def stratified_holdout(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Sorted indices of `count` examples, each class in its share (largest remainders first). Fixed by `seed` alone."""
    classes, sizes = np.unique(labels, return_counts=True)
    quota, remainder = np.divmod(sizes * count, len(labels))
    order = np.lexsort((-remainder, quota + 1 == sizes))  # a class's only remaining example goes last
    quota[order[:count - quota.sum()]] += 1
    random = np.random.RandomState(seed)  # its streams are frozen across numpy versions
    chosen = [random.permutation(np.flatnonzero(labels == c))[:q] for c, q in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


def _split_off(labels: np.ndarray, count: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of (the rest, a stratified holdout of `count`). Raises UserError if that would leave none of a class."""
    out = stratified_holdout(labels, count)
    rest = np.setdiff1d(np.arange(len(labels)), out)
    emptied = np.setdiff1d(labels, labels[rest])
    if len(emptied):
        raise UserError(f"{source}: holding out {count} of {len(labels)} training images would leave none of class "
                        f"{emptied[0]} to train on")
    return rest, out


def _take(split, indices: np.ndarray):
    return split.take(indices) if hasattr(split, "take") else tuple(array[indices] for array in split)


def hold_out_test(splits: dict, labels: np.ndarray, count: int, source: str) -> None:
    """Makes a test split of some of the training images of a source that has none."""
    parts = _split_off(labels, count, f"{source} has no test split")
    splits["train"], splits["test"] = (_take(splits["train"], indices) for indices in parts)


def _hold_out_validation(splits: dict, labels: np.ndarray, fraction: float, source: str) -> dict:
    """`splits` with a share of the training images as 'validation'."""
    if not 0 < fraction < 1:
        raise UserError(f"config.data.validation={fraction} is not a fraction between 0 and 1")
    if "validation" in splits:
        raise UserError(f"{source} has a validation split of its own; set --config.data.validation=0")
    count = round(fraction * len(labels))
    if not 0 < count < len(labels):
        raise UserError(f"config.data.validation={fraction} of {len(labels)} training images is {count}: no split")
    parts = _split_off(labels, count, f"config.data.validation={fraction}")
    train = splits["train"]
    return splits | {name: _take(train, part) for name, part in zip(("train", "validation"), parts, strict=True)}


def _keep_train(splits: dict, labels: np.ndarray, count: int, source: str) -> dict:
    """`splits` with `count` of the training images as 'train'; the others are not used."""
    if not 0 < count <= len(labels):
        raise UserError(f"config.data.train_size={count}: {source} has {len(labels)} training images")
    kept = stratified_holdout(labels, count)
    absent = np.setdiff1d(labels, labels[kept])
    if len(absent):
        raise UserError(f"config.data.train_size={count} of the {len(labels)} training images of {source} would leave "
                        f"none of class {absent[0]}")
    return splits | {"train": _take(splits["train"], kept)}


def divide_train(splits: dict, config) -> dict:
    """`splits` as a config's `data` section asks: its `validation` held out, then no more than `train_size` kept.

    Raises:
      UserError: more than there is, or so few that a class has none.
    """
    for divide, amount in ((_hold_out_validation, config.validation),
                           (_keep_train, getattr(config, "train_size", 0))):  # earlier versions' runs did not have it
        if amount:
            train = splits["train"]
            splits = divide(splits, train[1] if isinstance(train, tuple) else train.labels, amount, config.source)
    return splits
