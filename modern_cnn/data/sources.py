"""Data sets by name: `config.data.source`, one string, gives a data set in memory or as a stream.

A source is `digits`, `tfds:NAME`, `idx:DIR`, `cifar:DIR`, `folder:DIR`, `csv:FILE`, or a bare name. A bare name is
looked for in the cache, in $MODERN_CNN_DATA/NAME and where Debian's packages put data sets; at last it is fetched from
its authors' host if it is one of `download.SETS`, else TensorFlow Datasets is asked.
"""
import dataclasses
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modern_cnn import buckets
from modern_cnn.data import augment, cache, decoding, download, folders, formats, streamed, tables
from modern_cnn.data.resident import Resident, spaced
from modern_cnn.data.spec import Arrays, Feed, Placement, Spec, normalization
from modern_cnn.data.splits import divide_train, hold_out_test, warn_of_copies
from modern_cnn.errors import UserError, did_you_mean, some
from modern_cnn.settings import Data

log = logging.getLogger(__name__)

DEBIAN = Path("/usr/share/datasets")  # where Debian's dataset-* packages unpack
OF_FILES = ("folder", "csv")  # kinds whose images are files of the user
STREAMED = ", streamed"  # stands behind the origin of a stream
SAMPLE = 5000  # of the images in memory in `Dataset.sample`; of streamed ones `streamed.SAMPLE`
DIGITS_TEST = 360  # test images of the digits, which come without a test split


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set with its splits 'train', 'test' and perhaps 'validation'."""
    spec: Spec
    splits: Mapping[str, Any]  # Arrays, perhaps of smaller images (the device enlarges them), or Files, or Records
    streamed: bool = False  # the images are decoded during training
    scaled: int = 0  # of `decoding.resize`, for streamed images
    balanced: bool = False  # an epoch has as many training images of each class
    held_out: bool = False  # the source has no test split: a part of its training images is held out

    def feed(self, devices: Placement, smallest_crop: float = 0.0) -> Feed:
        """Return the feed for these devices; only streamed sets use `smallest_crop` (see `Streamed`)."""
        if self.streamed:
            return streamed.Streamed(self.spec, self.splits, devices, smallest_crop, self.scaled)
        return Resident(self.spec, self.splits, devices, self.balanced)

    def sample(self) -> np.ndarray:
        """Return at most SAMPLE training images, evenly spaced, as the network sees them: uint8 [n, H, W, C]."""
        train, (height, _, channels) = self.splits["train"], self.spec.image_shape
        if self.streamed:
            return streamed.sample(train, height, channels, self.scaled)
        images = train.images[spaced(len(train.images), SAMPLE)]
        return images if images.shape[1:] == self.spec.image_shape else np.asarray(augment.enlarge(images, height))

    def normalized_as(self, spec: Spec) -> "Dataset":
        """Return the set with the mean and standard deviation of another description."""
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, mean=spec.mean, std=spec.std))

    def relabel(self, names: tuple[str, ...]) -> "Dataset":
        """Return the set with labels as numbers in `names`; '07' is the class 7. Raise UserError if one is not."""
        numbers, times = {_plain(name): number for number, name in enumerate(names)}, Counter(map(_plain, names))
        wrong = [name for name in self.spec.class_names if times[_plain(name)] != 1]
        if wrong:
            raise UserError(f"{self.spec.source} has the classes {some(wrong)}, which are not among those of the "
                            f"network, or twice: {some(names)}; both must have the same names (import_weights.py "
                            "--classes=FILE gives an imported network its own)")
        found = np.array([numbers[_plain(name)] for name in self.spec.class_names], np.int32)
        spec = dataclasses.replace(self.spec, num_classes=len(names), class_names=names)
        splits = {split: examples.relabel(found) for split, examples in self.splits.items()}
        return dataclasses.replace(self, spec=spec, splits=splits)


def _plain(name: str) -> str:
    """Return a class's name in the form in which names are compared: numbers without zeros at the left."""
    return (name.lstrip("0") or "0") if name.isdecimal() else folders.composed(name)


def detect(directory: Path) -> str:
    """Return 'idx', 'cifar' or 'folder', by the names of the files in a directory."""
    if any(directory.glob("*idx3*")):
        return "idx"
    cifar = (any(directory.glob("data_batch_*")) or any(directory.glob("cifar-10*/*"))
             or (directory / "train").is_file() or (directory / "train.bin").is_file())
    return "cifar" if cifar else "folder"


def resolve(source: str, manual_dir: str = "") -> tuple[str, str]:
    """Return (kind, place) of a source: ('idx', '/data/mnist'). Raise UserError for an unknown kind or directory.

    The place of a set that can be fetched, and is not on this machine, is `manual_dir`, or else where it will be put.
    One in a bucket, gs://BUCKET/PATH or s3://BUCKET/PATH, is not looked up yet.
    """
    if source == "digits":
        return "digits", "scikit-learn"
    kind, colon, place = source.partition(":")
    lacks = {reader: f"directory: {reader}:DIR" for reader in formats.READERS} | {
        "tfds": "name: tfds:NAME", "csv": "file: csv:FILE"}
    if kind in lacks and not place:
        raise UserError(f"config.data.source={source!r} lacks its {lacks[kind]}")
    if not colon:
        if not re.fullmatch(r"\w[\w-]*(/[\w-]+)*", source):
            raise UserError(f"config.data.source={source!r} is not a data source; use digits, tfds:NAME, idx:DIR, "
                            "cifar:DIR, folder:DIR, csv:FILE, or a name such as fashion_mnist")
        own = os.environ.get("MODERN_CNN_DATA")
        places = ([Path(own).expanduser() / source] if own else []) + [DEBIAN / source.replace("_", "-")]
        found = next((place for place in places if place.is_dir()), None)
        if found is None and source in download.SETS:
            return download.SETS[source].kind, os.path.expanduser(manual_dir) or str(download.directory(source))
        return (detect(found), str(found)) if found else ("tfds", source)
    if kind == "tfds":
        return kind, place
    if kind not in lacks:
        raise UserError(f"config.data.source={source!r}: there is no such kind of source as {kind!r}"
                        f"{did_you_mean(kind, lacks)}, and digits (without a colon)")
    if url := buckets.url_of(place):
        return kind, url
    path = Path(os.path.expanduser(place)).absolute()
    if not (path.is_file() if kind == "csv" else path.is_dir()):
        raise UserError(f"config.data.source={source!r}: there is no {'file' if kind == 'csv' else 'directory'} {path}")
    return kind, str(path)


def is_same(source: str, trained: Spec, moved: bool = True) -> bool:
    """Return whether a source is that of a Spec, perhaps by another path to the same folder or file.

    With `moved`, the same path counts as well where it leads to another place than it did.
    """
    named, _, path = trained.source.partition(":")
    if source == trained.source and (moved or named not in OF_FILES):
        return True
    (kind, place), (its_kind, _, its_place) = resolve(source), trained.origin.removesuffix(STREAMED).partition(":")
    its_place = buckets.url_of(path) or its_place  # whose images were copied
    absolute = os.path.isabs(its_place) and os.path.realpath(place) == os.path.realpath(its_place)
    return kind == its_kind and (place == its_place or absolute)


def _local(kind: str, place: str) -> str:
    """Return a place on this machine: of a folder in a bucket, or of that of a csv file there, a copy in the cache."""
    folder, _, file = place.rpartition("/") if kind == "csv" else (place, "", "")
    if not (url := buckets.url_of(folder)):
        return place
    copy = buckets.copied(url) / file
    if kind == "csv" and not copy.is_file():
        raise UserError(f"there is no file {place}")
    return str(copy)


def keep_out(directory: Path, config: Data, flag: str) -> None:
    """Raise UserError if the directory of a flag, 'workdir', lies in the folder of the data, and would be read."""
    kind, place = resolve(config.source, config.manual_dir)
    below = (f"{buckets.url_of(directory)}/".startswith(f"{place}/") if buckets.url_of(place)
             else directory.resolve().is_relative_to(Path(place).resolve()))
    if kind in formats.READERS and below:
        raise UserError(f"the {flag} {directory} lies in the folder of the data, {place}, where its files would be "
                        f"part of the data: choose another --{flag}")


def check_unchanged(dataset: Dataset, trained: Spec, split: str,
                    count: Callable[[dict[str, int]], Any] | None = None) -> None:
    """Raise UserError if the images of a run have changed, and those of a split may have been in another in training.

    A test split of the source's own stays what it is: then the log warns. The digests are compared; but between a set
    in memory and a stream, and with `count`, what it makes of the sizes of the splits, by default all of them.
    """
    now = dataset.spec
    if count or dataset.streamed != trained.origin.endswith(STREAMED):
        before, after = (count(spec.sizes) if count else spec.sizes for spec in (trained, now))
    else:
        before, after = trained.digest, now.digest
    if before == after:
        return
    if split != "test" or dataset.held_out:
        raise UserError(f"the images of {now.source} have changed since the run: what is {split} now may have been "
                        "another split in training; folders train/ and test/ would keep them apart")
    log.warning("the images of %s have changed since the run", now.source)


def file_names(config: Data, split: str) -> list[str]:
    """Return the path of each image in a split of `load(config)`, in its order; [] if they are not files of their own.

    Raise UserError as `load`.
    """
    if resolve(config.source, config.manual_dir)[0] not in OF_FILES:
        return []
    listed = dataclasses.replace(config, stream=True, balanced=False, image_size=config.image_size or 1,
                                 normalize="unit")
    return list(map(str, load(listed).splits[split].paths))


def _keep_size(splits: Mapping[str, Arrays], config: Data) -> bool:
    shapes = (images.shape for images, _ in splits.values())
    return decoding.keep_size(config.image_size, *shapes, scaled=config.resize)


def _decode(kind: str, place: str, config: Data) -> tuple[dict[str, Arrays], list[str], bool, int]:
    """Return (splits, class names, whether all images have one size and keep it, how many damaged were left out)."""
    image_size, left_out = config.image_size, 0
    if kind == "tfds":
        from modern_cnn.data import tfds  # TensorFlow is imported only here, and only to prepare a set

        splits, names, same_size = tfds.read(place, image_size, config.manual_dir, config.resize)
    elif kind == "folder":
        splits, names, left_out = folders.read_folder(Path(place), image_size, config.layout, config.skip_damaged,
                                                       config.resize)
        same_size = False  # whether they have the same size is known only after decoding all of them
    elif kind == "csv":
        splits, names, left_out = tables.read_csv(Path(place), image_size, config.skip_damaged, config.resize)
        same_size = False
    else:
        splits, names = formats.read_digits() if kind == "digits" else formats.READERS[kind](Path(place))
        same_size = _keep_size(splits, config)
    for split, (images, labels) in splits.items():
        if not images.size:
            raise UserError(f"{kind}:{place} has no images in its {split} split")
        if not same_size and kind not in ("tfds", *OF_FILES):  # which have resized each image as they read it
            splits[split] = Arrays(decoding.resize_array(images, image_size, f"{kind}:{place}", config.resize), labels)
    return splits, names, same_size, left_out


def _load_decoded(config: Data) -> cache.Decoded:
    """Return a source from the cache, or decode and cache it: once if its images keep their size, else once a size."""
    source = config.source
    bare = ":" not in source and source != "digits"
    kind, place = resolve(source, config.manual_dir)
    fetched, place = place == str(download.directory(source)), _local(kind, place)
    name, key = (source, source) if bare else (f"{kind}-{Path(place).name}", [kind, place])
    key = key if config.layout == "auto" else [key, config.layout]
    made = [config.image_size, config.resize] if config.resize else config.image_size
    own_size, resized = cache.entry(name, key, "own"), cache.entry(name, key, made)
    nowhere = fetched or (bare and kind == "tfds")
    for entry in (own_size, resized):
        decoded = cache.load(entry)
        if (decoded is None or (entry == own_size and not _keep_size(decoded.splits, config))
                or (decoded.left_out and not config.skip_damaged)):
            continue
        # A bare name that was once decoded from a folder stays usable, even if the folder is gone or no longer found.
        found = decoded.kind, decoded.place
        gone = nowhere and not Path(decoded.place).exists()
        if gone or ((nowhere or found == (kind, place)) and cache.fingerprint(*found) == decoded.fingerprint):
            log.info("%s: from the cache (decoded from %s:%s) in %s", source, *found, entry)
            if decoded.left_out:
                log.warning("%s: %d images that do not decode are left out", source, decoded.left_out)
            return decoded
    try:
        if fetched:
            download.fetch(source)
        log.info("%s: decoding %s", source, place if kind == "digits" else f"{kind}:{place}")
        fingerprint = cache.fingerprint(kind, place)  # before reading: a file that changes is read again next time
        splits, names, same_size, left_out = _decode(kind, place, config)
        held_out = "test" not in splits
        splits = hold_out_test(splits, f"{kind}:{place}", DIGITS_TEST if kind == "digits" else 0)
    except UserError as e:
        where = f"config.data.source={source!r} is not in the cache, in $MODERN_CNN_DATA or in {DEBIAN}: "
        raise UserError(f"{where if nowhere else ''}{e}") from e
    decoded = cache.Decoded(kind, place, fingerprint, names, cache.digest(splits), splits, left_out, held_out)
    cache.save(own_size if same_size else resized, decoded)
    return decoded


def load(config: Data, channels: int = 0) -> Dataset:
    """Return the data set of a `data` section. Raise UserError if there is none, or it cannot be read or is wrong.

    For a network that takes 3 `channels`, gray images are repeated; 0: they stay as they are.
    """
    try:
        return (_load_stream if config.stream else _load_resident)(config, channels)
    except OSError as e:
        raise UserError(f"{config.source}: cannot read {e.filename or 'it'}: {e.strerror or e}") from e


def _load_resident(config: Data, channels: int) -> Dataset:
    decoded = _load_decoded(config)
    names, declared = decoded.class_names, config.num_classes
    splits = {split: Arrays(np.repeat(images, 3, axis=3), labels) if channels == 3 and images.shape[3] == 1
              else Arrays(images, labels) for split, (images, labels) in decoded.splits.items()}
    classes = declared or len(names) or int(splits["train"].labels.max()) + 1
    for split, (_, labels) in splits.items():
        outside = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(outside):
            raise UserError(f"{config.source}: label {labels[outside[0]]} of {split} image {outside[0]} is outside the "
                            f"{classes} classes 0 to {classes - 1}{'' if declared else ' of the training images'}"
                            "; set --config.data.num_classes if there are more")
    absent = np.setdiff1d(np.arange(classes), splits["train"].labels)
    if len(absent) and not declared and not names:
        raise UserError(f"{config.source}: labels run to {classes - 1} but class {absent[0]} has no training image; is "
                        f"label {classes - 1} a mistake? If not, set --config.data.num_classes={classes}")
    splits = divide_train(splits, config)
    if decoded.kind in OF_FILES:
        warn_of_copies(splits, config.source)
    images = splits["train"].images
    for split, (others, _) in splits.items():
        if not config.image_size and others.shape[1:] != images.shape[1:]:
            raise UserError(f"{config.source}: images of {split} are {others.shape[1:]}, of train {images.shape[1:]}; "
                            "set --config.data.image_size=N to resize them all to NxN")
    return _describe(config, splits, names, classes, images, decoded.digest, f"{decoded.kind}:{decoded.place}",
                     decoded.held_out)


def _load_stream(config: Data, channels: int) -> Dataset:
    kind, place = resolve(config.source)
    place = _local(kind, place)
    if kind not in ("tfds", *OF_FILES):
        raise UserError(f"config.data.stream=True is for folder:, csv: and tfds: sources; {kind} files are read as a "
                        "whole")
    if config.balanced:
        raise UserError("config.data.balanced=True is for sets in memory; --config.loss.class_weights=balanced is for "
                        "streams too")
    if not config.image_size:
        raise UserError("config.data.stream=True needs images of one size: set --config.data.image_size=N (224, say)")
    splits: dict[str, Any]
    if kind == "tfds":
        from modern_cnn.data import tfds

        splits, names, own = tfds.records(place, config.manual_dir)
        channels = 3 if channels == 3 else own
    else:
        splits, names = (folders.list_folder(Path(place), config.layout) if kind == "folder"
                         else tables.list_csv(Path(place)))
        channels = 1 if channels == 1 else 3  # whether all are grayscale is known only after opening all of them
    if 0 < config.num_classes < len(names):
        raise UserError(f"{config.source} has {len(names)} classes, and config.data.num_classes={config.num_classes}")
    if config.skip_damaged:
        splits, _ = decoding.decode_all(splits, config.image_size, place, True, config.resize, pixels=False)
    held_out = "test" not in splits
    splits = divide_train(hold_out_test(splits, f"{kind}:{place}"), config)
    pixels = np.zeros((1, 1, 1, channels), np.uint8)
    if config.normalize == "standard":
        pixels = streamed.sample(splits["train"], config.image_size, channels, config.resize)
    return _describe(config, splits, names, max(config.num_classes, len(names)), pixels, streamed.digest(splits),
                     f"{kind}:{place}{STREAMED}", held_out)


def _describe(config: Data, splits: Mapping[str, Any], names: list[str], classes: int, pixels: np.ndarray, digest: str,
              origin: str, held_out: bool) -> Dataset:
    """Return a set with its Spec; classes beyond `names` are numbered, 'standard' is computed from `pixels`."""
    mean, std = normalization(config.normalize, pixels)
    height, width = (config.image_size,) * 2 if config.image_size else pixels.shape[1:3]
    sizes = {split: len(splits[split] if config.stream else splits[split].labels)
             for split in ("train", "validation", "test") if split in splits}
    spec = Spec(config.source, origin, (height, width, pixels.shape[3]), classes,
                (*names, *map(str, range(len(names), classes))), sizes, mean, std, digest)
    return Dataset(spec, splits, config.stream, config.resize, config.balanced, held_out)
