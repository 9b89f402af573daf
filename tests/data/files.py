"""Small data sets as files, and `load` for them."""
import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from modern_cnn.data import sources
from modern_cnn.settings import Data

IDX = {"train_images": "train-images-idx3-ubyte", "train_labels": "train-labels-idx1-ubyte",
       "test_images": "t10k-images-idx3-ubyte", "test_labels": "t10k-labels-idx1-ubyte"}


def load(source: str, **fields: Any) -> sources.Dataset:
    """Return the data set of a config's `data` section: its defaults, but for these fields."""
    return sources.load(Data(source, **fields))


def same(a: sources.Dataset, b: sources.Dataset) -> bool:
    """Return whether two data sets in memory are equal."""
    return a.spec == b.spec and all(np.array_equal(x, y) for split in a.splits
                                    for x, y in zip(a.splits[split], b.splits[split], strict=True))


def pixels(*shape, seed=0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def labels(count, classes=5) -> np.ndarray:
    return (np.arange(count) % classes).astype(np.uint8)


def idx_bytes(array) -> bytes:
    """Return an array uint8 in LeCun's format."""
    header = b"".join(n.to_bytes(4, "big") for n in (0x0800 + array.ndim, *array.shape))
    return header + array.astype(np.uint8).tobytes()


def write_idx(directory, *, zipped=True, names=IDX, **replaced) -> dict[str, np.ndarray]:
    """Write four MNIST-format files: 20 and 10 images of 6x5 in 5 classes, or the `replaced` arrays."""
    arrays = {"train_images": pixels(20, 6, 5), "train_labels": labels(20),
              "test_images": pixels(10, 6, 5, seed=1), "test_labels": labels(10)} | replaced
    Path(directory).mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        data = idx_bytes(array)
        Path(directory, names[key] + ".gz" * zipped).write_bytes(gzip.compress(data) if zipped else data)
    return arrays


def cifar_arrays(names, per_file=4, classes=10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {name: (images [N, 32, 32, 3], labels)}; all of them together have every class."""
    return {name: (pixels(per_file, 32, 32, 3, seed=i), (np.arange(per_file) + i * per_file) % classes)
            for i, name in enumerate(names)}


def cifar_rows(images) -> np.ndarray:
    """Return images as CIFAR stores them: all red, all green, all blue pixels."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


TEN = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def write_cifar10(directory, kind="python", per_file=4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write CIFAR-10's six files with some images each, 'python' or 'binary', and the names of the classes."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = cifar_arrays(TEN, per_file)
    names = [f"class{i}" for i in range(10)]
    for name, (images, targets) in arrays.items():
        if kind == "python":
            batch = {b"data": cifar_rows(images), b"labels": targets.tolist()}
            (directory / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            rows = np.concatenate([targets[:, None].astype(np.uint8), cifar_rows(images)], axis=1)
            (directory / f"{name}.bin").write_bytes(rows.tobytes())
    if kind == "python":
        (directory / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    else:
        (directory / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    return arrays


def write_images(directory, classes=("cat", "dog"), count=5, mode="RGB", size=(8, 6), ending=".png", seed=0) -> None:
    """Write `count` random images of each class; `size` is (width, height)."""
    for c, name in enumerate(classes):
        (Path(directory) / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = Image.fromarray(pixels(size[1], size[0], 3, seed=seed + 100 * c + i)).convert(mode)
            image.save(Path(directory) / name / f"{i}{ending}")


def write_shapes(directory, count=200) -> str:
    """Write `count` noisy 'photos' of coloured circles, squares and triangles, and return the source."""
    random, names = np.random.RandomState(0), ("circle", "square", "triangle")
    for i in range(count):
        name, (width, height) = names[i % 3], ((160, 120), (120, 160), (140, 140))[random.randint(3)]
        image = Image.new("RGB", (width, height), tuple(random.randint(60, 200, 3).tolist()))
        radius, color = int(random.randint(25, 50)), tuple(random.randint(0, 256, 3).tolist())
        x, y = (int(random.randint(radius, side - radius)) for side in (width, height))
        if name == "circle":
            ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        else:
            ImageDraw.Draw(image).regular_polygon((x, y, radius), 4 if name == "square" else 3, fill=color)
        noisy = np.clip(np.asarray(image) + random.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)
        (Path(directory) / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(Path(directory) / name / f"{i:03}.jpg")
    return f"folder:{directory}"


def write_digits(directory, count) -> str:
    """Write at most `count` of each split of the digits as PNGs of many sizes, and return the source."""
    for split, (images, numbers) in load("digits").splits.items():
        for i, (image, number) in enumerate(zip(images[:count], numbers[:count], strict=True)):
            path = directory / split / str(number) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).resize((20 + i % 7, 20 + i % 5)).save(path)
    return f"folder:{directory}"
