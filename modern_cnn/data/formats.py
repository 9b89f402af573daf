"""Readers of image files: each returns the splits of one data set as arrays, or says which file is wrong.

A reader returns `(splits, class_names)`; `splits` maps 'train', 'test' and perhaps 'validation' to `(images, labels)`:
uint8 [N, H, W, C] and int32 [N]. A reader whose source has no test split leaves it out.
"""
import gzip
import io
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from modern_cnn.errors import UserError

Split = tuple[np.ndarray, np.ndarray]
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def check_memory(what: str, count: int, height: int, width: int) -> None:
    """All images are held decoded in memory: refuse at once what could not fit, rather than after an hour.

    Raises:
      UserError: `count` RGB images of `height` x `width` are more than half of the machine's memory.
    """
    needed = count * height * width * 3
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory / 2:
        raise UserError(f"{what}: {count:,} images of {width}x{height} decode to {needed / 2**30:.1f} GiB, more than "
                        f"half of this machine's {memory / 2**30:.1f} GiB of memory; set a smaller "
                        "--config.data.image_size, or decode them as training goes: --config.data.stream=true")


def files_under(directory: str | Path, parents: frozenset = frozenset()) -> Iterator[os.DirEntry]:
    """Every file under a directory in a fixed order: links are followed, but not in circles; hidden ones left out."""
    stat = os.stat(directory)
    if (stat.st_dev, stat.st_ino) in parents:
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from files_under(entry.path, parents | {(stat.st_dev, stat.st_ino)})
        elif entry.is_file() or entry.is_symlink():  # a link to nothing is for the reader to complain about
            yield entry


def kept(size: int, *shapes: tuple[int, ...]) -> bool:
    """Whether images of these shapes [..., H, W, C] are held as they are: as wanted, or for the device to enlarge."""
    return not size or all(max(shape[-3:-1]) <= size for shape in shapes)


def centred(side: int, shorter: int, size: int) -> tuple[int, int]:
    """(its new length, first pixel kept) of an image's side where the `shorter` one becomes `size` pixels."""
    length = max(size, round(side * size / shorter))
    return length, (length - size) // 2


def resize(image: Image.Image, size: int) -> Image.Image:
    """Bilinear with antialiasing on the 8-bit image: the shorter side to `size`, then the centre `size` x `size`.

    On square images this is the textbook's and torchvision's Resize. `size` 0 leaves the image alone.
    """
    if not size or image.size == (size, size):
        return image
    (width, left), (height, top) = (centred(side, min(image.size), size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


def resize_array(images: np.ndarray, size: int, what: str) -> np.ndarray:
    """`resize` over uint8 [N, H, W, C]; `what` names them if they will not fit into memory."""
    if not size or images.shape[1:3] == (size, size):
        return images
    check_memory(what, len(images), size, size)
    squeeze = images.shape[3] == 1

    def one(image):
        return np.asarray(resize(Image.fromarray(image[:, :, 0] if squeeze else image), size))

    with ThreadPoolExecutor() as pool:
        out = np.stack(list(tqdm(pool.map(one, images), f"resizing to {size}x{size}", len(images), leave=False,
                                 disable=None, unit="img")))
    return out[..., None] if squeeze else out


def _read(path: Path) -> bytes:
    """A file's bytes, gunzipped if they are gzipped whatever the file is called."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{path} is a damaged gzip file ({e}); fetch it again") from e
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from e


def _files(directory: Path, wanted: dict[str, tuple[str, ...]], what: str) -> dict[str, Path]:
    """For each key the one file of `directory` that matches one of its patterns."""
    found, missing = {}, []
    for key, patterns in wanted.items():
        matches = sorted({path for pattern in patterns for path in directory.glob(pattern) if path.is_file()})
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise UserError(f"{directory} has more than one file for {key}: {names}; leave one of them there")
        if matches:
            found[key] = matches[0]
        else:
            missing.append(patterns[0])
    if missing:
        raise UserError(f"{directory} is not {what}: missing {', '.join(missing)}")
    return found


def _idx(path: Path, ndim: int, what: str) -> np.ndarray:
    data = _read(path)
    magic = int.from_bytes(data[:4], "big")
    if magic != 0x0800 + ndim:
        raise UserError(f"{path} does not hold {what}: it starts with {magic:#06x} where {0x0800 + ndim:#06x} is "
                        "expected")
    shape = tuple(int.from_bytes(data[4 + 4 * i:8 + 4 * i], "big") for i in range(ndim))
    expected, got = int(np.prod(shape, dtype=np.int64)), len(data) - 4 - 4 * ndim
    if got != expected:
        raise UserError(f"{path} is truncated or damaged: its header promises {expected:,} bytes of {what}, it has "
                        f"{got:,}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def read_idx(directory: Path) -> tuple[dict[str, Split], list[str]]:
    """MNIST-format files (LeCun's IDX), gzipped or not: train-images-idx3-ubyte and its three siblings."""
    def patterns(prefixes, kind):
        return tuple(f"*{prefix}*{kind}*" for prefix in prefixes)

    files = _files(directory, {
        "training images": ("train-images-idx3-ubyte*", *patterns(("train",), "images[-.]idx3")),
        "training labels": ("train-labels-idx1-ubyte*", *patterns(("train",), "labels[-.]idx1")),
        "test images": ("t10k-images-idx3-ubyte*", *patterns(("t10k", "test"), "images[-.]idx3")),
        "test labels": ("t10k-labels-idx1-ubyte*", *patterns(("t10k", "test"), "labels[-.]idx1")),
    }, "a folder of MNIST-format (IDX) files")
    splits = {}
    for split, name in (("train", "training"), ("test", "test")):
        images = _idx(files[f"{name} images"], 3, "images")
        labels = _idx(files[f"{name} labels"], 1, "labels")
        if len(images) != len(labels):
            raise UserError(f"{files[f'{name} images']} has {len(images):,} images but {files[f'{name} labels']} "
                            f"has {len(labels):,} labels")
        splits[split] = images[..., None], labels.astype(np.int32)
    return splits, []


class _ArraysOnly(pickle.Unpickler):
    """CIFAR's python batches are pickles: load numpy arrays and plain data, never code."""
    ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
                         ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")})

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(path: Path) -> dict:
    try:
        content = _ArraysOnly(io.BytesIO(_read(path)), encoding="latin1").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except UserError:
        raise
    except Exception as e:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is not a CIFAR python batch: {e}") from e


def _cifar_images(path: Path, rows: np.ndarray) -> np.ndarray:
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise UserError(f"{path} is not a CIFAR batch: it holds {rows.dtype} {rows.shape} where uint8 [N, 3072] is "
                        "expected")
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _cifar_python(path: Path) -> Split:
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
    return images, labels


def _cifar_binary(path: Path, label_bytes: int) -> Split:
    data = np.frombuffer(_read(path), np.uint8)
    record = label_bytes + 3072
    if len(data) % record:
        raise UserError(f"{path} is truncated or damaged: {len(data):,} bytes is not a whole number of {record}-byte "
                        "records")
    rows = data.reshape(-1, record)
    return _cifar_images(path, rows[:, label_bytes:]), rows[:, label_bytes - 1].astype(np.int32)


def read_cifar(directory: Path) -> tuple[dict[str, Split], list[str]]:
    """CIFAR-10 or CIFAR-100, python or binary version, in the folder that their archives unpack to, or its parent."""
    unpacked = [directory / name for name in ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python",
                                              "cifar-100-binary") if (directory / name).is_dir()]
    if len(unpacked) > 1:
        raise UserError(f"{directory} holds several data sets: say one of "
                        f"{', '.join(f'cifar:{path}' for path in unpacked)}")
    directory = unpacked[0] if unpacked else directory
    ten = tuple(f"data_batch_{i}" for i in range(1, 6))
    layouts = [  # training files, test file, reader, names file, number of classes
        (ten, "test_batch", _cifar_python, "batches.meta", 10),
        (tuple(f"{name}.bin" for name in ten), "test_batch.bin", lambda path: _cifar_binary(path, 1),
         "batches.meta.txt", 10),
        (("train",), "test", _cifar_python, "meta", 100),
        (("train.bin",), "test.bin", lambda path: _cifar_binary(path, 2), "fine_label_names.txt", 100),
    ]
    present = [sum((directory / name).is_file() for name in (*train, test)) for train, test, *_ in layouts]
    best = int(np.argmax(present))
    train, test, read, names_file, classes = layouts[best]
    missing = [name for name in (*train, test) if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory} is not an unpacked CIFAR archive, python or binary: missing {', '.join(missing)}")
    parts = {name: read(directory / name) for name in (*train, test)}
    for name, (_, labels) in parts.items():
        if len(labels) and (labels.min() < 0 or labels.max() >= classes):
            wrong = int(np.argmax((labels < 0) | (labels >= classes)))
            raise UserError(f"{directory / name}: label {labels[wrong]} of image {wrong} is outside the {classes} "
                            "classes")
    splits = {"train": tuple(np.concatenate([parts[name][i] for name in train]) for i in (0, 1)), "test": parts[test]}
    return splits, _cifar_class_names(directory / names_file, classes)


def _cifar_class_names(path: Path, classes: int) -> list[str]:
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


def decode(file: Path | io.BytesIO, size: int, cut: Callable[[Image.Image], Image.Image] | None = None,
           name: str = "") -> np.ndarray:
    """An image file as uint8 [H, W], if it is grayscale, or [H, W, 3].

    Args:
      file: its path, or its bytes, which `name` names.
      size: `resize` to this; 0 leaves the image alone.
      cut: instead of `resize`, what makes another image of the decoded one.
    Raises:
      UserError: it does not decode.
    """
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode.startswith("I;16"):  # Pillow's own conversion would cut at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode in ("I", "F"):
                raise ValueError(f"its pixels have 32 bits (mode {image.mode}); convert it to 8 bits")
            gray = image.mode in ("1", "L")
            if image.mode == "P":  # straight to RGB, transparent palettes warn
                image = image.convert("RGBA")
            if image.mode != (mode := "L" if gray else "RGB"):  # convert would copy
                image = image.convert(mode)
            return np.asarray(cut(image) if cut else resize(image, size))
    except Exception as e:  # a damaged image can raise nearly anything
        raise UserError(f"{name or file} does not decode as an image: {e}; repair or remove it") from e


def _decode_all(paths: list[Path], size: int, split: str) -> list[np.ndarray]:
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(lambda path: decode(path, size), paths), f"decoding {split}", len(paths),
                         leave=False, disable=None, unit="img"))


def list_folder(directory: Path) -> tuple[dict[str, list[tuple[Path, int]]], list[str]]:
    """({split: [(path, label)]}, class names) of one's own images as DIR/split/class/file or DIR/class/file.

    Splits are called train, validation (or val) and test; where there is no test but a validation split, as in
    ImageNet, that is the test split. Classes are the folders of train in alphabetical order.

    Raises:
      UserError: a folder where none belongs, or one without images.
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
    listed = {}
    for split, root in roots.items():
        for name in _subfolders(root):
            if name not in classes:
                raise UserError(f"{root / name}: the class {name!r} is not among those of {roots['train']}: "
                                f"{', '.join(classes)}")
        listed[split] = [(Path(entry.path), label) for label, name in enumerate(classes) if (root / name).is_dir()
                         for entry in files_under(root / name) if entry.name.lower().endswith(IMAGE_ENDINGS)]
        if not listed[split]:
            raise UserError(f"{root} holds no images (looked in its class folders for {', '.join(IMAGE_ENDINGS)})")
    empty = set(range(len(classes))) - {label for _, label in listed["train"]}
    if empty:
        raise UserError(f"{roots['train'] / classes[min(empty)]} holds no images to train on (looked for "
                        f"{', '.join(IMAGE_ENDINGS)}); a class folder needs some, any other folder has no place there")
    return listed, classes


def read_folder(directory: Path, size: int) -> tuple[dict[str, Split], list[str]]:
    """The images of `list_folder`, resized to `size` if it is not 0: grayscale if every one of them is, else RGB."""
    listed, classes = list_folder(directory)
    shape = (size, size) if size else decode(listed["train"][0][0], 0).shape[:2]
    check_memory(str(directory), sum(map(len, listed.values())), *shape)
    decoded = {split: _decode_all([path for path, _ in files], size, split) for split, files in listed.items()}
    shapes = {image.shape[:2]: path for split, images in decoded.items()
              for image, (path, _) in zip(images, listed[split], strict=True)}
    if len(shapes) > 1:
        (a, first), (b, second), *_ = shapes.items()
        raise UserError(f"images differ in size: {first} is {a[1]}x{a[0]}, {second} is {b[1]}x{b[0]}; "
                        "set --config.data.image_size=N to resize them all to NxN")
    gray = all(image.ndim == 2 for images in decoded.values() for image in images)
    splits = {}
    for split, images in decoded.items():
        images = [image[..., None] if gray else in_color(image) for image in images]
        splits[split] = np.stack(images), np.array([label for _, label in listed[split]], np.int32)
    return splits, classes


def in_color(image: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 3] -> [H, W, 3]."""
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image


def read_digits() -> tuple[dict[str, Split], list[str]]:
    """The 1,797 handwritten 8x8 digits inside scikit-learn (UCI Optdigits, its test part), 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return {"train": (images, digits.target.astype(np.int32))}, [str(i) for i in range(10)]


READERS: dict[str, Callable] = {"idx": read_idx, "cifar": read_cifar, "folder": read_folder}
