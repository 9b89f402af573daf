"""A report on a trained network: its figures by class, its confusions, its worst images, and its calibration."""
import csv
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modern_cnn.data import sources
from modern_cnn.data.spec import Files
from modern_cnn.errors import UserError
from modern_cnn.inspection import pictures
from modern_cnn.reuse import scores
from modern_cnn.runs import html_page, load
from modern_cnn.runs.workdir import disk_errors

WORST = 25  # images with the highest loss that are shown
PAIRS = 10  # of classes that are confused most often
STYLE = """
.wide img { max-width: 100%; height: auto } td + td, th + th { text-align: right }
dl { display: grid; grid-template-columns: fit-content(40%) 1fr; gap: .3rem 1.2rem }
dd { margin: 0; overflow-wrap: anywhere }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem }
figure { margin: 0; font-size: .85rem; line-height: 1.3; overflow-wrap: anywhere } figure img { width: 100% }
.images .small { image-rendering: pixelated } small { color: #555 }
"""


def write(out: Path, directory: str | Path, split: str = "test", data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write report.html, classes.csv, confusion.csv, confusion.png and reliability.png into the folder `out`.

    They are of the result of a workdir, or of zoo:NAME, on a split of its own or of other data. Return the scores, and
    raise UserError, as `load.evaluate_workdir`; raise it also for an `out` in the folder of the data or that cannot be
    written, and for logits that are not finite.
    """
    sources.keep_out(out, load.data_section(directory, split, data), "report")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)  # before the work, which may take long
        found = load.predict_split(directory, split, data)
        wrong = int(np.sum(~np.isfinite(found.logits).all(1)))
        if wrong:
            raise UserError(f"the network in {directory} gives logits that are not finite for {wrong} of the "
                            f"{len(found.logits)} images of {split}: there is nothing to report")
        names = found.dataset.spec.class_names
        matrix = scores.confusion_matrix(found.labels, found.logits.argmax(1), len(names))
        _write_csv(out / "classes.csv", _class_rows(matrix, names))
        _write_csv(out / "confusion.csv", [["true class", *names], *(
            [name, *map(str, row)] for name, row in zip(names, matrix, strict=True))])
        title = f"{found.trained.settings.model['name']} on {found.dataset.spec.source}, {split}"
        (out / "report.html").write_text(_page(out, title, found, split, matrix, str(directory)), "utf-8",
                                         "backslashreplace")
    return found.scores


def _class_rows(matrix: np.ndarray, names: Sequence[str], digits: int = 6) -> list[list[str]]:
    """Return a heading and a line for each class; a share that is not defined is ''."""
    figures, images, predicted, right = scores.by_class(matrix), matrix.sum(1), matrix.sum(0), np.diag(matrix)
    columns = (figures.recall, *scores.wilson(right, images), figures.precision, figures.f1)
    return [["class", "images", "predicted", "correct", "recall", "recall_low", "recall_high", "precision", "f1"],
            *([name, str(images[i]), str(predicted[i]), str(right[i]),
               *("" if np.isnan(column[i]) else f"{column[i]:.{digits}f}" for column in columns)]
              for i, name in enumerate(names))]


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _percent(share: float, low: float, high: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _class_table(matrix: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Return a heading, a line for each class, and the means over the classes that have the figure, as a page shows."""
    figures, images, predicted = scores.by_class(matrix), matrix.sum(1), matrix.sum(0)
    low, high = scores.wilson(np.diag(matrix), images)

    def percent(share: float) -> str:
        return "–" if np.isnan(share) else f"{100 * share:.1f} %"

    means = [percent(column[~np.isnan(column)].mean()) for column in (figures.recall, figures.precision, figures.f1)]
    return [["class", "images", "predicted", "accuracy, recall", "precision", "F1"],
            *([name, f"{images[i]:,}", f"{predicted[i]:,}", _percent(figures.recall[i], low[i], high[i]),
               percent(figures.precision[i]), percent(figures.f1[i])] for i, name in enumerate(names)),
            ["mean over the classes", "", "", *means]]


def _pairs(matrix: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Return a heading and the PAIRS of classes (true, predicted) that are confused most often."""
    errors = matrix * (1 - np.eye(len(matrix), dtype=int))
    order = np.argsort(-errors, axis=None, kind="stable")[:PAIRS]
    return [["true, predicted", "images"], *(
        [f"{names[i]}, {names[j]}", f"{errors[i, j]:,}"]
        for i, j in zip(*np.unravel_index(order, errors.shape), strict=True) if errors[i, j])]


def _picture(path: Path, text: str) -> str:
    """Return a picture as HTML, with the text that stands for it where it is not shown."""
    with Image.open(path) as picture:
        readable = 0.6 * picture.width  # on a narrower screen it is scrolled
    return (f'<div class=wide><img src="{html_page.picture_uri(path.read_bytes())}" alt="{html.escape(text)}" '
            f'style="min-width: {readable:.0f}px"></div>')


def _worst(found: load.Predicted, split: str) -> str:
    """Return the images with the highest loss as HTML: the worst first, with true and predicted class."""
    logs, names = scores.log_softmax(found.logits), found.dataset.spec.class_names
    losses = -logs[np.arange(len(logs)), found.labels]
    chosen = np.argsort(-losses, kind="stable")[:WORST]
    pixels, _ = load.examples(found.dataset, split, chosen)
    examples, figures = found.dataset.splits[split], []
    files = examples.paths if isinstance(examples, Files) else sources.file_names(found.section, split)
    for i, image in zip(chosen, pixels, strict=True):
        file, best = io.BytesIO(), found.logits[i].argmax()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "PNG")
        place = str(files[i]) if len(files) else f"image {i} of {split}"
        true, predicted = (html.escape(f"{names[c]} ({np.exp(logs[i, c]):.3f})") for c in (found.labels[i], best))
        uri = html_page.picture_uri(file.getvalue())
        figures.append(f'<figure><img class={"small" if len(image) < 100 else "large"} src="{uri}" '
                       f'alt="{html.escape(place)}"><figcaption>true: {true}<br>predicted: {predicted}<br>'
                       f"loss {losses[i]:.3f}<br><small>{html.escape(place)}</small></figcaption></figure>")
    return f"<div class=images>{''.join(figures)}</div>"


def _page(out: Path, title: str, found: load.Predicted, split: str, matrix: np.ndarray, workdir: str) -> str:
    """Return the report as HTML; the pictures in it are files in `out` too."""
    names, right, count = found.dataset.spec.class_names, int(np.trace(matrix)), int(matrix.sum())
    confidence = np.exp(scores.log_softmax(found.logits).max(1))
    calibration = scores.calibrate(confidence, found.logits.argmax(1) == found.labels)
    confusion = pictures.confusion(matrix, names, title, out / "confusion.png")
    reliability = pictures.reliability(*calibration[1:], title, out / "reliability.png")
    low, high = map(float, scores.wilson(right, count))
    accuracy = _percent(right / count, low, high)
    summary = [["accuracy", accuracy], ["correct", f"{right:,} of {count:,} images"],
               ["loss (nats)", f"{found.scores['loss']:.4f}"],
               *([["top-5 accuracy", f"{100 * found.scores['top5']:.1f} %"]] if "top5" in found.scores else []),
               ["expected calibration error", f"{100 * calibration.error:.1f} %"], ["network", workdir],
               ["step", f"{found.trained.step:,}"], ["images from", found.dataset.spec.origin]]
    pairs = _pairs(matrix, names)
    return html_page.document(title, f"""
<dl>{"".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in summary)}</dl>
<p>Behind an accuracy stands its 95 % confidence interval (Wilson): with other images of the same kind, the accuracy
may be anywhere in it.</p>
<h2>Classes</h2>
<p>Accuracy, or recall: the share of the images of a class that are predicted as this class. Precision: the share of the
images predicted as a class that are of this class. F1: the harmonic mean of both. A dash: there are no such images.</p>
{html_page.table(_class_table(matrix, names))}
<h2>Confusion matrix</h2>
<p>A row has the images of a class, a column those predicted as a class.</p>
{_picture(confusion, "confusion matrix; confusion.csv has its numbers")}
{f"<p>The most frequent errors:</p>{html_page.table(pairs)}" if pairs[1:] else "<p>There are no errors.</p>"}
<h2>Images with the highest loss</h2>
<p>The worst first. Behind a class stands its probability. Some of these images may have a wrong label.</p>
{_worst(found, split)}
<h2>Calibration</h2>
<p>Predictions with a confidence of 80 % should be right in 80 % of the cases. The expected calibration error is the
mean distance between confidence and accuracy, over {scores.BINS} bins of confidence.</p>
{_picture(reliability, f"accuracy by confidence; expected calibration error {calibration.error:.3f}")}
""", STYLE)
