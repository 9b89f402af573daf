"""What a trained network sees in image files."""
import csv
import dataclasses
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from modern_cnn.data import augment, formats
from modern_cnn.errors import UserError
from modern_cnn.runs import load as evaluation
from modern_cnn.runs import workdir

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Of one file: (class name, probability) of the likeliest classes, the likeliest first."""
    file: str
    classes: list[tuple[str, float]]


def image_files(paths: Sequence[str]) -> list[str]:
    """The files among `paths`, and below its folders all that end as images do, in order.

    Raises:
      UserError: no paths, one that does not exist, or a folder without images.
    """
    if not paths:
        raise UserError("no files: name images, or folders of images")
    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            found = [entry.path for entry in formats.files_under(path)
                     if entry.name.lower().endswith(formats.IMAGE_ENDINGS)]
            if not found:
                raise UserError(f"{path} holds no images (looked for {', '.join(formats.IMAGE_ENDINGS)})")
            files += found
        elif os.path.exists(path):
            files.append(path)
        else:
            raise UserError(f"there is no file or folder {path}")
    return files


def read_image(file: str, image_shape: Sequence[int]) -> np.ndarray:
    """uint8 [H, W, C] as training reads it: resized to the network's size, gray or RGB as the network has it.

    Raises:
      UserError: it does not decode, or has another size than the images of a network that are not square.
    """
    height, width, channels = image_shape
    image = formats.decode(Path(file), height if height == width else 0)
    if image.shape[:2] != (height, width):
        raise UserError(f"{file} is {image.shape[1]}x{image.shape[0]}; the network takes {width}x{height} images")
    if channels == 1:
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return formats.in_color(image)


def predict(directory: str | Path, files: Sequence[str], top_k: int = 1) -> Iterator[Prediction | UserError]:
    """For each file, in order, its prediction by a run's result, or why it cannot be read; a batch at a time.

    Args:
      directory: the workdir.
      top_k: how many classes to name; of fewer, all.
    Raises:
      UserError: no good checkpoint, or a network whose images are neither gray nor RGB.
    """
    config, _ = workdir.read_run(Path(directory))
    module, variables, run, _ = evaluation.load_run(directory)
    data = run["data"]
    if data["image_shape"][2] not in (1, 3):
        raise UserError(f"the network in {directory} takes images of {data['image_shape'][2]} channels; files have 1 "
                        "or 3")

    @jax.jit
    def probabilities(variables, images):
        logits = module.apply(variables, augment.normalize(images, data["mean"], data["std"]), train=False)
        return jax.nn.softmax(logits.astype(np.float32))

    def read(file: str) -> np.ndarray | UserError:
        try:
            return read_image(file, data["image_shape"])
        except UserError as e:
            return e

    size = min(config["data"]["batch_size"], len(files))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), size):
            names = files[start:start + size]
            images = list(pool.map(read, names))
            batch = np.zeros((size, *data["image_shape"]), np.uint8)  # always as large: compiled once
            for row, image in enumerate(images):
                if not isinstance(image, UserError):
                    batch[row] = image
            found = np.asarray(probabilities(variables, batch))
            for name, image, row in zip(names, images, found, strict=False):
                best = np.argsort(-row, kind="stable")[:top_k]
                yield image if isinstance(image, UserError) else Prediction(
                    name, [(data["class_names"][i], float(row[i])) for i in best])


def _table(predictions: Sequence[Prediction]) -> str:
    """A line a file, its classes side by side."""
    if not predictions:
        return ""
    rows = [[p.file, *(f"{name} {100 * share:5.1f} %" for name, share in p.classes)] for p in predictions]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join(lines) + "\n"


def _csv(predictions: Sequence[Prediction]) -> str:
    """A row for each file and class: file, rank from 1, class, probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "rank", "class", "probability"))
    writer.writerows((p.file, rank, *chosen) for p in predictions for rank, chosen in enumerate(p.classes, start=1))
    return text.getvalue()


def _json(predictions: Sequence[Prediction]) -> str:
    return json.dumps([{"file": p.file, "predictions": [{"class": name, "probability": share}
                                                        for name, share in p.classes]} for p in predictions]) + "\n"


FORMATS = {"table": _table, "csv": _csv, "json": _json}


def report(directory: str | Path, paths: Sequence[str], *, top_k: int = 1, format: str = "table",
           out: str = "") -> None:
    """Predicts for files and folders, and writes that to `out` ('': prints it), as one of FORMATS.

    Raises:
      UserError: bad input; or, after all else has been written, files that could not be read.
    """
    done, failed = [], []
    for result in predict(directory, image_files(paths), top_k):
        (failed if isinstance(result, UserError) else done).append(result)
        if isinstance(result, UserError):
            log.warning("skipped: %s", result)
    text = FORMATS[format](done)
    if out:
        with workdir.disk_errors(Path(out)):
            Path(out).write_text(text)
    else:
        print(text, end="")
    if failed:
        raise UserError(f"{len(failed)} of {len(done) + len(failed)} files could not be read; they are named above, "
                        "and the others' predictions are written")
