"""Data sets by name: `config.data.source`, one string, gives a data set in memory or as a stream.

A source is `digits`, `tfds:NAME`, `idx:DIR`, `cifar:DIR`, `folder:DIR`, or a bare name. A bare name is looked for in
the cache, in $MODERN_CNN_DATA/NAME and where Debian's packages put data sets; at last TensorFlow Datasets is asked.
"""
import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modern_cnn.data import cache, decoding, formats, streamed
from modern_cnn.data.resident import Resident
from modern_cnn.data.spec import Arrays, Feed, Placement, Spec
from modern_cnn.data.splits import divide_train, hold_out_test
from modern_cnn.errors import UserError, did_you_mean
from modern_cnn.settings import Data

log = logging.getLogger(__name__)

DEBIAN = Path("/usr/share/datasets")  # where Debian's dataset-* packages unpack
# Mean and deviation of red, green and blue on ImageNet, as torchvision's networks expect them.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGITS_TEST = 360  # test images of the digits, which come without a test split


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set with its splits 'train', 'test' and perhaps 'validation'.

    Attributes:
      splits: `Arrays`, or `Files` or `Records` if `streamed`. Images in memory may be smaller than `spec.image_shape`:
        the device enlarges them.
      streamed: the images are decoded during training.
    """
    spec: Spec
    splits: Mapping[str, Any]
    streamed: bool = False

    def feed(self, devices: Placement, smallest_crop: float = 0.0) -> Feed:
        """Return the feed for these devices; only streamed sets use `smallest_crop` (see `Streamed`)."""
        if self.streamed:
            return streamed.Streamed(self.spec, self.splits, devices, smallest_crop)
        return Resident(self.spec, self.splits, devices)


def detect(directory: Path) -> str:
    """Return 'idx', 'cifar' or 'folder', by the names of the files in a directory."""
    if any(directory.glob("*idx3*")):
        return "idx"
    if any(directory.glob("data_batch_*")) or any(directory.glob("cifar-10*/*")) or any(
            (directory / name).is_file() for name in ("train", "train.bin")):
        return "cifar"
    return "folder"


def _directories(name: str) -> list[Path]:
    """Return the directories that exist for a bare name, the user's own first."""
    own = os.environ.get("MODERN_CNN_DATA")
    places = ([Path(own).expanduser() / name] if own else []) + [DEBIAN / name.replace("_", "-")]
    return [place for place in places if place.is_dir()]


def resolve(source: str) -> tuple[str, str]:
    """Return (kind, place) of a source: ('idx', '/data/mnist'), ('tfds', 'cifar10'), ('digits', 'scikit-learn').

    Raises:
      UserError: an unknown kind of source, or a directory that does not exist.
    """
    kind, colon, place = source.partition(":")
    if source == "digits":
        return "digits", "scikit-learn"
    if kind in ("tfds", *formats.READERS) and not place:
        raise UserError(f"config.data.source={source!r} lacks its {'name' if kind == 'tfds' else 'directory'}: {kind}:"
                        f"{'NAME' if kind == 'tfds' else 'DIR'}")
    if not colon:
        if not re.fullmatch(r"\w[\w-]*(/[\w-]+)*", source):
            raise UserError(f"config.data.source={source!r} is not a data source; use digits, tfds:NAME, idx:DIR, "
                            "cifar:DIR, folder:DIR, or a name such as fashion_mnist")
        found = _directories(source)
        return (detect(found[0]), str(found[0])) if found else ("tfds", source)
    if kind == "tfds":
        return kind, place
    if kind not in formats.READERS:
        raise UserError(f"config.data.source={source!r}: there is no such kind of source as {kind!r}"
                        f"{did_you_mean(kind, ['tfds', *formats.READERS])}, and digits (without a colon)")
    directory = Path(os.path.expanduser(place)).absolute()
    if not directory.is_dir():
        raise UserError(f"config.data.source={source!r}: there is no directory {directory}")
    return kind, str(directory)


def _keep_size(splits: Mapping[str, Arrays], image_size: int) -> bool:
    return decoding.keep_size(image_size, *(images.shape for images, _ in splits.values()))


def _decode(kind: str, place: str, image_size: int, manual_dir: str) -> tuple[dict[str, Arrays], list[str], bool]:
    """Return (splits, class names, whether the images keep their size: all have the same, and `keep_size` says so)."""
    if kind == "tfds":
        from modern_cnn.data import tfds  # TensorFlow is imported only here, and only to prepare a set

        splits, names, same_size = tfds.read(place, image_size, manual_dir)
    elif kind == "folder":
        splits, names = formats.read_folder(Path(place), image_size)
        same_size = False  # whether they have the same size is known only after decoding all of them
    else:
        splits, names = formats.read_digits() if kind == "digits" else formats.READERS[kind](Path(place))
        same_size = _keep_size(splits, image_size)
    for split, (images, labels) in splits.items():
        if not images.size:
            raise UserError(f"{kind}:{place} has no images in its {split} split")
        if not same_size:
            splits[split] = Arrays(decoding.resize_array(images, image_size, f"{kind}:{place}"), labels)
    return hold_out_test(splits, f"{kind}:{place}", DIGITS_TEST if kind == "digits" else 0), names, same_size


def _load_decoded(source: str, image_size: int, manual_dir: str) -> cache.Decoded:
    """Return a source from the cache, or decode it and cache it.

    If its images keep their size, one entry of the cache serves every `image_size`; else each has its own.
    """
    bare = ":" not in source and source != "digits"
    kind, place = resolve(source)
    name, key = (source, source) if bare else (f"{kind}-{Path(place).name}", [kind, place])
    own_size, resized = cache.entry(name, key, "own"), cache.entry(name, key, image_size)
    for entry in (own_size, resized):
        decoded = cache.load(entry)
        if decoded is None or (entry == own_size and not _keep_size(decoded.splits, image_size)):
            continue
        # A bare name that was once decoded from a folder stays usable, even if the folder is gone or no longer found.
        known = bare and kind == "tfds"
        gone = known and not Path(decoded.place).exists()
        found = decoded.kind, decoded.place
        if gone or ((known or found == (kind, place)) and cache.fingerprint(*found) == decoded.fingerprint):
            log.info("%s: from the cache (decoded from %s:%s) in %s", source, *found, entry)
            return decoded
    log.info("%s: decoding %s", source, place if kind == "digits" else f"{kind}:{place}")
    fingerprint = cache.fingerprint(kind, place)  # before reading: files that change meanwhile are read again next time
    try:
        splits, names, same_size = _decode(kind, place, image_size, manual_dir)
    except UserError as e:
        if bare and kind == "tfds":
            raise UserError(f"config.data.source={source!r} is not in the cache, in $MODERN_CNN_DATA or in {DEBIAN}: "
                            f"{e}") from e
        raise
    decoded = cache.Decoded(kind, place, fingerprint, names, cache.digest(splits), splits)
    cache.save(own_size if same_size else resized, decoded)
    return decoded


def _count_classes(splits: Mapping[str, Arrays], names: list[str], declared: int, source: str) -> int:
    """Return the number of classes. Raise UserError for a label outside, or a class without training images."""
    classes = declared or len(names) or int(splits["train"].labels.max()) + 1
    for split, (_, labels) in splits.items():
        outside = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(outside):
            raise UserError(f"{source}: label {labels[outside[0]]} of {split} image {outside[0]} is outside the "
                            f"{classes} classes 0 to {classes - 1}" + ("" if declared else " of the training images")
                            + "; set --config.data.num_classes if there are more")
    absent = np.setdiff1d(np.arange(classes), splits["train"].labels)
    if len(absent) and not declared and not names:
        raise UserError(f"{source}: labels run to {classes - 1} but class {absent[0]} has no training image; is label "
                        f"{classes - 1} a mistake? If not, set --config.data.num_classes={classes}")
    return classes


def normalization(normalize: str, images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the (mean, std) of each channel that `augment.normalize` needs, for pixels in [0, 1].

    Args:
      normalize: 'unit', 'symmetric', 'standard' or 'imagenet'.
      images: uint8 [N, H, W, C], from which 'standard' takes them.
    """
    channels = images.shape[-1]
    if normalize == "unit":
        return (0.0,) * channels, (1.0,) * channels
    if normalize == "symmetric":
        return (0.5,) * channels, (0.5,) * channels
    if normalize == "standard":
        counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(channels)]
        levels = np.arange(256) / 255
        mean = [float(levels @ n / n.sum()) for n in counts]
        std = [float(np.sqrt((levels - m) ** 2 @ n / n.sum())) for m, n in zip(mean, counts, strict=True)]
        return tuple(mean), tuple(max(s, 1e-6) for s in std)
    if normalize == "imagenet":
        if channels != 3:
            raise UserError(f"config.data.normalize='imagenet' is for images with 3 channels (RGB), not {channels}")
        return IMAGENET
    raise UserError(f"config.data.normalize={normalize!r} is unknown"
                    f"{did_you_mean(normalize, ['unit', 'symmetric', 'standard', 'imagenet'])}")


def load(config: Data) -> Dataset:
    """Return the data set of a config's `data` section.

    Raises:
      UserError: a source that does not exist, cannot be read, or does not hold what it should.
    """
    if config.image_size < 0 or config.num_classes < 0:
        raise UserError(f"config.data.image_size={config.image_size} and config.data.num_classes={config.num_classes} "
                        "cannot be negative; 0 leaves them to the data")
    try:
        return _load_stream(config) if config.stream else _load_resident(config)
    except OSError as e:
        raise UserError(f"{config.source}: cannot read {e.filename or 'it'}: {e.strerror or e}") from e


def _load_resident(config: Data) -> Dataset:
    decoded = _load_decoded(config.source, config.image_size, config.manual_dir)
    classes = _count_classes(decoded.splits, decoded.class_names, config.num_classes, config.source)
    splits = divide_train(decoded.splits, config)
    images = splits["train"].images
    for split, (others, _) in splits.items():
        if not config.image_size and others.shape[1:] != images.shape[1:]:
            raise UserError(f"{config.source}: images of {split} are {others.shape[1:]}, of train {images.shape[1:]}; "
                            "set --config.data.image_size=N to resize them all to NxN")
    height, width = (config.image_size,) * 2 if config.image_size else images.shape[1:3]
    spec = _describe(config, decoded.class_names, classes, images, origin=f"{decoded.kind}:{decoded.place}",
                     image_shape=(height, width, images.shape[3]), digest=decoded.digest,
                     sizes={split: len(labels) for split, (_, labels) in splits.items()})
    return Dataset(spec, splits)


def _load_stream(config: Data) -> Dataset:
    kind, place = resolve(config.source)
    if kind not in ("folder", "tfds"):
        raise UserError(f"config.data.stream=True is for folder: and tfds: sources; {kind} files are read as a whole")
    if not config.image_size:
        raise UserError("config.data.stream=True needs images of one size: set --config.data.image_size=N (224, say)")
    splits: dict[str, Any]
    if kind == "tfds":
        from modern_cnn.data import tfds

        splits, names, channels = tfds.records(place, config.manual_dir)
    else:
        splits, names = formats.list_folder(Path(place))
        channels = 3  # whether all are grayscale is known only after opening all of them
    splits = divide_train(hold_out_test(splits, f"{kind}:{place}"), config)
    pixels = (streamed.sample(splits["train"], config.image_size, channels) if config.normalize == "standard"
              else np.zeros((1, 1, 1, channels), np.uint8))
    spec = _describe(config, names, max(config.num_classes, len(names)), pixels, origin=f"{kind}:{place}, streamed",
                     image_shape=(config.image_size, config.image_size, channels), digest=streamed.digest(splits),
                     sizes={split: len(examples) for split, examples in splits.items()})
    return Dataset(spec, splits, streamed=True)


def _describe(config: Data, names: list[str], classes: int, pixels: np.ndarray, *, sizes: dict[str, int],
              **fields: Any) -> Spec:
    """Return the Spec of a set; classes beyond `names` are numbered, 'standard' is computed from `pixels`."""
    mean, std = normalization(config.normalize, pixels)
    return Spec(source=config.source, num_classes=classes, mean=mean, std=std,
                class_names=(*names, *map(str, range(len(names), classes))),
                sizes={split: sizes[split] for split in ("train", "validation", "test") if split in sizes}, **fields)
