"""Decoded data sets on disk: a source is decoded once, and mapped into memory after that."""
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modern_cnn import runtime
from modern_cnn.data import folders, formats, tables
from modern_cnn.data.spec import Arrays
from modern_cnn.errors import parse_json, sealed

log = logging.getLogger(__name__)

VERSION = 6  # raise it when decoding changes, so that old entries are not read


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A decoded source, before any split is divided."""
    kind: str  # as `place`: where it was found, from `sources.resolve`
    place: str
    fingerprint: str  # of its files
    class_names: list[str]  # empty if the source has no names
    digest: str  # of its arrays
    splits: dict[str, Arrays]
    left_out: int = 0  # images that do not decode
    held_out: bool = False  # the source has no test split, so a part of its training images is held out


def fingerprint(kind: str, place: str) -> str:
    """Return a hash that changes with the names, sizes and modification times of a source's files."""
    lines = []
    if kind in formats.READERS:
        # idx and cifar read the files of one folder; below it may be anything, even a home directory.
        read = [place, *map(str, Path(place).glob("cifar-10*"))] if kind == "cifar" else [place]
        entries = folders.files_under(place) if kind == "folder" else sorted(
            (entry for folder in read if os.path.isdir(folder) for entry in os.scandir(folder) if entry.is_file()),
            key=lambda entry: entry.path)
        for entry in entries:
            stat = entry.stat(follow_symlinks=entry.is_file())
            lines.append(f"{entry.path.removeprefix(place)} {stat.st_size} {stat.st_mtime_ns}")
    if kind == "csv":
        listed, names = tables.list_csv(Path(place))
        lines += [f"{split} {path} {names[label]} {path.stat().st_size} {path.stat().st_mtime_ns}"
                  for split, files in listed.items() for path, label in zip(files.paths, files.labels, strict=True)]
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def digest(splits: Mapping[str, Arrays]) -> str:
    """Return a hash of all images and labels."""
    total = hashlib.sha256()
    for split in sorted(splits):
        for array in splits[split]:
            total.update(f"{split} {array.shape}".encode())
            total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()[:16]


def entry(name: str, *key: Any) -> Path:
    """Return the directory of a data set: `name` is for people, `key` (as JSON) tells entries apart."""
    slug = "".join(c if c.isalnum() else "-" for c in name)[:40]
    text = json.dumps([VERSION, *key])
    return runtime.cache_dir() / "datasets" / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def load(directory: Path) -> Decoded | None:
    """Return an entry, its arrays mapped from the files; None if there is none, or any byte of it has changed."""
    try:
        text = (directory / "meta.json").read_text()
        meta = parse_json(text)
        splits = {split: Arrays(*(np.load(directory / f"{split}_{part}.npy", mmap_mode="r") for part in Arrays._fields))
                  for split in meta["splits"]}
        if text != json.dumps(sealed(meta), indent=1) or meta["digest"] != digest(splits) or not all(
                (images.dtype, labels.dtype) == (np.uint8, np.int32) for images, labels in splits.values()):
            raise ValueError("it is not what was written")
        return Decoded(**meta | {"splits": splits})
    except OSError:
        return None
    except Exception as e:  # a damaged file can raise nearly anything
        log.warning("the decoded data set in %s is damaged (%s); it will be decoded again", directory, e)
        return None


def save(directory: Path, decoded: Decoded) -> None:
    """Write an entry, all of it or nothing. If that fails, a warning says so and nothing is cached."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=directory.name + ".",
                                         ignore_cleanup_errors=True) as name:  # by its end it may have been renamed
            temporary = Path(name)
            for split, arrays in decoded.splits.items():
                for part, array in zip(Arrays._fields, arrays, strict=True):
                    np.save(temporary / f"{split}_{part}.npy", array)
            meta = vars(decoded) | {"splits": list(decoded.splits)}
            (temporary / "meta.json").write_text(json.dumps(sealed(meta), indent=1))
            shutil.rmtree(directory, ignore_errors=True)
            try:
                temporary.rename(directory)
            except OSError:
                if not (directory / "meta.json").exists():  # else another process has just written the same entry
                    raise
    except OSError as e:
        log.warning("the decoded data set could not be cached in %s (%s); it will be decoded again next time",
                    directory, e)
