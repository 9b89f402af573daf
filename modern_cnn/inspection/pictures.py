"""Pictures of arrays: each function writes one PNG file and returns its path."""
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DPI = 100
GAP = 1.0  # white, between tiles
HEAT = "inferno"


def _figure(width: float, height: float) -> Any:
    """Return a matplotlib figure, its size in inches; made without pyplot, which would look for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, title: str, path: Path) -> Path:
    """Write a figure with its title as a PNG file and return the path."""
    figure.suptitle(title, fontsize=11)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, pil_kwargs={"optimize": True})
    return path


def _show(axis: Any, picture: np.ndarray, title: str = "", **options: Any) -> None:
    """Draw an image [H, W], [H, W, 1] or [H, W, 3] in [0, 1] without ticks; `options` are those of imshow."""
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    axis.imshow(picture, **{"cmap": "gray", "interpolation": "nearest"}
                | ({} if "cmap" in options else {"vmin": 0, "vmax": 1}) | options)
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def around_grey(values: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Return signed values [..., H, W, C] as pixels: 0 is grey; black and white from `share` of the largest size on."""
    largest = share * np.abs(values).max((-3, -2, -1), keepdims=True)
    return 0.5 + 0.5 * np.clip(values / np.where(largest == 0, 1, largest), -1, 1)


def stretched(values: np.ndarray) -> np.ndarray:
    """Return values [..., H, W] as pixels: in each image the smallest is black, the largest white; all equal: black."""
    low, high = (f(values, (-2, -1), keepdims=True) for f in (np.min, np.max))
    return (values - low) / np.where(high > low, high - low, 1)


def tiles(images: np.ndarray, columns: int, pixels: int = 1) -> np.ndarray:
    """Return images [N, H, W(, C)] in rows in one array, each enlarged to a width of `pixels` or more.

    The space between them and after the last one is white.
    """
    zoom = max(1, -(-pixels // images.shape[2]))
    images = images.repeat(zoom, 1).repeat(zoom, 2)
    gap = max(1, images.shape[2] // 16)
    rows = -(-len(images) // columns)
    extra = rows * columns - len(images)
    padded = np.pad(images, ((0, extra), (0, gap), (0, gap), *((0, 0),) * (images.ndim - 3)), constant_values=GAP)
    padded[len(images):] = GAP
    height, width, *channels = padded.shape[1:]
    table = padded.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    return table.reshape(rows * height, columns * width, *channels)[:-gap, :-gap]


def filters(kernel: np.ndarray, title: str, path: Path) -> Path:
    """Draw filters [kh, kw, C, O]: in colour if C is 3, else each of the first three channels separately."""
    each = np.moveaxis(np.asarray(kernel, np.float32), -1, 0)
    if each.shape[3] != 3:
        each = np.moveaxis(each[..., :3], 3, 1).reshape(-1, *each.shape[1:3], 1)
    columns = int(np.ceil(np.sqrt(4 * len(each))))
    table = tiles(around_grey(each), columns, 24)
    figure = _figure(8, 8 * table.shape[0] / table.shape[1] + 0.5)
    _show(figure.subplots(), table)
    return _save(figure, title, path)


def feature_maps(image: np.ndarray, maps: Mapping[str, np.ndarray], title: str, path: Path, most: int = 24) -> Path:
    """Draw an image and its feature maps, each from black to white on its own scale.

    Args:
      maps: name of a layer -> [H, W, C].
      most: channels that are shown of each layer: those that vary most.
    """
    figure = _figure(9, 0.6 + 1.55 * len(maps))
    axes = figure.subplots(len(maps), 2, squeeze=False, width_ratios=(1, 8))
    for row, (name, values) in zip(axes, maps.items(), strict=True):
        order = np.sort(np.argsort(-values.std((0, 1)), kind="stable")[:most])
        _show(row[1], tiles(stretched(np.moveaxis(values[:, :, order], -1, 0)), -(-most // 2), 32),
              f"{name}: {values.shape[0]}x{values.shape[1]}, {len(order)} of {values.shape[2]} channels")
        row[0].set_axis_off()
    _show(axes[0, 0], image, "the image")
    return _save(figure, title, path)


def projections(units: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Draw activations of units sent back to the pixels, beside the parts of the images that the units saw.

    Args:
      units: for each, 'title', 'projections' [n, h, w, C] (signed) and 'patches' [n, h, w, C] in [0, 1].
    """
    columns = min(3, len(units))
    rows = -(-len(units) // columns)
    figure = _figure(3.6 * columns, 0.5 + 1.95 * rows)
    figure.get_layout_engine().set(wspace=0.04)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, unit in zip(axes, units, strict=False):
        across = int(np.ceil(np.sqrt(len(unit["patches"]))))
        both = [tiles(images, across, 60) for images in (around_grey(unit["projections"], 0.6), unit["patches"])]
        gap = np.full((len(both[0]), both[0].shape[1] // 12, both[0].shape[2]), GAP)
        _show(axis, np.concatenate([both[0], gap, both[1]], 1), unit["title"])
    return _save(figure, title, path)


def beside(images: np.ndarray, names: Sequence[str], maps: np.ndarray, labels: Sequence[str], title: str, path: Path, *,
           over: float = 0.0, bar: str = "", smooth: bool = False) -> Path:
    """Draw images [N, H, W, C] in [0, 1] with `names` above their maps [N, h, w] with `labels`.

    Args:
      over: above 0, the map is drawn over the image with this opacity.
      bar: meaning of the colours; all maps then share one scale, 0 to 1, with a bar. Without it each has its own.
      smooth: interpolate between the values of a map.
    """
    count = len(images)
    figure = _figure(1.5 * count + (0.8 if bar else 0), 3.4 + 0.25 * any(labels))
    axes = figure.subplots(2, count, squeeze=False)
    height, width = images.shape[1:3]
    drawn = None
    for column, (image, name, values, label) in enumerate(zip(images, names, maps, labels, strict=True)):
        _show(axes[0, column], image, name)
        if over:
            _show(axes[1, column], image, label)
        drawn = axes[1, column].imshow(
            values, cmap=HEAT, alpha=over or None, extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bilinear" if smooth else "nearest", **({"vmin": 0, "vmax": 1} if bar else {}))
        axes[1, column].set_title(label, fontsize=9)
        axes[1, column].set_axis_off()
    if bar:
        figure.colorbar(drawn, ax=axes[1], label=bar, shrink=0.9)
    return _save(figure, title, path)


def norms(records: Sequence[Mapping[str, Any]], percentiles: Sequence[int], title: str, path: Path,
          most: int = 12) -> Path:
    """Draw how the running mean and deviation of batch normalisation moved, in a panel for each layer.

    Args:
      records: for each, 'epoch', 'mean' and 'deviation' (layer -> three percentiles over its channels).
      most: panels that are drawn at most, of layers that are evenly spaced.
    """
    names = sorted(records[0]["mean"], key=_by_number)
    names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))]
    columns = min(len(names), 5 if len(names) % 5 == 0 else 4)
    rows = -(-len(names) // columns)
    figure = _figure(2.2 * columns + 0.6, 1.9 * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    epochs = [record["epoch"] for record in records]
    for axis in axes[len(names):]:
        axis.set_visible(False)
    for axis, name in zip(axes, names, strict=False):
        for kind, color in (("mean", "tab:blue"), ("deviation", "tab:orange")):
            low, middle, high = np.array([record[kind][name] for record in records]).T
            axis.fill_between(epochs, low, high, color=color, alpha=0.25, linewidth=0)
            axis.plot(epochs, middle, color=color, linewidth=1.3, label=f"running {kind}")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[max(0, len(names) - columns):len(names)]:
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelbottom=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    low, middle, high = percentiles
    return _save(figure, f"{title}\nmedian over the channels; shaded: percentiles {low} to {high}", path)


def _by_number(name: str) -> list[str | int]:
    """Return a key that sorts 'block10/norm2' after 'block9/norm1'."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def surface(panels: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Draw loss and accuracy along lines through parameter space.

    Args:
      panels: for each, 'title', 'xlabel', 'steps' [n], 'result' (a step, marked) and 'lines', a list of
        (label, loss [n], accuracy [n]).
    """
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    figure = _figure(4.6 * len(panels), 5.4)
    axes = figure.subplots(2, len(panels), squeeze=False, sharex="col")
    for column, panel in zip(axes.T, panels, strict=True):
        for label, *values in panel["lines"]:
            for axis, line in zip(column, values, strict=True):
                axis.plot(panel["steps"], line, marker="o", markersize=2.5, linewidth=1.3, label=label)
        for axis in column:
            axis.axvline(panel["result"], color="black", linewidth=0.8, linestyle=":")
            axis.grid(alpha=0.3)
        column[0].set_title(panel["title"], fontsize=10)
        column[0].set_yscale("log")
        for format_ticks in (column[0].yaxis.set_major_formatter, column[0].yaxis.set_minor_formatter):
            format_ticks(ScalarFormatter())
        column[1].xaxis.set_major_locator(MaxNLocator(6))
        column[1].set_ylim(0, 1)
        column[1].set_xlabel(panel["xlabel"], fontsize=9)
        column[0].legend(fontsize=8)
    axes[0, 0].set_ylabel("cross-entropy (nats)")
    axes[1, 0].set_ylabel("accuracy")
    return _save(figure, title, path)


def augmented(images: np.ndarray, names: Sequence[str], draws: np.ndarray, title: str, path: Path) -> Path:
    """Draw images [N, H, W, C] in [0, 1], each at the left of a row of its augmented versions [K, N, H, W, C]."""
    figure = _figure(1.05 * (len(draws) + 1), 1.12 * len(images) + 0.6)
    axes = figure.subplots(len(images), len(draws) + 1, squeeze=False)
    for row, (image, name) in enumerate(zip(images, names, strict=True)):
        _show(axes[row, 0], image, name)
        for axis, draw in zip(axes[row, 1:], draws[:, row], strict=True):
            _show(axis, draw)
    axes[0, 0].set_title(f"original\n{names[0]}", fontsize=9)
    axes[0, (len(draws) + 1) // 2].set_title("augmented", fontsize=9)
    return _save(figure, title, path)
