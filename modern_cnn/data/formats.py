"""Readers of data set files: each returns (splits, class names) of one set, or says which file is wrong.

Where a source has no test split or no class names, there are none.
"""
import gzip
import io
import math
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modern_cnn.data.folders import read_folder
from modern_cnn.data.spec import Arrays
from modern_cnn.errors import UserError


def _read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is gzip, whatever its name."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{path} is a damaged gzip file ({e}); fetch it again") from e
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from e


def _read_idx_file(path: Path, ndim: int, what: str) -> np.ndarray:
    """Return the uint8 array of one IDX file, with `ndim` axes."""
    data = _read_bytes(path)
    magic = int.from_bytes(data[:4], "big")
    if magic != 0x0800 + ndim:
        raise UserError(f"{path} does not hold {what}: it starts with {magic:#06x}, expected {0x0800 + ndim:#06x}")
    header = 4 + 4 * ndim
    shape = [int.from_bytes(data[start:start + 4], "big") for start in range(4, header, 4)]
    if len(data) - header != math.prod(shape):
        raise UserError(f"{path} is truncated or damaged: its header promises {math.prod(shape):,} bytes of {what}, it "
                        f"has {len(data) - header:,}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_idx(directory: Path) -> tuple[dict[str, Arrays], list[str]]:
    """Read files in MNIST's format (LeCun's IDX), gzipped or not: train-images-idx3-ubyte and its three siblings."""
    files, missing = {}, []
    for split, prefix, title in (("train", "train", "training"), ("test", "t10k", "test")):
        for what, ndim in (("images", 3), ("labels", 1)):
            found = sorted({path for word in (prefix, split) for path in directory.glob(f"*{word}*{what}[-.]idx{ndim}*")
                            if path.is_file()})
            if len(found) > 1:
                raise UserError(f"{directory} has more than one file for {title} {what}: "
                                f"{', '.join(path.name for path in found)}; keep one of them")
            if not found:
                missing.append(f"{prefix}-{what}-idx{ndim}-ubyte*")
            files[split, what] = found
    if missing:
        raise UserError(f"{directory} is not a folder of MNIST-format (IDX) files: missing {', '.join(missing)}")
    splits = {}
    for split in ("train", "test"):
        (images_file,), (labels_file,) = files[split, "images"], files[split, "labels"]
        images, labels = _read_idx_file(images_file, 3, "images"), _read_idx_file(labels_file, 1, "labels")
        if len(images) != len(labels):
            raise UserError(f"{images_file} has {len(images):,} images but {labels_file} has {len(labels):,} labels")
        splits[split] = Arrays(images[..., None], labels.astype(np.int32))
    return splits, []


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of CIFAR's python batches that loads numpy arrays and plain data, and never runs code."""
    ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
                         ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")})

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module_name}.{global_name}")
        return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)


def _unpickle(path: Path) -> dict[str, Any]:
    data = io.BytesIO(_read_bytes(path))
    try:
        content = _ArraysOnly(data, encoding="latin1").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except Exception as e:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is not a CIFAR python batch: {e}") from e


def _read_cifar_python(path: Path) -> Arrays:
    """Return the rows of a python batch, uint8 [N, 3072], and its labels."""
    batch = _unpickle(path)
    labels = batch.get("labels", batch.get("fine_labels"))
    if labels is None or "data" not in batch:
        raise UserError(f"{path} is not a CIFAR python batch: it has no 'data' or no 'labels'")
    try:
        rows, labels = np.asarray(batch["data"]), np.asarray(labels, np.int32).ravel()
    except (TypeError, OverflowError) as e:
        raise UserError(f"{path} is not a CIFAR python batch: {e}") from e
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise UserError(f"{path} is not a CIFAR batch: it holds {rows.dtype} {rows.shape}, expected uint8 [N, 3072]")
    if len(rows) != len(labels):
        raise UserError(f"{path} has {len(rows):,} images but {len(labels):,} labels")
    return Arrays(rows, labels)


def _read_cifar_binary(path: Path, label_bytes: int) -> Arrays:
    """Return the rows of a binary batch, and their labels: the last of the `label_bytes` before an image."""
    data = np.frombuffer(_read_bytes(path), np.uint8)
    record = label_bytes + 3072
    if len(data) % record:
        raise UserError(f"{path} is truncated or damaged: {len(data):,} bytes is not a whole number of {record}-byte "
                        "records")
    rows = data.reshape(-1, record)
    return Arrays(rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int32))


def read_cifar(directory: Path) -> tuple[dict[str, Arrays], list[str]]:
    """Read CIFAR-10 or CIFAR-100, python or binary version, from the folder of the unpacked archive or its parent."""
    ten = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    layouts = [  # folder, files (the last for testing), bytes before a binary image, file of names, number of classes
        ("cifar-10-batches-py", ten, 0, "batches.meta", 10),
        ("cifar-10-batches-bin", [f"{name}.bin" for name in ten], 1, "batches.meta.txt", 10),
        ("cifar-100-python", ["train", "test"], 0, "meta", 100),
        ("cifar-100-binary", ["train.bin", "test.bin"], 2, "fine_label_names.txt", 100),
    ]
    unpacked = [directory / folder for folder, *_ in layouts if (directory / folder).is_dir()]
    if len(unpacked) > 1:
        raise UserError(f"{directory} holds several data sets: choose one of "
                        f"{', '.join(f'cifar:{path}' for path in unpacked)}")
    directory = unpacked[0] if unpacked else directory
    _, files, label_bytes, names_file, classes = max(
        layouts, key=lambda layout: sum((directory / name).is_file() for name in layout[1]))
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory} is not an unpacked CIFAR archive, python or binary: missing {', '.join(missing)}")
    parts = []
    for path in (directory / name for name in files):
        rows, labels = _read_cifar_binary(path, label_bytes) if label_bytes else _read_cifar_python(path)
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            raise UserError(f"{path}: label {labels[wrong[0]]} of image {wrong[0]} is outside the {classes} classes")
        # A row holds all red, all green, all blue pixels.
        parts.append(Arrays(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels))
    *train, test = parts
    whole = Arrays(*(np.concatenate(arrays) for arrays in zip(*train, strict=True)))
    path, names = directory / names_file, []
    if path.is_file() and path.suffix == ".txt":
        names = path.read_text().split()
    elif path.is_file():
        meta = _unpickle(path)
        names = list(meta.get("label_names", meta.get("fine_label_names", [])))
    return {"train": whole, "test": test}, names if len(names) == classes else []


def read_digits() -> tuple[dict[str, Arrays], list[str]]:
    """Read scikit-learn's 1,797 handwritten 8x8 digits (the test part of UCI Optdigits), 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return {"train": Arrays(images, digits.target.astype(np.int32))}, [str(i) for i in range(10)]


READERS: dict[str, Callable] = {"idx": read_idx, "cifar": read_cifar, "folder": read_folder}
