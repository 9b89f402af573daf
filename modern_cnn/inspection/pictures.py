"""Pictures of arrays, a PNG file for each function. Images are [H, W, 1 or 3], or n of them [n, H, W, C], in [0, 1]."""
import logging
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure  # not pyplot, which would look for a screen
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from modern_cnn.runs.log import plain
from modern_cnn.runs.workdir import disk_errors

log = logging.getLogger(__name__)

GAP = 1.0  # white, between tiles
NARROWEST, LETTERS = 3.0, 12  # the least width of a figure in inches; letters of a title for each inch
# Matplotlib's own font has no Chinese, Japanese or Korean; one of these may be installed.
CJK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Source Han Sans SC",
       "SimHei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS")


def _panels(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Any, np.ndarray]:
    """Return a figure, its size in inches, and its panels [rows, columns]; `options` are those of subplots."""
    figure = Figure(figsize=(max(width, NARROWEST), height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _save(figure: Any, title: str, path: Path) -> Path:
    """Write a figure with its title as a PNG file and return the path."""
    figure.suptitle(textwrap.fill(plain(title), int(LETTERS * figure.get_figwidth())), fontsize=11)
    path = Path(path)
    if not all(text.get_text().isascii() for text in figure.findobj(Text)):
        installed = set(fontManager.get_font_names())
        for text in figure.findobj(Text):
            text.set_fontfamily(["DejaVu Sans", *(name for name in CJK if name in installed)])
    with disk_errors(path), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing from font")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100, **({"pil_kwargs": {"optimize": True}} if path.suffix.lower() == ".png" else {}))
    if any("missing from font" in str(each.message) for each in caught):
        log.warning("%s has boxes for letters that no installed font has: install one, such as Noto Sans CJK", path)
    return path


def _show(axis: Any, picture: np.ndarray, title: str = "", **options: Any) -> Any:
    """Draw and return an image, or values [H, W] in [0, 1], without ticks; `options` are those of imshow."""
    axis.set_title(plain(title), fontsize=9)
    axis.set_axis_off()
    return axis.imshow(picture, **{"cmap": "gray", "interpolation": "nearest", "vmin": 0, "vmax": 1} | options)


def around_grey(values: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Return signed values [..., H, W, C] as pixels: 0 is grey; black and white from `share` of the largest size on."""
    largest = share * np.abs(values).max((-3, -2, -1), keepdims=True)
    return 0.5 + 0.5 * np.clip(values / np.where(largest == 0, 1, largest), -1, 1)


def stretched(values: np.ndarray) -> np.ndarray:
    """Return values [..., H, W] as pixels: in each image the smallest is black, the largest white; all equal: black."""
    low, high = (f(values, (-2, -1), keepdims=True) for f in (np.min, np.max))
    return (values - low) / np.where(high > low, high - low, 1)


def tiles(images: np.ndarray, columns: int, pixels: int = 1) -> np.ndarray:
    """Return images [N, H, W(, C)] in rows in one array, enlarged to `pixels` or more in width, with white between."""
    zoom = max(1, -(-pixels // images.shape[2]))
    images = images.repeat(zoom, 1).repeat(zoom, 2)
    gap, rows = max(1, images.shape[2] // 16), -(-len(images) // columns)
    padding = (0, rows * columns - len(images)), (0, gap), (0, gap), *((0, 0),) * (images.ndim - 3)
    padded = np.pad(images, padding, constant_values=GAP)
    height, width, *channels = padded.shape[1:]
    table = padded.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    return table.reshape(rows * height, columns * width, *channels)[:-gap, :-gap]


def filters(kernel: np.ndarray, title: str, path: Path) -> Path:
    """Draw filters [kh, kw, C, O]: in colour if C is 3, else each of the first three channels separately."""
    each = np.moveaxis(np.asarray(kernel, np.float32), -1, 0)
    if each.shape[3] != 3:
        each = np.moveaxis(each[..., :3], 3, 1).reshape(-1, *each.shape[1:3], 1)
    table = tiles(around_grey(each), int(np.ceil(np.sqrt(4 * len(each)))), 24)
    figure, axes = _panels(8, 8 * table.shape[0] / table.shape[1] + 0.5, 1, 1)
    _show(axes[0, 0], table)
    return _save(figure, title, path)


def feature_maps(image: np.ndarray, maps: Mapping[str, np.ndarray], title: str, path: Path, most: int = 24) -> Path:
    """Draw an image and its feature maps [H, W, C] by layers' names, the `most` that vary most, each scaled."""
    figure, axes = _panels(9, 0.6 + 1.55 * len(maps), len(maps), 2, width_ratios=(1, 8))
    for (left, right), (name, values) in zip(axes, maps.items(), strict=True):
        order = np.sort(np.argsort(-values.std((0, 1)), kind="stable")[:most])
        _show(right, tiles(stretched(np.moveaxis(values[:, :, order], -1, 0)), -(-most // 2), 32),
              f"{name}: {values.shape[0]}x{values.shape[1]}, {len(order)} of {values.shape[2]} channels")
        left.set_axis_off()
    _show(axes[0, 0], image, "the image")
    return _save(figure, title, path)


def projections(units: Sequence[tuple[str, np.ndarray, np.ndarray]], title: str, path: Path) -> Path:
    """Draw activations of units sent back to the pixels, beside the parts of the images that the units saw.

    Each of `units` is (title, projections [n, h, w, C], signed, images [n, h, w, C]).
    """
    columns, rows = min(3, len(units)), -(-len(units) // 3)
    figure, axes = _panels(3.6 * columns, 0.5 + 1.95 * rows, rows, columns)
    figure.get_layout_engine().set(wspace=0.04)
    for axis in axes.flat[len(units):]:
        axis.set_axis_off()
    for axis, (name, back, patches) in zip(axes.flat, units, strict=False):
        across = int(np.ceil(np.sqrt(len(patches))))
        left, right = (tiles(images, across, 60) for images in (around_grey(back, 0.6), patches))
        gap = np.full((len(left), left.shape[1] // 12, left.shape[2]), GAP)
        _show(axis, np.concatenate([left, gap, right], 1), name)
    return _save(figure, title, path)


def beside(images: np.ndarray, names: Sequence[str], maps: np.ndarray, title: str, path: Path, *,
           labels: Sequence[str] = (), over: float = 0.0, bar: str = "", smooth: bool = False) -> Path:
    """Draw images with `names` above their maps [N, h, w] with `labels`.

    With `over` above 0, the map is drawn over the image with this opacity. `bar` is the meaning of the colours; all
    maps then share one scale, 0 to 1, with a bar. Without it each has its own. `smooth` maps are interpolated.
    """
    count, height, width = images.shape[:3]
    figure, axes = _panels(1.5 * count + (0.8 if bar else 0), 3.4 + 0.25 * bool(labels), 2, count)
    options: dict[str, Any] = {} if bar else {"vmin": None, "vmax": None}
    options |= {"cmap": "inferno", "alpha": over or None, "interpolation": "bilinear" if smooth else "nearest"}
    drawn, labels = None, labels or [""] * count
    for (top, bottom), image, name, values, label in zip(axes.T, images, names, maps, labels, strict=True):
        _show(top, image, name)
        if over:
            _show(bottom, image)
        drawn = _show(bottom, values, label, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **options)
    if bar:
        figure.colorbar(drawn, ax=axes[1], label=bar, shrink=0.9)
    return _save(figure, title, path)


def norms(records: Sequence[Mapping[str, Any]], percentiles: Sequence[int], title: str, path: Path,
          most: int = 12) -> Path:
    """Draw how the running mean and deviation of batch normalisation moved, in a panel for each of `most` layers.

    A record has 'epoch', 'mean' and 'deviation' (layer -> three percentiles over its channels).
    """
    names = sorted(records[0]["mean"], key=_by_number)
    names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))]
    columns = min(len(names), 5 if len(names) % 5 == 0 else 4)
    rows = -(-len(names) // columns)
    figure, axes = _panels(2.2 * columns + 0.6, 1.9 * rows + 0.8, rows, columns, sharex=True)
    epochs = [record["epoch"] for record in records]
    for axis in axes.flat[len(names):]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        for kind, color in (("mean", "tab:blue"), ("deviation", "tab:orange")):
            low, middle, high = np.array([record[kind][name] for record in records]).T
            axis.fill_between(epochs, low, high, color=color, alpha=0.25, linewidth=0)
            axis.plot(epochs, middle, color=color, linewidth=1.3, label=f"running {kind}")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))  # whole epochs
        axis.grid(alpha=0.3)
    for axis in axes.flat[max(0, len(names) - columns):len(names)]:
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelbottom=True)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    shaded = f"percentiles {percentiles[0]} to {percentiles[2]}"
    return _save(figure, f"{title}\nmedian over the channels; shaded: {shaded}", path)


def gradients(records: Sequence[Mapping[str, Any]], layers: Sequence[str], title: str, path: Path,
              most: int = 6) -> Path:
    """Draw the size of each layer's gradient, a line for each of `most` records; the layers are in order of depth.

    A record has 'step' and 'gradient' (layer -> size). Sizes of 0 have no place on the logarithmic axis.
    """
    numbers = np.linspace(0, len(records) - 1, min(most, len(records))).round().astype(int)
    chosen = [records[i] for i in np.unique(numbers)]
    figure, axes = _panels(max(5.0, min(10.0, 2 + 0.35 * len(layers))), 4.6, 1, 1)
    axis = axes[0, 0]
    for i, record in enumerate(chosen):
        color = colormaps["viridis"](0.9 * (1 - i / max(1, len(chosen) - 1)))
        sizes = [record["gradient"].get(layer) or np.nan for layer in layers]
        axis.plot(range(len(layers)), sizes, color=color, marker="o", markersize=3, linewidth=1.2,
                  label=f"step {record['step']:,}")
    plain_log_axis(axis)
    named = np.unique(np.linspace(0, len(layers) - 1, min(30, len(layers))).round().astype(int))
    axis.set_xticks(named, [plain(layers[int(i)]) for i in named], rotation=90, fontsize=7)
    axis.set_xlabel("layer, from the image to the class", fontsize=9)
    axis.set_ylabel("root mean square of the gradient", fontsize=9)
    axis.legend(fontsize=8)
    return _save(figure, title, path)


def plain_log_axis(axis: Any) -> None:
    """Give a panel a grid and a logarithmic y axis with plain numbers: 0.0001, 3."""
    low, high = axis.dataLim.intervaly
    axis.set_yscale("log")
    subs = (1, 2, 3, 5) if high < 10 * low else (1, 3) if high < 300 * low else (1,)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(lambda value, _: np.format_float_positional(value, 3, fractional=False, trim="-"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)


def _by_number(name: str) -> list[str | int]:
    """Return a key that sorts 'block10/norm2' after 'block9/norm1'."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def surface(panels: Sequence[tuple[str, str, Sequence[float], Mapping[str, Any]]], title: str, path: Path) -> Path:
    """Draw panels (title, what a step is, steps [n], {label of a line: (loss [n], accuracy [n])}); step 0 is marked."""
    figure, axes = _panels(4.6 * len(panels), 5.4, 2, len(panels), sharex="col")
    for (top, bottom), (name, xlabel, steps, lines) in zip(axes.T, panels, strict=True):
        for axis, number in ((top, 0), (bottom, 1)):
            for label, values in lines.items():
                axis.plot(steps, values[number], marker="o", markersize=2.5, linewidth=1.3, label=label)
            axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
            axis.grid(alpha=0.3)
        top.set_title(name, fontsize=10)
        plain_log_axis(top)
        top.legend(fontsize=8)
        bottom.xaxis.set_major_locator(MaxNLocator(6))
        bottom.set_ylim(0, 1)
        bottom.set_xlabel(xlabel, fontsize=9)
    axes[0, 0].set_ylabel("cross-entropy (nats)")
    axes[1, 0].set_ylabel("accuracy")
    return _save(figure, title, path)


def augmented(images: np.ndarray, names: Sequence[str], draws: np.ndarray, title: str, path: Path) -> Path:
    """Draw images, each at the left of a row of its augmented versions [K, N, H, W, C]."""
    columns = len(draws) + 1
    figure, axes = _panels(1.05 * columns, 1.12 * len(images) + 0.6, len(images), columns)
    for row, image, name, versions in zip(axes, images, names, draws.swapaxes(0, 1), strict=True):
        _show(row[0], image, name)
        for axis, version in zip(row[1:], versions, strict=True):
            _show(axis, version)
    axes[0, 0].set_title(plain(f"original\n{names[0]}"), fontsize=9)
    axes[0, columns // 2].set_title("augmented", fontsize=9)
    return _save(figure, title, path)


def confusion(matrix: np.ndarray, names: Sequence[str], title: str, path: Path) -> Path:
    """Draw a confusion matrix int [K, K], true classes in its rows; the colour is the share of the row.

    Up to 50 classes are named, and up to 25 have their counts in the fields.
    """
    count = len(matrix)
    side = float(np.clip(0.36 * count + 2.4, 4.5, 14))
    figure, axes = _panels(side, side, 1, 1)
    axis, shares = axes[0, 0], matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if count <= 50:
        short = [plain(name if len(name) <= 20 else f"{name[:18]}...") for name in names]
        axis.set_xticks(range(count), short, rotation=90, fontsize=8)
        axis.set_yticks(range(count), short, fontsize=8)
    for row, column in np.argwhere(matrix) if count <= 25 else ():
        axis.text(column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=8,
                  color="white" if shares[row, column] > 0.5 else "black")
    axis.set_xlabel("predicted class", fontsize=9)
    axis.set_ylabel("true class", fontsize=9)
    return _save(figure, title, path)


def reliability(confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, title: str, path: Path) -> Path:
    """Draw the accuracy of predictions by their confidence, [B] means of bins, above how many images a bin has."""
    figure, axes = _panels(4.8, 5.4, 2, 1, sharex=True, height_ratios=(3, 1))
    top, bottom = axes[:, 0]
    top.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":", label="as confident as right")
    top.plot(confidence, accuracy, marker="o", markersize=4, linewidth=1.4, label="this network")
    bottom.vlines(confidence, 0, counts, linewidth=6)
    top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    bottom.set(ylim=(0, None), ylabel="images", xlabel="confidence: probability of the predicted class")
    top.legend(fontsize=8, loc="upper left")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    return _save(figure, title, path)
