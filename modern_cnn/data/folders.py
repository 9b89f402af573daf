"""Folders of the user's own image files: which folder is a split, which is a class, and their images."""
import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modern_cnn.data.decoding import IMAGE_ENDINGS, check_memory, decode_all, decode_example, to_rgb
from modern_cnn.data.spec import Arrays, Files
from modern_cnn.errors import UserError, some

log = logging.getLogger(__name__)

ALSO = " (evaluate.py: --layout)"

# The words that name a split, and those that may stand beside them: Training, val2017, test-images, seg_train, ...
SPLITS = {"train": "train", "training": "train", "trn": "train", "val": "validation", "valid": "validation",
          "validation": "validation", "validate": "validation", "dev": "validation", "eval": "validation",
          "evaluation": "validation", "test": "test", "testing": "test", "tst": "test"}
BESIDE = {"", "set", "seg", "data", "dataset", "image", "images", "img", "imgs", "split", "folder"}


def split_of(name: str) -> str:
    """Return the split that a folder's name means, in capitals or not: 'train', 'validation' or 'test'; else ''."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # TrainData
    words = [word for word in re.split(r"[\W\d_]+", spaced.lower()) if word not in BESIDE]
    return SPLITS.get(words[0].removesuffix("set"), "") if len(words) == 1 else ""


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


def images_under(directory: str | Path) -> Iterator[str]:
    """Yield the path of every image file under a directory, as `files_under`."""
    return (entry.path for entry in files_under(directory) if entry.name.lower().endswith(IMAGE_ENDINGS))


def composed(name: str) -> str:
    """Return a class's name with composed characters: macOS may write é as e and an accent, Linux as one letter."""
    return unicodedata.normalize("NFC", name)


def _subfolders(directory: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith("."))


def _split_folders(directory: Path, layout: str) -> dict[str, Path]:
    """Return the folder of each split, that of 'train' if `directory` holds classes. Raise UserError if in doubt."""
    top = _subfolders(directory)
    named = [name for name in top if split_of(name)]
    if layout == "classes" or (layout == "auto" and not named):
        return {"train": directory}
    roots: dict[str, Path] = {}
    for name in named:
        split, root = split_of(name), directory / name
        if split in roots:
            raise UserError(f"{directory} holds {roots[split].name} and {name}, which are both names of the {split} "
                            "split: keep one of them; or if each folder is a class, set "
                            f"--config.data.layout=classes{ALSO}")
        within = _subfolders(root)  # archives often hold a folder in a folder of the same name: seg_train/seg_train
        roots[split] = root / within[0] if len(within) == 1 and split_of(within[0]) == split else root
    others = [name for name in top if name not in named and any(images_under(directory / name))]
    doubt = ("none is named like a training split" if "train" not in roots else
             f"some are named like splits, but not {some(others)}" if others and layout == "auto" else
             f"{roots['train']} has no class folders" if not _subfolders(roots["train"]) else "")
    if doubt:
        raise UserError(f"{directory} holds the folders {some(top)}: {doubt}. Set --config.data.layout=classes if each "
                        "of these folders is a class; or =splits if images are in train/CLASS, test/CLASS, and other "
                        f"folders are to be left out{ALSO}")
    if others:
        log.warning("%s: left out, as it is no split: %s", directory, some(others))
    if "test" not in roots and "validation" in roots:
        roots["test"] = roots.pop("validation")
    return roots


def _class_folders(root: Path, layout: str, reading: str) -> list[str]:
    """Return the classes in a training split. Raise UserError where the folders look like a set of their own."""
    classes = _subfolders(root)
    if not classes:
        raise UserError(f"{root} has no class folders: images are expected as DIR/split/class/file or DIR/class/file")
    below = {name: _subfolders(root / name) for name in classes}
    sets = [name for name in classes if len(classes) == 1 or "train" in map(split_of, below[name])]
    if sets and layout == "auto":
        within = below[sets[0]]
        raise UserError(f"{root} has {'one class folder only' if len(classes) == 1 else 'class folders like'} {sets[0]}"
                        + (f" with the folders {some(within)} in it: if these are its splits or classes, set "
                           f"--config.data.source=folder:{root / sets[0]}" if within else ": add the other classes")
                        + f"; if {sets[0]} is a class, set --config.data.layout={reading}{ALSO}")
    first = below[classes[0]]
    if layout == "auto" and len(first) > 1 and all(its == first for its in below.values()):
        raise UserError(f"{root} holds the folders {some(classes)}, and each of them the folders {some(first)}: if the "
                        "latter are the classes, name the folders of the splits train and test, or give one of them as "
                        f"the source; if the former are, set --config.data.layout={reading}{ALSO}")
    return classes


def list_folder(directory: Path, layout: str = "auto") -> tuple[dict[str, Files], list[str]]:
    """Return ({split: its files}, class names) of the user's own images: DIR/split/class/file or DIR/class/file.

    If there is a validation but no test split, as in ImageNet, it is used as the test split. The classes are the
    folders of train in alphabetical order. Raise UserError for a folder that is not a class, one without images, or
    one that can be read in two ways, unless `layout` says which: 'splits' or 'classes'.
    """
    roots = _split_folders(directory, layout)
    folders = _class_folders(roots["train"], layout, "classes" if roots["train"] == directory else "splits")
    classes = list(map(composed, folders))
    if twice := [name for name in folders if classes.count(composed(name)) > 1]:
        raise UserError(f"{roots['train']} has two folders of one name, written with other characters: {some(twice)}; "
                        "make one of them")
    splits, others = {}, []
    for split, root in roots.items():
        paths, labels = [], []
        for name in _subfolders(root):
            if composed(name) not in classes:
                raise UserError(f"{root / name}: the class {name!r} is not among those of {roots['train']}: "
                                f"{some(classes)}")
            found = [entry.path for entry in files_under(root / name)]
            paths += [path for path in found if path.lower().endswith(IMAGE_ENDINGS)]
            others += [path for path in found if not path.lower().endswith(IMAGE_ENDINGS)]
            labels += [classes.index(composed(name))] * (len(paths) - len(labels))
        loose = [name for name in os.listdir(root) if name.lower().endswith(IMAGE_ENDINGS)]
        if not paths:
            raise UserError(f"{root} holds no images (looked in its class folders for {', '.join(IMAGE_ENDINGS)})"
                            + ("; those in no class folder cannot be scored: move the folder away, and classify them "
                               "with predict.py" if loose else ""))
        splits[split] = Files(list(map(Path, paths)), np.array(labels, np.int32))
        if loose:
            log.warning("%s: %d images are left out, as they are in no class folder: %s", root, len(loose), some(loose))
    if others:
        log.warning("%s: %d files are left out, as their names do not end in %s: %s", directory, len(others),
                    ", ".join(IMAGE_ENDINGS), some([path.removeprefix(f"{directory}/") for path in others]))
    empty = np.setdiff1d(np.arange(len(classes)), splits["train"].labels)
    if len(empty):
        raise UserError(f"{roots['train'] / folders[empty[0]]} holds no images to train on (looked for "
                        f"{', '.join(IMAGE_ENDINGS)}); add some, or move the folder away if it is not a class")
    return splits, classes


def read_folder(directory: Path, size: int, layout: str = "auto", skip_damaged: bool = False,
                scaled: int = 0) -> tuple[dict[str, Arrays], list[str], int]:
    """Read the images of `list_folder`, as `decoding.resize` makes them: grayscale if all of them are, else RGB.

    Return (splits, class names, how many were left out). Raise UserError if some do not decode, unless `skip_damaged`.
    """
    listed, classes = list_folder(directory, layout)
    splits, left_out = decode_files(listed, str(directory), size, skip_damaged, scaled)
    return splits, classes, left_out


def decode_files(listed: dict[str, Files], place: str, size: int, skip_damaged: bool = False,
                 scaled: int = 0) -> tuple[dict[str, Arrays], int]:
    """Return (splits, how many images were left out) of files below a place: see `read_folder`."""
    train, shape = listed["train"], (size, size)
    if not size:
        images = (decode_example(train, 0, 0, i) for i in range(len(train)))
        shape = next((image.shape[:2] for image in images if isinstance(image, np.ndarray)), (0, 0))
    count = sum(map(len, listed.values()))
    check_memory(place, count, *shape)
    listed, decoded = decode_all(listed, size, place, skip_damaged, scaled)
    shapes = {image.shape[:2]: path for split, images in decoded.items()
              for image, path in zip(images, listed[split].paths, strict=True)}
    if len(shapes) > 1:
        (a, first), (b, second), *_ = shapes.items()
        raise UserError(f"images differ in size: {first} is {a[1]}x{a[0]}, {second} is {b[1]}x{b[0]}; "
                        "set --config.data.image_size=N to resize them all to NxN")
    gray = all(image.ndim == 2 for images in decoded.values() for image in images)
    splits = {split: Arrays(np.stack([image[..., None] if gray else to_rgb(image) for image in images]),
                            listed[split].labels) for split, images in decoded.items()}
    return splits, count - sum(map(len, listed.values()))
