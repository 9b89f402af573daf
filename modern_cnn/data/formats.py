"""Readers of data set files: each returns (splits, class names), where a set has them, or says which file is wrong."""
import gzip
import hashlib
import logging
import math
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modern_cnn.data import unpickle
from modern_cnn.data.decoding import IMAGE_ENDINGS as IMAGE_ENDINGS  # so that they can be imported from here too
from modern_cnn.data.decoding import decode as decode
from modern_cnn.data.folders import read_folder
from modern_cnn.data.spec import Arrays
from modern_cnn.data.tables import read_csv
from modern_cnn.errors import UserError, some

log = logging.getLogger(__name__)

MOST, RATIO = 2**28, 20  # bytes that any gzip file may become, and times its size that a large one may


def _read_bytes(path: Path, count: int = sys.maxsize) -> bytes:
    """Return the first `count` bytes of a file, of gzip decompressed. Raise UserError if it swells as only traps do."""
    try:
        with open(path, "rb") as file:
            size, zipped = os.fstat(file.fileno()).st_size, file.read(2) == b"\x1f\x8b"
            file.seek(0)
            most = max(MOST, RATIO * size) if zipped else size
            data = (gzip.GzipFile(fileobj=file) if zipped else file).read(min(count, most + 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{path} is a damaged gzip file ({e}); fetch it again") from e
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from e
    if len(data) > most:
        raise UserError(f"{path} decompresses to more than {most:,} bytes; if that is right, unpack it with gunzip")
    return data


def _read_idx_file(path: Path, ndim: int, what: str) -> np.ndarray:
    """Return the uint8 array of one IDX file, with `ndim` axes."""
    start = 4 + 4 * ndim
    head = _read_bytes(path, start)
    magic, *shape = (int.from_bytes(head[i:i + 4], "big") for i in range(0, start, 4))
    if magic != 0x0800 + ndim:
        raise UserError(f"{path} does not hold {what}: it starts with {magic:#06x}, expected {0x0800 + ndim:#06x}")
    promised = start + math.prod(shape)
    data = _read_bytes(path, promised + 1)  # no more, whatever is in it
    if len(data) != promised:
        raise UserError(f"{path} is truncated or damaged: its header promises {promised - start:,} bytes of {what}, it "
                        f"has {'more' if len(data) > promised else 'fewer'}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_idx_part(directory: Path, split: str, what: str) -> tuple[Path, np.ndarray]:
    """Return the file of a split's images or labels, and its array."""
    prefix, ndim = {"train": "train", "test": "t10k"}[split], {"images": 3, "labels": 1}[what]
    found = sorted({path for word in (prefix, split) for path in directory.glob(f"*{word}*{what}[-.]idx{ndim}*")
                    if path.is_file()})
    if not found:
        raise UserError(f"{directory} is not a folder of MNIST-format (IDX) files: missing "
                        f"{prefix}-{what}-idx{ndim}-ubyte*")
    path, *others = found  # a file may lie there as it is and packed, as torchvision leaves it
    if others and [other.name for other in others] != [f"{path.name}.gz"]:
        raise UserError(f"{directory} has more than one file for {split} {what}: {some(path.name for path in found)}; "
                        "keep one of them")
    array, *packed = [_read_idx_file(each, ndim, what) for each in found]
    if packed and not np.array_equal(array, packed[0]):
        raise UserError(f"{path} and {path.name}.gz differ; keep the right one")
    return path, array


# Fashion-MNIST's files have no names of classes. Its labels tell it apart: the SHA-256 of those for training.
FASHION_LABELS = "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def read_idx(directory: Path) -> tuple[dict[str, Arrays], list[str]]:
    """Read files in MNIST's format (LeCun's IDX), gzipped or not: train-images-idx3-ubyte and its three siblings."""
    splits = {}
    for split in ("train", "test"):
        (of_images, images), (of_labels, labels) = (_read_idx_part(directory, split, what)
                                                    for what in ("images", "labels"))
        if len(images) != len(labels):
            raise UserError(f"{of_images} has {len(images):,} images but {of_labels} has {len(labels):,} labels")
        splits[split] = Arrays(images[..., None], labels.astype(np.int32))
    known = hashlib.sha256(splits["train"].labels.astype(np.uint8)).hexdigest() == FASHION_LABELS
    return splits, FASHION if known else []


def _unpickle(path: Path) -> dict[str, Any]:
    data = _read_bytes(path)
    try:
        return unpickle.loads(data)
    except Exception as e:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is not a CIFAR python batch: {str(e)[:200] or type(e).__name__}") from e


def _read_cifar_python(path: Path) -> Arrays:
    """Return the rows of a python batch, uint8 [N, 3072], and its labels."""
    batch = _unpickle(path)
    rows, labels = batch.get("data"), batch.get("labels", batch.get("fine_labels"))
    if isinstance(labels, list) and all(type(label) is int and abs(label) < 2**31 for label in labels):
        labels = np.array(labels, np.int64)
    if not (isinstance(rows, np.ndarray) and rows.dtype == np.uint8 and rows.shape[1:] == (3072,)
            and isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.size == len(rows)):
        raise UserError(f"{path} is not a CIFAR python batch: it must hold N images as 'data', uint8 [N, 3072], and N "
                        "whole numbers as 'labels'")
    return Arrays(rows, labels.ravel())


def _read_cifar_binary(path: Path, label_bytes: int) -> Arrays:
    """Return the rows of a binary batch, and their labels: the last of the `label_bytes` before an image."""
    data = np.frombuffer(_read_bytes(path), np.uint8)
    record = label_bytes + 3072
    if len(data) % record:
        raise UserError(f"{path} is truncated or damaged: {len(data):,} bytes is not a whole number of {record}-byte "
                        "records")
    rows = data.reshape(-1, record)
    return Arrays(rows[:, label_bytes:], rows[:, label_bytes - 1])


def _read_cifar_names(path: Path, classes: int) -> list[str]:
    """Return the names of the classes, none if there is no such file."""
    if not path.is_file():
        return []
    try:
        if path.suffix == ".txt":
            names = [line.strip() for line in _read_bytes(path).decode("utf-8-sig").splitlines() if line.strip()]
        else:
            meta: Any = _unpickle(path)
            names = meta.get("label_names", meta.get("fine_label_names", []))
            names = [name.decode() if isinstance(name, bytes) else name for name in names]
        if names and (len(names) != classes or not all(isinstance(name, str) for name in names)):
            raise TypeError
    except (UnicodeDecodeError, TypeError):
        raise UserError(f"{path} does not hold the names of {classes} classes, as UTF-8 text; mend it or move it "
                        "away") from None
    return names


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
        parts.append(Arrays(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.int32)))
    *sizes, last = (len(labels) for _, labels in parts)
    doubt = (f"{directory}: {', '.join(files)} have {', '.join(map(str, [*sizes, last]))} images, but those of the "
             f"original are {'equally long' if classes == 10 else '5 to 1'}: is one of them cut off?")
    if label_bytes and len(set(sizes)) > 1:
        raise UserError(doubt)
    if label_bytes and sizes[0] != last * (1 if classes == 10 else 5):
        log.warning("%s", doubt)
    *train, test = parts
    whole = Arrays(*(np.concatenate(arrays) for arrays in zip(*train, strict=True)))
    return {"train": whole, "test": test}, _read_cifar_names(directory / names_file, classes)


def read_digits() -> tuple[dict[str, Arrays], list[str]]:
    """Read scikit-learn's 1,797 handwritten 8x8 digits (the test part of UCI Optdigits), 0..16 scaled to 0..255."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images, labels = np.round(file["images"] * (255 / 16)).astype(np.uint8)[..., None], file["labels"]
    return {"train": Arrays(images, labels.astype(np.int32))}, [str(i) for i in range(10)]


READERS: dict[str, Callable] = {"idx": read_idx, "cifar": read_cifar, "folder": read_folder, "csv": read_csv}
