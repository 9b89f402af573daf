"""Predictions of a trained network for image files."""
import csv
import dataclasses
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from modern_cnn import cli
from modern_cnn.data import augment, decoding, folders
from modern_cnn.errors import UserError
from modern_cnn.runs.load import load_run
from modern_cnn.runs.workdir import disk_errors
from modern_cnn.training import finetune
from modern_cnn.training.steps import evaluation_logits

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of a file, the most probable first, as (name, probability)."""
    file: str
    classes: list[tuple[str, float]]
    features: np.ndarray | None = None  # float32 [D], `finetune.features` of its image, where they are asked for


def image_files(paths: Sequence[str]) -> list[str]:
    """Return the files among `paths` and all images below its folders, in order. Raise UserError if one gives none."""
    if not paths:
        raise UserError("no files: name images, or folders of images")
    files: list[str] = []
    for path in paths:
        found = [path]
        if os.path.isdir(path):
            found = list(folders.images_under(path))
            if not found:
                raise UserError(f"{path} holds no images (looked for {', '.join(decoding.IMAGE_ENDINGS)})")
        elif not os.path.exists(path):
            raise UserError(f"there is no file or folder {path}")
        files += found
    return files


def read_image(file: str, image_shape: Sequence[int], scaled: int = 0) -> np.ndarray:
    """Return an image uint8 [H, W, C] as training reads it: in the network's size, and gray or RGB as the network.

    `scaled` is the config's data.resize. Raise UserError if the file does not decode, or has another size where the
    network's images are not square.
    """
    height, width, channels = image_shape
    image = decoding.decode(Path(file), height if height == width else 0, scaled=scaled)
    if image.shape[:2] != (height, width):
        raise UserError(f"{file} is {image.shape[1]}x{image.shape[0]}; the network takes {width}x{height} images")
    if channels == 1:
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return decoding.to_rgb(image)


def predict(directory: str | Path, files: Sequence[str], top_k: int = 1,
            features: bool = False) -> Iterator[Prediction | UserError]:
    """Yield for each file, in order, its prediction by the result of a workdir, or the error that it cannot be read.

    A prediction has at most `top_k` classes, and with `features` those of the image. Raise UserError for no good
    checkpoint, or images not of 1 or 3 channels.
    """
    trained = load_run(directory)
    spec, section = trained.spec, trained.settings.augment
    if spec.image_shape[2] not in (1, 3):
        raise UserError(f"the network in {directory} takes images of {spec.image_shape[2]} channels, but image files "
                        "have 1 or 3")

    @jax.jit
    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        images = augment.normalize(images, spec.mean, spec.std)
        logits = evaluation_logits(trained.module, variables, images, section.test_flip, section.test_shift)
        before_head = finetune.features(trained.module, variables, images) if features else None
        return jax.nn.softmax(logits.astype(np.float32)), before_head

    def read(file: str) -> np.ndarray | UserError:
        try:
            return read_image(file, spec.image_shape, trained.settings.data.resize)
        except UserError as e:
            return e

    size = min(trained.settings.data.batch_size, len(files))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), size):
            images = list(pool.map(read, files[start:start + size]))
            batch = np.zeros((size, *spec.image_shape), np.uint8)  # all of one size, so that it is compiled once
            for row, image in enumerate(images):
                if not isinstance(image, UserError):
                    batch[row] = image
            found, before_head = jax.device_get(forward(trained.variables, batch))
            for name, image, row, own in zip(files[start:], images, found, before_head if features else [None] * size,
                                             strict=False):
                best = np.argsort(-row, kind="stable")[:top_k]
                yield image if isinstance(image, UserError) else Prediction(
                    name, [(spec.class_names[i], float(row[i])) for i in best], own)


def text_of(predictions: Sequence[Prediction], format: str) -> str:
    """Return predictions as 'json', as 'csv' (file, rank from 1, class, probability), or as 'table' (a line a file)."""
    if format == "json":
        return json.dumps([{"file": p.file, "predictions": [{"class": name, "probability": share}
                                                            for name, share in p.classes]} for p in predictions]) + "\n"
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("file", "rank", "class", "probability"))
        writer.writerows((p.file, rank, *chosen) for p in predictions for rank, chosen in enumerate(p.classes, start=1))
        return text.getvalue()
    rows = [[p.file, *(f"{name} {100 * share:5.1f} %" for name, share in p.classes)] for p in predictions]
    ranks = max((len(p.classes) for p in predictions), default=1)
    heading = ["file", *(f"rank {rank}" for rank in range(1, ranks + 1))]
    return "".join(f"{line}\n" for line in cli.text_table([heading, *rows], "l" + "r" * ranks))


def write_embeddings(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write an npz file with `names` [N] of files, as text, and their `features` float32 [N, D]."""
    with open(path, "wb") as file:  # of a path, numpy would change the ending
        np.savez(file, names=np.array([p.file for p in predictions], str),
                 features=np.array([p.features for p in predictions], np.float32))


def _make_writable(path: Path, inputs: Sequence[str]) -> None:
    """Make the folder of a file that will be written.

    Raise UserError, before the work, if it could not be written, or would replace an image.
    """
    if path.is_file() and (path.name.lower().endswith(decoding.IMAGE_ENDINGS)
                          or any(os.path.exists(file) and path.samefile(file) for file in inputs)):
        raise UserError(f"{path} is an image that the output would replace; does --out or --embeddings lack its value?")
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe, /dev/null
        return
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()


def report(directory: str | Path, paths: Sequence[str], top_k: int = 1, format: str = "table", out: str = "",
           embeddings: str = "") -> None:
    """Write the predictions for files and folders to `out` (if '', print them), in a format of `text_of`.

    With `embeddings` the features before the head go to this file (`write_embeddings`). Raise UserError for bad input;
    or, after the other predictions were written, for files that could not be read.
    """
    done, failed = [], []
    for path in filter(None, (out, embeddings)):
        _make_writable(Path(path), paths)
    if out and os.path.realpath(out) == os.path.realpath(embeddings):
        raise UserError(f"--out and --embeddings are the same file, {out}")
    files = image_files(paths)
    for result in tqdm(predict(directory, files, top_k, bool(embeddings)), "predicting", len(files), leave=False,
                       disable=None, unit="img"):
        (failed if isinstance(result, UserError) else done).append(result)
        if isinstance(result, UserError):
            log.warning("skipped: %s", result)
    text = text_of(done, format)
    if out:
        with disk_errors(Path(out)):
            Path(out).write_text(text, "utf-8", "backslashreplace")
    else:
        print(text, end="")
    if embeddings:
        with disk_errors(Path(embeddings)):
            write_embeddings(Path(embeddings), done)
    if failed:
        raise UserError(f"{len(failed)} of {len(done) + len(failed)} files could not be read; they are named above, "
                        "and the predictions for the others were written")
