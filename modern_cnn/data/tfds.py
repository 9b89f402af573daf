"""TensorFlow Datasets: sets that it prepares are read as arrays (which are then cached) or as records to stream."""
import difflib
import http.client
import logging
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from modern_cnn.data.decoding import check_memory, keep_size, resize_pixels
from modern_cnn.data.spec import Arrays, Records
from modern_cnn.errors import UserError

log = logging.getLogger(__name__)

NO_NETWORK = ("sources that work offline: digits (bundled), idx:DIR, cifar:DIR, folder:DIR, "
              "or files fetched by hand with --config.data.manual_dir=DIR")
PROBE_SECONDS = 6  # a host that has not answered by then counts as unreachable


def _unreachable(url: str) -> str | None:
    """Return why the host of `url` cannot be reached, or None if it answers. Takes at most PROBE_SECONDS."""
    reason: list[str | None] = [f"no answer within {PROBE_SECONDS} s"]

    def probe():
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "modern_cnn"})
            urllib.request.urlopen(request, timeout=PROBE_SECONDS - 1).close()
            reason[0] = None
        except (OSError, ValueError, http.client.HTTPException) as e:
            # A refusal is an answer too; TFDS will say whether the host has the file.
            reason[0] = None if isinstance(e, urllib.error.HTTPError) else str(getattr(e, "reason", e))

    thread = threading.Thread(target=probe, daemon=True)  # because looking up a name has no time limit of its own
    thread.start()
    thread.join(PROBE_SECONDS)
    return reason[0]


def _check_downloads(builder: Any, name: str, manual_dir: str) -> None:
    """Raise UserError if `manual_dir` lacks files, or their host is unreachable: TFDS would retry for minutes."""
    wanted = dict(builder.url_infos or {})
    if not manual_dir:
        for url in list(wanted)[:1]:
            if reason := _unreachable(url):
                raise UserError(f"tfds:{name} is not prepared on this machine and {urlsplit(url).netloc} cannot be "
                                f"reached ({reason}); {NO_NETWORK}")
        return
    if not Path(manual_dir).expanduser().is_dir():
        raise UserError(f"config.data.manual_dir={manual_dir!r}: there is no such directory")
    from tensorflow_datasets.core.download import checksums

    found = {url: Path(manual_dir).expanduser() / (info.filename or Path(urlsplit(url).path).name)
             for url, info in wanted.items()}
    missing = [path.name for path in found.values() if not path.is_file()]
    if missing:
        raise UserError(f"config.data.manual_dir={manual_dir!r} lacks files of tfds:{name}: {', '.join(missing)}")
    for url, path in found.items():
        builder.url_infos[url] = checksums.compute_url_info(path)  # TFDS verifies against these
        if builder.url_infos[url] != wanted[url]:
            log.warning("%s is not byte for byte what TFDS knows (another compression?); it is used as it is", path)


def _prepare(name: str, manual_dir: str, **options: Any) -> Any:
    """Return the builder of a classification set, after preparing the set if this machine has not. Errors as `read`."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as e:
        raise UserError(f"tfds:{name} needs TensorFlow Datasets, which this Python does not have ({e}); "
                        f"pip install tensorflow-datasets; {NO_NETWORK}") from e
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder: Any = tfds.builder(name, **options)
    except tfds.core.DatasetNotFoundError as e:
        names = ["digits", *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"TensorFlow Datasets has no {name!r}; {hint}{NO_NETWORK}") from e
    except (ValueError, AssertionError, ImportError) as e:
        other = ("; it was prepared to be read as a whole: to stream it, set TFDS_DATA_DIR to another folder, where it "
                 "is prepared again" if "File format is already set" in str(e) else "")
        raise UserError(f"TensorFlow Datasets cannot open {name!r}: {e or type(e).__name__}{other}") from e
    features = builder.info.features or {}
    if "image" not in features or "label" not in features or not hasattr(features["label"], "num_classes"):
        raise UserError(f"tfds:{name} is not an image classification set: its features are "
                        f"{', '.join(sorted(features))}, but 'image' and 'label' are needed")
    prepared = builder.data_path.exists()
    if not prepared:
        _check_downloads(builder, name, manual_dir)
    try:
        import tensorflow as tf
    except ImportError as e:
        raise UserError(f"tfds:{name} needs TensorFlow to be prepared, which this Python does not have ({e}); "
                        "pip install tensorflow, or use idx:, cifar: or folder: sources") from e
    tf.config.set_visible_devices([], "GPU")  # it would take the memory that JAX needs
    if not prepared:
        try:
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
                manual_dir=Path(manual_dir).expanduser() if manual_dir else None))
        except Exception as e:  # whatever stops TFDS, the user reads what it was
            raise UserError(f"tfds:{name} could not be prepared: {type(e).__name__}: {' '.join(str(e).split())}") from e
    return builder


def _split_names(builder: Any, name: str) -> dict[str, str]:
    """Return {our name of a split: TFDS's name}. Raise UserError if there is none to train on."""
    names = builder.info.splits
    if "train" not in names:
        raise UserError(f"tfds:{name} has no split 'train', only {', '.join(names)}")
    if "test" in names or "validation" not in names:
        return {split: split for split in ("train", "test", "validation") if split in names}
    return {"train": "train", "test": "validation"}


def read(name: str, image_size: int, manual_dir: str, scaled: int = 0) -> tuple[dict[str, Arrays], list[str], bool]:
    """Return (splits, class names, whether all images have the same size and keep it) of a classification set.

    Images that do not keep their size (`keep_size`) are made as by `decoding.resize`; if `image_size` is 0, all must
    have the same. Files in `manual_dir`, if that is not '', are used instead of downloading, whatever their checksums.
    Raise UserError if there is no such set, it is not one of images and labels, or its files cannot be had.
    """
    builder = _prepare(name, manual_dir)
    declared = builder.info.features["image"].shape
    same_size = None not in declared[:2] and keep_size(image_size, declared, scaled=scaled)
    splits = {ours: _read_split(builder, theirs, 0 if same_size else image_size, name, scaled)
              for ours, theirs in _split_names(builder, name).items()}
    return splits, list(builder.info.features["label"].names or []), same_size


def _read_split(builder: Any, split: str, image_size: int, name: str, scaled: int) -> Arrays:
    import tensorflow_datasets as tfds

    images, labels = [], []
    examples: Any = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    count = builder.info.splits[split].num_examples
    for example in tqdm(examples, f"decoding {split}", count, leave=False, disable=None, unit="img"):
        image = example["image"]
        if not images:
            check_memory(f"tfds:{name}", count, *((image_size,) * 2 if image_size else image.shape[:2]))
        if image_size:
            image = resize_pixels(image, image_size, scaled)
        if images and image.shape != images[0].shape:
            raise UserError(f"tfds:{name}: images differ in size ({images[0].shape} and {image.shape}); "
                            "set --config.data.image_size=N to resize them all to NxN")
        images.append(image)
        labels.append(example["label"])
    return Arrays(np.stack(images), np.array(labels, np.int32))


def records(name: str, manual_dir: str) -> tuple[dict[str, Records], list[str], int]:
    """Return (splits, class names, channels) of a set that stays encoded on disk, to be streamed. Else as `read`."""
    builder = _prepare(name, manual_dir, file_format="array_record")  # from which any example is read by its number
    import tensorflow_datasets as tfds

    features, splits = builder.info.features, {}
    for ours, theirs in _split_names(builder, name).items():
        source = builder.as_data_source(theirs, decoders={"image": tfds.decode.SkipDecoding()})  # pyright: ignore
        splits[ours] = Records(source, f"tfds:{name}, {theirs}", np.arange(len(source)))
    names = list(features["label"].names or map(str, range(features["label"].num_classes)))
    return splits, names, 1 if features["image"].shape[-1] == 1 else 3
