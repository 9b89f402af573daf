"""Readers of data set files: each returns the splits of one set as arrays, or says which file is wrong.

A reader returns `(splits, class_names)`. `splits` maps 'train', 'test' and perhaps 'validation' to `Arrays`; a source
without a test split has none here. `class_names` is empty if the source has no names.
"""
import gzip
import io
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from modern_cnn.data.decoding import IMAGE_ENDINGS, check_memory, decode, decode_all, to_rgb
from modern_cnn.data.spec import Arrays, Files
from modern_cnn.errors import UserError


def files_under(directory: str | Path, parents: frozenset = frozenset()) -> Iterator[os.DirEntry]:
    """Yield every file under a directory, in a fixed order, without hidden ones.

    Links are followed, but not in circles: `parents` are the directories above, for the recursion.
    """
    stat = os.stat(directory)
    if (stat.st_dev, stat.st_ino) in parents:
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from files_under(entry.path, parents | {(stat.st_dev, stat.st_ino)})
        elif entry.is_file() or entry.is_symlink():  # the reader reports a link to nothing
            yield entry


def _read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is gzip, whatever its name."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{path} is a damaged gzip file ({e}); fetch it again") from e
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from e


def _find_files(directory: Path, wanted: dict[str, tuple[str, ...]], what: str) -> dict[str, Path]:
    """Return, for each key, the only file of `directory` that matches one of its patterns."""
    found, missing = {}, []
    for key, patterns in wanted.items():
        matches = sorted({path for pattern in patterns for path in directory.glob(pattern) if path.is_file()})
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise UserError(f"{directory} has more than one file for {key}: {names}; keep one of them")
        if matches:
            found[key] = matches[0]
        else:
            missing.append(patterns[0])
    if missing:
        raise UserError(f"{directory} is not {what}: missing {', '.join(missing)}")
    return found


def _read_idx_file(path: Path, ndim: int, what: str) -> np.ndarray:
    """Return the uint8 array of one IDX file, with `ndim` axes."""
    data = _read_bytes(path)
    magic = int.from_bytes(data[:4], "big")
    if magic != 0x0800 + ndim:
        raise UserError(f"{path} does not hold {what}: it starts with {magic:#06x}, expected {0x0800 + ndim:#06x}")
    shape = tuple(int.from_bytes(data[4 + 4 * i:8 + 4 * i], "big") for i in range(ndim))
    expected, got = int(np.prod(shape, dtype=np.int64)), len(data) - 4 - 4 * ndim
    if got != expected:
        raise UserError(f"{path} is truncated or damaged: its header promises {expected:,} bytes of {what}, it has "
                        f"{got:,}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def read_idx(directory: Path) -> tuple[dict[str, Arrays], list[str]]:
    """Read files in MNIST's format (LeCun's IDX), gzipped or not: train-images-idx3-ubyte and its three siblings."""
    def patterns(prefixes, kind):
        return tuple(f"*{prefix}*{kind}*" for prefix in prefixes)

    files = _find_files(directory, {
        "training images": ("train-images-idx3-ubyte*", *patterns(("train",), "images[-.]idx3")),
        "training labels": ("train-labels-idx1-ubyte*", *patterns(("train",), "labels[-.]idx1")),
        "test images": ("t10k-images-idx3-ubyte*", *patterns(("t10k", "test"), "images[-.]idx3")),
        "test labels": ("t10k-labels-idx1-ubyte*", *patterns(("t10k", "test"), "labels[-.]idx1")),
    }, "a folder of MNIST-format (IDX) files")
    splits = {}
    for split, name in (("train", "training"), ("test", "test")):
        images = _read_idx_file(files[f"{name} images"], 3, "images")
        labels = _read_idx_file(files[f"{name} labels"], 1, "labels")
        if len(images) != len(labels):
            raise UserError(f"{files[f'{name} images']} has {len(images):,} images but {files[f'{name} labels']} "
                            f"has {len(labels):,} labels")
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
    try:
        content = _ArraysOnly(io.BytesIO(_read_bytes(path)), encoding="latin1").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except UserError:
        raise
    except Exception as e:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is not a CIFAR python batch: {e}") from e


def _cifar_images(path: Path, rows: np.ndarray) -> np.ndarray:
    """Return rows of all red, all green, all blue pixels as images [N, 32, 32, 3]."""
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise UserError(f"{path} is not a CIFAR batch: it holds {rows.dtype} {rows.shape}, expected uint8 [N, 3072]")
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _read_cifar_python(path: Path) -> Arrays:
    batch = _unpickle(path)
    labels = batch.get("labels", batch.get("fine_labels"))
    if labels is None or "data" not in batch:
        raise UserError(f"{path} is not a CIFAR python batch: it has no 'data' or no 'labels'")
    try:
        images, labels = _cifar_images(path, np.asarray(batch["data"])), np.asarray(labels, np.int32).ravel()
    except (TypeError, OverflowError) as e:
        raise UserError(f"{path} is not a CIFAR python batch: {e}") from e
    if len(images) != len(labels):
        raise UserError(f"{path} has {len(images):,} images but {len(labels):,} labels")
    return Arrays(images, labels)


def _read_cifar_binary(path: Path, label_bytes: int) -> Arrays:
    """Return a binary batch; the last of the `label_bytes` before an image is its class."""
    data = np.frombuffer(_read_bytes(path), np.uint8)
    record = label_bytes + 3072
    if len(data) % record:
        raise UserError(f"{path} is truncated or damaged: {len(data):,} bytes is not a whole number of {record}-byte "
                        "records")
    rows = data.reshape(-1, record)
    return Arrays(_cifar_images(path, rows[:, label_bytes:]), rows[:, label_bytes - 1].astype(np.int32))


def read_cifar(directory: Path) -> tuple[dict[str, Arrays], list[str]]:
    """Read CIFAR-10 or CIFAR-100, python or binary version, from the folder of the unpacked archive or its parent."""
    unpacked = [directory / name for name in ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python",
                                              "cifar-100-binary") if (directory / name).is_dir()]
    if len(unpacked) > 1:
        raise UserError(f"{directory} holds several data sets: choose one of "
                        f"{', '.join(f'cifar:{path}' for path in unpacked)}")
    directory = unpacked[0] if unpacked else directory
    ten = tuple(f"data_batch_{i}" for i in range(1, 6))
    layouts = [  # training files, test file, reader, names file, number of classes
        (ten, "test_batch", _read_cifar_python, "batches.meta", 10),
        (tuple(f"{name}.bin" for name in ten), "test_batch.bin", partial(_read_cifar_binary, label_bytes=1),
         "batches.meta.txt", 10),
        (("train",), "test", _read_cifar_python, "meta", 100),
        (("train.bin",), "test.bin", partial(_read_cifar_binary, label_bytes=2), "fine_label_names.txt", 100),
    ]
    present = [sum((directory / name).is_file() for name in (*train, test)) for train, test, *_ in layouts]
    train, test, read, names_file, classes = layouts[int(np.argmax(present))]
    missing = [name for name in (*train, test) if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory} is not an unpacked CIFAR archive, python or binary: missing {', '.join(missing)}")
    parts = {name: read(directory / name) for name in (*train, test)}
    for name, (_, labels) in parts.items():
        if len(labels) and (labels.min() < 0 or labels.max() >= classes):
            wrong = int(np.argmax((labels < 0) | (labels >= classes)))
            raise UserError(f"{directory / name}: label {labels[wrong]} of image {wrong} is outside the {classes} "
                            "classes")
    whole = Arrays(np.concatenate([parts[name].images for name in train]),
                   np.concatenate([parts[name].labels for name in train]))
    return {"train": whole, "test": parts[test]}, _cifar_class_names(directory / names_file, classes)


def _cifar_class_names(path: Path, classes: int) -> list[str]:
    """Return the class names in a file; none if it is missing or has another number of names."""
    if not path.is_file():
        return []
    if path.suffix == ".txt":
        names = path.read_text().split()
    else:
        meta = _unpickle(path)
        names = list(meta.get("label_names", meta.get("fine_label_names", [])))
    return names if len(names) == classes else []


def _subfolders(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_folder(directory: Path) -> tuple[dict[str, Files], list[str]]:
    """Return ({split: its files}, class names) of the user's own images: DIR/split/class/file or DIR/class/file.

    Splits are called train, validation (or val) and test. If there is a validation but no test split, as in ImageNet,
    it is used as the test split. The classes are the folders of train in alphabetical order.

    Raises:
      UserError: a folder that is not a class, or one without images.
    """
    top = _subfolders(directory)
    if "train" in top:
        folders = {"train": "train"} | {name: name for name in ("validation", "test") if name in top}
        if "val" in top:
            folders["validation"] = "val"
        if "test" not in folders and "validation" in folders:
            folders["test"] = folders.pop("validation")
        roots = {split: directory / name for split, name in folders.items()}
    else:
        roots = {"train": directory}
    classes = _subfolders(roots["train"])
    if not classes:
        raise UserError(f"{roots['train']} has no class folders: images are expected as DIR/split/class/file or "
                        "DIR/class/file")
    splits = {}
    for split, root in roots.items():
        for name in _subfolders(root):
            if name not in classes:
                raise UserError(f"{root / name}: the class {name!r} is not among those of {roots['train']}: "
                                f"{', '.join(classes)}")
        found = [(Path(entry.path), label) for label, name in enumerate(classes) if (root / name).is_dir()
                 for entry in files_under(root / name) if entry.name.lower().endswith(IMAGE_ENDINGS)]
        if not found:
            raise UserError(f"{root} holds no images (looked in its class folders for {', '.join(IMAGE_ENDINGS)})")
        splits[split] = Files([path for path, _ in found], np.array([label for _, label in found], np.int32))
    empty = np.setdiff1d(np.arange(len(classes)), splits["train"].labels)
    if len(empty):
        raise UserError(f"{roots['train'] / classes[empty[0]]} holds no images to train on (looked for "
                        f"{', '.join(IMAGE_ENDINGS)}); add some, or move the folder away if it is not a class")
    return splits, classes


def read_folder(directory: Path, size: int) -> tuple[dict[str, Arrays], list[str]]:
    """Read the images of `list_folder`, resized to `size` unless it is 0: grayscale if all of them are, else RGB."""
    listed, classes = list_folder(directory)
    shape = (size, size) if size else decode(listed["train"].paths[0], 0).shape[:2]
    check_memory(str(directory), sum(map(len, listed.values())), *shape)
    decoded = {split: decode_all(files.paths, size, split) for split, files in listed.items()}
    shapes = {image.shape[:2]: path for split, images in decoded.items()
              for image, path in zip(images, listed[split].paths, strict=True)}
    if len(shapes) > 1:
        (a, first), (b, second), *_ = shapes.items()
        raise UserError(f"images differ in size: {first} is {a[1]}x{a[0]}, {second} is {b[1]}x{b[0]}; "
                        "set --config.data.image_size=N to resize them all to NxN")
    gray = all(image.ndim == 2 for images in decoded.values() for image in images)
    splits = {split: Arrays(np.stack([image[..., None] if gray else to_rgb(image) for image in images]),
                            listed[split].labels) for split, images in decoded.items()}
    return splits, classes


def read_digits() -> tuple[dict[str, Arrays], list[str]]:
    """Read scikit-learn's 1,797 handwritten 8x8 digits (the test part of UCI Optdigits), 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return {"train": Arrays(images, digits.target.astype(np.int32))}, [str(i) for i in range(10)]


READERS: dict[str, Callable] = {"idx": read_idx, "cifar": read_cifar, "folder": read_folder}
