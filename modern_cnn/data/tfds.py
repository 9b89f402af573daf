"""TensorFlow Datasets, asked once for each set: what it prepares is decoded to arrays and cached by `sources`."""
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
from PIL import Image
from tqdm import tqdm

from modern_cnn.data import streamed as stream
from modern_cnn.data.formats import Split, check_memory, kept, resize
from modern_cnn.data.sources import NO_NETWORK
from modern_cnn.errors import UserError

log = logging.getLogger(__name__)

PROBE_SECONDS = 6  # a host that has not answered by then counts as out of reach


def _unreachable(url: str) -> str | None:
    """Why nothing can be fetched from `url`'s host, or None if it answers. Takes at most PROBE_SECONDS."""
    reason = [f"no answer within {PROBE_SECONDS} s"]

    def probe():
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "modern_cnn"})
            urllib.request.urlopen(request, timeout=PROBE_SECONDS - 1).close()
            reason[0] = None
        except urllib.error.HTTPError:
            reason[0] = None  # it answered: whether it has the file is for TFDS to say
        except (OSError, ValueError, http.client.HTTPException) as e:
            reason[0] = str(getattr(e, "reason", e))

    thread = threading.Thread(target=probe, daemon=True)  # a look-up of the name has no time limit of its own
    thread.start()
    thread.join(PROBE_SECONDS)
    return reason[0]


def _check_downloads(builder, name: str, manual_dir: str) -> None:
    """Before TFDS would retry for minutes: are the files at hand, or can their hosts be reached?"""
    wanted = dict(builder.url_infos or {})
    if manual_dir:
        if not Path(manual_dir).expanduser().is_dir():
            raise UserError(f"config.data.manual_dir={manual_dir!r}: there is no such directory")
        from tensorflow_datasets.core.download import checksums

        found = {url: Path(manual_dir).expanduser() / (info.filename or Path(urlsplit(url).path).name)
                 for url, info in wanted.items()}
        missing = [path.name for path in found.values() if not path.is_file()]
        if missing:
            raise UserError(f"config.data.manual_dir={manual_dir!r} lacks files of tfds:{name}: {', '.join(missing)}")
        for url, path in found.items():
            own = checksums.compute_url_info(path)
            if own != wanted[url]:
                log.warning("%s is not byte for byte what TFDS knows (another compression?); taken as it is", path)
            builder.url_infos[url] = own  # TFDS verifies against the checksums of the files at hand
        return
    for url in list(wanted)[:1]:
        reason = _unreachable(url)
        if reason:
            raise UserError(f"tfds:{name} is not prepared on this machine and {urlsplit(url).netloc} cannot be reached "
                            f"({reason}); {NO_NETWORK}")


def _builder(name: str, **options: Any):
    try:
        import tensorflow_datasets as tfds
    except ImportError as e:
        raise UserError(f"tfds:{name} needs TensorFlow Datasets, which this Python does not have ({e}); "
                        f"pip install tensorflow-datasets; {NO_NETWORK}") from e
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        return tfds.builder(name, **options)
    except tfds.core.DatasetNotFoundError as e:
        names = ["digits", *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"TensorFlow Datasets has no {name!r}; {hint}{NO_NETWORK}") from e
    except (ValueError, AssertionError, ImportError) as e:
        raise UserError(f"TensorFlow Datasets cannot open {name!r}: {e or type(e).__name__}") from e


def _prepared(name: str, manual_dir: str, **options: Any):
    """The builder of a classification set that is ready to be read. Raises UserError as `read`."""
    builder = _builder(name, **options)
    features = builder.info.features or {}
    if "image" not in features or "label" not in features or not hasattr(features["label"], "num_classes"):
        raise UserError(f"tfds:{name} is not an image classification set: its features are "
                        f"{', '.join(sorted(features))}, where 'image' and 'label' are needed")
    prepared = builder.data_path.exists()
    if not prepared:
        _check_downloads(builder, name, manual_dir)
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
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


def read(name: str, image_size: int, manual_dir: str) -> tuple[dict[str, Split], list[str], bool]:
    """The splits of a TFDS classification set as arrays, prepared first if this machine has not got it.

    Returns (splits, class_names, own): `own` where TFDS declares one size for all images, and they are `kept` at it.

    Args:
      name: of the set, perhaps with a config and a version: 'cifar10', 'emnist/letters'.
      image_size: images that are not kept are resized to this; 0 leaves all alone, which must then be of one size.
      manual_dir: a folder with the set's files, used instead of downloading and whatever their checksums; or ''.
    Raises:
      UserError: no such set, not one of images and labels, or its files are out of reach.
    """
    builder = _prepared(name, manual_dir)
    features = builder.info.features
    declared = features["image"].shape
    own = None not in declared[:2] and kept(image_size, declared)
    splits = {ours: _arrays(builder, theirs, 0 if own else image_size, name)
              for ours, theirs in _splits(builder, name).items()}
    return splits, list(features["label"].names or []), own


def _splits(builder, name: str) -> dict[str, str]:
    """{our name of a split: theirs}. Raises UserError where there is none to train on."""
    names = builder.info.splits
    if "train" not in names:
        raise UserError(f"tfds:{name} has no split 'train', only {', '.join(names)}")
    wanted = {"train": "train", "test": "test" if "test" in names else "validation"}
    if "test" in names and "validation" in names:
        wanted["validation"] = "validation"
    return {ours: theirs for ours, theirs in wanted.items() if theirs in names}


def records(name: str, manual_dir: str) -> tuple[dict[str, stream.Records], list[str], int]:
    """(splits, class names, channels) of a set whose examples stay encoded on the disk, for `stream` to decode.

    It is prepared as ArrayRecord files, of which any example can be read by its number. Arguments and errors as `read`.
    """
    builder = _prepared(name, manual_dir, file_format="array_record")
    features = builder.info.features
    import tensorflow_datasets as tfds

    splits = {}
    for ours, theirs in _splits(builder, name).items():
        source = builder.as_data_source(theirs, decoders={"image": tfds.decode.SkipDecoding()})
        splits[ours] = stream.Records(source, f"tfds:{name}, {theirs}", np.arange(len(source)))
    return splits, list(features["label"].names or map(str, range(features["label"].num_classes))), \
        1 if features["image"].shape[-1] == 1 else 3


def _arrays(builder, split: str, image_size: int, name: str) -> Split:
    import tensorflow_datasets as tfds

    images, labels = [], []
    for example in tqdm(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)), f"decoding {split}",
                        builder.info.splits[split].num_examples, leave=False, disable=None, unit="img"):
        image = example["image"]
        if not images:
            height, width = (image_size, image_size) if image_size else image.shape[:2]
            check_memory(f"tfds:{name}", builder.info.splits[split].num_examples, height, width)
        if image_size and image.shape[:2] != (image_size, image_size):
            gray = image.shape[2] == 1
            image = np.asarray(resize(Image.fromarray(image[:, :, 0] if gray else image), image_size))
            image = image[..., None] if gray else image
        if images and image.shape != images[0].shape:
            raise UserError(f"tfds:{name}: images differ in size ({images[0].shape} and {image.shape}); "
                            "set --config.data.image_size=N to resize them all to NxN")
        images.append(image)
        labels.append(example["label"])
    return np.stack(images), np.array(labels, np.int32)
