"""Where images come from: one string (`config.data.source`) to arrays, decoded once and cached.

`digits`, `tfds:NAME`, `idx:DIR`, `cifar:DIR`, `folder:DIR`, or a bare name, which is looked for in the cache, in
$MODERN_CNN_DATA/NAME, where Debian's packages put data sets, and at last asked of TensorFlow Datasets.
"""
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from modern_cnn import runtime
from modern_cnn.data import formats
from modern_cnn.data import resident as batches
from modern_cnn.data import splits as holdout
from modern_cnn.data import streamed as stream
from modern_cnn.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

CACHE_VERSION = 2  # raise it when decoding changes, so that old caches are not read
NO_NETWORK = ("sources that need no network: digits (bundled), idx:DIR, cifar:DIR, folder:DIR, "
              "or files fetched by hand with --config.data.manual_dir=DIR")
DEBIAN = Path("/usr/share/datasets")  # where Debian's dataset-* packages unpack
# Mean and deviation of red, green and blue on ImageNet, as torchvision's networks expect them.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HOLDOUT = 0.2  # test fraction of a source that comes without a test split


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a network and a run need to know of a data set.

    Attributes:
      source: the string that was asked for.
      origin: where the images were found.
      image_shape: (H, W, C) in pixels, as the network sees them.
      num_classes, class_names: names are the numbers where the source has none.
      sizes: examples in each split.
      mean, std: per channel, what normalises pixels in [0, 1].
      digest: of all images and labels as they are held, so that a resumed run can tell that the data changed.
    """
    source: str
    origin: str
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    sizes: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`splits[name]` is (images uint8 [N, H, W, C], labels int32 [N]) for 'train', 'test', perhaps 'validation'.

    Images smaller than `spec.image_shape` are for `batches.gather` to enlarge. Where `streamed`, a split is one of
    module `stream`, that has not been decoded.
    """
    spec: Spec
    splits: dict[str, formats.Split] | dict[str, stream.Split]
    streamed: bool = False

    def feed(self, devices, smallest_crop: float = 0.0) -> batches.Resident | stream.Streamed:
        """What brings its batches to the devices of a run. `smallest_crop` is for streamed sets, which it cuts."""
        if self.streamed:
            return stream.Streamed(self.spec, self.splits, devices, smallest_crop)
        return batches.Resident(self.spec, self.splits, devices)


def detect(directory: Path) -> str:
    """'idx', 'cifar' or 'folder': what the files of a directory look like."""
    if any(directory.glob("*idx3*")):
        return "idx"
    if any(directory.glob("data_batch_*")) or any(directory.glob("cifar-10*/*")) or any(
            (directory / name).is_file() for name in ("train", "train.bin")):
        return "cifar"
    return "folder"


def _directories(name: str) -> list[Path]:
    """Where a bare name may lie unpacked, the user's own place first."""
    own = os.environ.get("MODERN_CNN_DATA")
    places = ([Path(own).expanduser() / name] if own else []) + [DEBIAN / name.replace("_", "-")]
    return [place for place in places if place.is_dir()]


def resolve(source: str) -> tuple[str, str]:
    """(kind, place) of a source: ('idx', '/data/mnist'), ('tfds', 'cifar10'), ('digits', 'scikit-learn').

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
            raise UserError(f"config.data.source={source!r} is not a data source; it is one of digits, tfds:NAME, "
                            "idx:DIR, cifar:DIR, folder:DIR, or a name such as fashion_mnist")
        found = _directories(source)
        return (detect(found[0]), str(found[0])) if found else ("tfds", source)
    if kind == "tfds":
        return kind, place
    if kind not in formats.READERS:
        raise UserError(f"config.data.source={source!r}: no such kind of source as {kind!r}"
                        f"{did_you_mean(kind, ['tfds', *formats.READERS])}, with a name or directory, and digits")
    directory = Path(os.path.expanduser(place)).absolute()
    if not directory.is_dir():
        raise UserError(f"config.data.source={source!r}: there is no directory {directory}")
    return kind, str(directory)


def _fingerprint(kind: str, place: str) -> str:
    """Changes when a file of the source does: names, sizes and modification times, not contents."""
    lines = []
    if kind in formats.READERS:
        # idx and cifar read the files of one folder; below it may lie anything, a home directory too
        folders = [place, *map(str, Path(place).glob("cifar-10*"))] if kind == "cifar" else [place]
        entries = formats.files_under(place) if kind == "folder" else sorted(
            (entry for folder in folders if os.path.isdir(folder) for entry in os.scandir(folder) if entry.is_file()),
            key=lambda entry: entry.path)
        for entry in entries:
            stat = entry.stat(follow_symlinks=entry.is_file())
            lines.append(f"{entry.path.removeprefix(place)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _kept(splits: dict[str, formats.Split], image_size: int) -> bool:
    return formats.kept(image_size, *(images.shape for images, _ in splits.values()))


def _decode(kind: str, place: str, image_size: int,
            manual_dir: str) -> tuple[dict[str, formats.Split], list[str], bool]:
    """(splits, class_names, own): `own` where the images are all of one size and `formats.kept` at it."""
    if kind == "tfds":
        from modern_cnn.data import tfds  # TensorFlow is imported only here, and only to prepare a set

        splits, names, own = tfds.read(place, image_size, manual_dir)
    elif kind == "folder":
        splits, names = formats.read_folder(Path(place), image_size)
        own = False  # whether they are of one size is known only after decoding them all
    else:
        splits, names = formats.read_digits() if kind == "digits" else formats.READERS[kind](Path(place))
        own = _kept(splits, image_size)
    for split, (images, labels) in splits.items():
        if not images.size:
            raise UserError(f"{kind}:{place} has no images in its {split} split")
        if not own:
            splits[split] = formats.resize_array(images, image_size, f"{kind}:{place}"), labels
    if "test" not in splits:
        count = 360 if kind == "digits" else max(1, round(HOLDOUT * len(splits["train"][1])))
        holdout.hold_out_test(splits, splits["train"][1], count, f"{kind}:{place}")
    return splits, names, own


def _count_classes(splits: dict[str, formats.Split], names: list[str], declared: int, source: str) -> int:
    """Number of classes, after checking that every label is inside them and every class occurs in training."""
    classes = declared or len(names) or int(splits["train"][1].max()) + 1
    for split, (_, labels) in splits.items():
        outside = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(outside):
            raise UserError(f"{source}: label {labels[outside[0]]} of {split} image {outside[0]} is outside the "
                            f"{classes} classes 0 to {classes - 1}" + ("" if declared else " of the training images")
                            + "; set --config.data.num_classes if there are more")
    absent = np.setdiff1d(np.arange(classes), splits["train"][1])
    if len(absent) and not declared and not names:
        raise UserError(f"{source}: labels run to {classes - 1} but class {absent[0]} has no training image; is label "
                        f"{classes - 1} a mistake? If not, say --config.data.num_classes={classes}")
    return classes


def _cache_load(entry: Path) -> tuple[dict, dict[str, formats.Split]] | None:
    try:
        meta = json.loads((entry / "meta.json").read_text())
        splits = {split: tuple(np.load(entry / f"{split}_{part}.npy", mmap_mode="r") for part in ("images", "labels"))
                  for split in meta["splits"]}
        complete = {"kind", "place", "fingerprint", "class_names", "digest"} <= meta.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None
    return (meta, splits) if complete else None


def _cache_save(entry: Path, meta: dict, splits: dict[str, formats.Split]) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=entry.name + "."))
        try:
            for split, parts in splits.items():
                for part, array in zip(("images", "labels"), parts, strict=True):
                    np.save(temporary / f"{split}_{part}.npy", array)
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
            shutil.rmtree(entry, ignore_errors=True)
            try:
                temporary.rename(entry)
            except OSError:
                if not (entry / "meta.json").exists():  # else another process has just written the same
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as e:
        log.warning("the decoded data set could not be cached in %s (%s); it will be decoded again next time", entry, e)


def _digest(splits: dict[str, formats.Split]) -> str:
    digest = hashlib.sha256()
    for split in sorted(splits):
        for array in splits[split]:
            digest.update(f"{split} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _decoded(source: str, image_size: int, manual_dir: str) -> tuple[dict, dict[str, formats.Split]]:
    """(meta, splits) from the cache, or decoded and then cached: once for all sizes at which images are kept."""
    bare = ":" not in source and source != "digits"
    kind, place = resolve(source)
    slug = "".join(c if c.isalnum() else "-" for c in (source if bare else f"{kind}-{Path(place).name}"))[:40]

    def entry_of(own: bool) -> Path:
        key = json.dumps([CACHE_VERSION, source if bare else [kind, place], "own" if own else image_size])
        return runtime.cache_dir() / "datasets" / f"{slug}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    for own in (True, False):
        entry = entry_of(own)
        cached = _cache_load(entry)
        if not cached or (own and not _kept(cached[1], image_size)):
            continue
        meta, splits = cached
        found = meta["kind"], meta["place"]
        # A bare name that was once decoded from a folder stays known when nothing points there now, or it is gone.
        known = bare and kind == "tfds"
        gone = known and not Path(meta["place"]).exists()
        if gone or ((known or found == (kind, place)) and _fingerprint(*found) == meta["fingerprint"]):
            log.info("%s: from the cache (decoded from %s:%s) in %s", source, meta["kind"], meta["place"], entry)
            return meta, splits
    log.info("%s: decoding %s", source, place if kind == "digits" else f"{kind}:{place}")
    fingerprint = _fingerprint(kind, place)  # before reading: what changes meanwhile is read again next time
    try:
        splits, names, own = _decode(kind, place, image_size, manual_dir)
    except UserError as e:
        if bare and kind == "tfds":
            raise UserError(f"config.data.source={source!r} is not in the cache, in $MODERN_CNN_DATA or in {DEBIAN}: "
                            f"{e}") from e
        raise
    meta = {"kind": kind, "place": place, "fingerprint": fingerprint, "class_names": names,
            "splits": list(splits), "digest": _digest(splits)}
    _cache_save(entry_of(own), meta, splits)
    return meta, splits


def normalization(normalize: str, images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel (mean, std) that `augment.normalize` subtracts and divides by, for pixels in [0, 1]."""
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
            raise UserError(f"config.data.normalize='imagenet' is for RGB images; these have channels: {channels}")
        return IMAGENET
    raise UserError(f"config.data.normalize={normalize!r} is unknown"
                    f"{did_you_mean(normalize, ['unit', 'symmetric', 'standard', 'imagenet'])}")


def load(config) -> Dataset:
    """The data set of a config's `data` section.

    Args:
      config: has source, image_size, normalize, validation, train_size, num_classes and manual_dir (configs/base.py).
    Raises:
      UserError: a source that does not exist, cannot be read, or holds something else than it should.
    """
    if config.image_size < 0 or config.num_classes < 0:
        raise UserError(f"config.data.image_size={config.image_size} and config.data.num_classes={config.num_classes} "
                        "cannot be negative; 0 leaves them to the data")
    try:
        if getattr(config, "stream", False):  # runs of earlier versions did not have it
            return _load_stream(config)
        meta, splits = _decoded(config.source, config.image_size, config.manual_dir)
    except OSError as e:
        raise UserError(f"{config.source}: cannot read {e.filename or 'it'}: {e.strerror or e}") from e
    classes = _count_classes(splits, meta["class_names"], config.num_classes, config.source)
    splits = holdout.divide_train(splits, config)
    images = splits["train"][0]
    for split, (others, _) in splits.items():
        if not config.image_size and others.shape[1:] != images.shape[1:]:
            raise UserError(f"{config.source}: images of {split} are {others.shape[1:]}, of train {images.shape[1:]}; "
                            "set --config.data.image_size=N to resize them all to NxN")
    mean, std = normalization(config.normalize, images)
    height, width = (config.image_size,) * 2 if config.image_size else images.shape[1:3]
    names = meta["class_names"] or [str(i) for i in range(classes)]
    spec = Spec(
        source=config.source, origin=f"{meta['kind']}:{meta['place']}", image_shape=(height, width, images.shape[3]),
        num_classes=classes, class_names=tuple(names) + tuple(str(i) for i in range(len(names), classes)),
        sizes={name: len(splits[name][1]) for name in ("train", "validation", "test") if name in splits},
        mean=mean, std=std, digest=meta["digest"])
    return Dataset(spec, splits)


def _load_stream(config) -> Dataset:
    kind, place = resolve(config.source)
    if kind not in ("folder", "tfds"):
        raise UserError(f"config.data.stream=True is for folder: and tfds: sources; {kind} files are read as a whole")
    if not config.image_size:
        raise UserError("config.data.stream=True needs images of one size: --config.data.image_size=224, say")
    if kind == "tfds":
        from modern_cnn.data import tfds

        splits, names, channels = tfds.records(place, config.manual_dir)
    else:
        splits, names = stream.folder(Path(place))
        channels = 3  # whether all are grayscale is known only after opening them all
    if "test" not in splits:
        count = max(1, round(HOLDOUT * len(splits["train"])))
        holdout.hold_out_test(splits, splits["train"].labels, count, f"{kind}:{place}")
    splits = holdout.divide_train(splits, config)
    classes = max(config.num_classes, len(names))
    of_pixels = (stream.sample(splits["train"], config.image_size, channels) if config.normalize == "standard"
                 else np.zeros((1, 1, 1, channels), np.uint8))
    mean, std = normalization(config.normalize, of_pixels)
    spec = Spec(
        source=config.source, origin=f"{kind}:{place}, streamed",
        image_shape=(config.image_size, config.image_size, channels), num_classes=classes,
        class_names=tuple(names) + tuple(str(i) for i in range(len(names), classes)),
        sizes={name: len(splits[name]) for name in ("train", "validation", "test") if name in splits},
        mean=mean, std=std, digest=stream.digest(splits))
    return Dataset(spec, splits, streamed=True)
