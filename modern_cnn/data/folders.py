"""Folders of the user's own image files: which folder is a split, which is a class, and their images."""
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from modern_cnn.data.decoding import IMAGE_ENDINGS, check_memory, decode, in_threads, to_rgb
from modern_cnn.data.spec import Arrays, Files
from modern_cnn.errors import UserError


def files_under(directory: str | Path, parents: frozenset = frozenset()) -> Iterator[os.DirEntry]:
    """Yield every file under a directory, in a fixed order, without hidden ones; links are followed, not in circles."""
    stat = os.stat(directory)
    if (stat.st_dev, stat.st_ino) in parents:  # the directories above, for the recursion
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from files_under(entry.path, parents | {(stat.st_dev, stat.st_ino)})
        elif entry.is_file() or entry.is_symlink():  # the reader reports a link to nothing
            yield entry


def _subfolders(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_folder(directory: Path) -> tuple[dict[str, Files], list[str]]:
    """Return ({split: its files}, class names) of the user's own images: DIR/split/class/file or DIR/class/file.

    Splits are called train, validation (or val) and test. If there is a validation but no test split, as in ImageNet,
    it is used as the test split. The classes are the folders of train in alphabetical order. Raise UserError for a
    folder that is not a class, or one without images.
    """
    names = {"train": "train", "validation": "validation", "test": "test", "val": "validation"}
    top = _subfolders(directory)
    roots = {split: directory / name for name, split in names.items() if name in top}
    if "train" not in top:
        roots = {"train": directory}
    elif "test" not in roots and "validation" in roots:
        roots["test"] = roots.pop("validation")
    classes = _subfolders(roots["train"])
    if not classes:
        raise UserError(f"{roots['train']} has no class folders: images are expected as DIR/split/class/file or "
                        "DIR/class/file")
    splits = {}
    for split, root in roots.items():
        paths, labels = [], []
        for name in _subfolders(root):
            if name not in classes:
                raise UserError(f"{root / name}: the class {name!r} is not among those of {roots['train']}: "
                                f"{', '.join(classes)}")
            paths += [entry.path for entry in files_under(root / name) if entry.name.lower().endswith(IMAGE_ENDINGS)]
            labels += [classes.index(name)] * (len(paths) - len(labels))
        if not paths:
            raise UserError(f"{root} holds no images (looked in its class folders for {', '.join(IMAGE_ENDINGS)})")
        splits[split] = Files(list(map(Path, paths)), np.array(labels, np.int32))
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
    decoded = {split: in_threads(partial(decode, size=size), files.paths, f"decoding {split}")
               for split, files in listed.items()}
    shapes = {image.shape[:2]: path for split, images in decoded.items()
              for image, path in zip(images, listed[split].paths, strict=True)}
    if len(shapes) > 1:
        (a, first), (b, second), *_ = shapes.items()
        raise UserError(f"images differ in size: {first} is {a[1]}x{a[0]}, {second} is {b[1]}x{b[0]}; "
                        "set --config.data.image_size=N to resize them all to NxN")
    gray = all(image.ndim == 2 for images in decoded.values() for image in images)
    return {split: Arrays(np.stack([image[..., None] if gray else to_rgb(image) for image in images]),
                          listed[split].labels) for split, images in decoded.items()}, classes
