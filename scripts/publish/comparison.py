"""The picture of an experiment: its scores against the number that was varied, or side by side; and its curves."""
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modern_cnn.sweeps.report import Setting

MARKERS = "os^Dv<>P*X"
WIDE = 8.0  # a number that varies by more than this factor goes on a logarithmic axis


def varying(settings: Sequence[Setting]) -> list[str]:
    """The fields in which the settings differ."""
    return [field for field in settings[0].fields if len({str(setting.fields[field]) for setting in settings}) > 1]


def short(value: Any) -> str:
    """A value of a field as a reader likes it."""
    if isinstance(value, list):
        return "-".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def short_field(field: str) -> str:
    """'model.stage_sizes' -> 'stage sizes'; 'model.name' -> 'network'."""
    return "network" if field == "model.name" else field.rpartition(".")[2].replace("_", " ")


def _number(value: Any) -> float | None:
    """What a value counts: itself, the blocks of all stages, the depth at the end of a network's name."""
    if isinstance(value, list) and all(isinstance(part, int) for part in value):
        return sum(value)
    if isinstance(value, str) and (depth := re.fullmatch(r"\w*?[a-z_](\d+)", value)):
        return int(depth[1])
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def axis_of(settings: Sequence[Setting]) -> str | None:
    """The field to draw scores against: the first of at least three numbers; None if there is none."""
    for field in varying(settings):
        numbers = {_number(setting.fields[field]) for setting in settings}
        if None not in numbers and len(numbers) >= 3:
            return field
    return None


def _label(setting: Setting, fields: Sequence[str]) -> str:
    """Text alone says enough; numbers and truths need the name of their field."""
    return ", ".join(short(value) if isinstance(value := setting.fields[field], str) and value
                     else f"{short_field(field)} {short(value) or 'none'}" for field in fields)


def _points(setting: Setting, score: str) -> tuple[float, float] | None:
    """(mean, deviation) of a score; None where no trial has it."""
    if not setting.done() or any(score not in row for row in setting.done()):
        return None
    scale = 100 if score.endswith("accuracy") else 1
    return scale * setting.mean(score), scale * (setting.deviation(score) or 0.0)


def _against(axes, settings: Sequence[Setting], field: str, score: str, colors: Sequence) -> None:
    """A line for each of the other fields' values, over the numbers of `field`."""
    others = [other for other in varying(settings) if other != field]
    lines: dict[str, list] = {_label(setting, others): [] for setting in settings}
    for setting in settings:
        if point := _points(setting, score):
            lines[_label(setting, others)].append((_number(setting.fields[field]), *point))
    for i, (label, points) in enumerate(lines.items()):
        if not points:
            continue
        x, mean, deviation = zip(*sorted(points), strict=True)
        axes.errorbar(x, mean, deviation, color=colors[i % len(colors)], marker=MARKERS[i % len(MARKERS)], markersize=4,
                      capsize=2.5, linewidth=1.3, label=label or None)
    numbers = sorted({_number(setting.fields[field]) for setting in settings})
    if numbers[0] > 0 and numbers[-1] > WIDE * numbers[0]:
        axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(numbers, [short(number) for number in numbers])
    value = settings[0].fields[field]
    axes.set_xlabel("depth" if isinstance(value, str) else "blocks" if isinstance(value, list) else short_field(field))


def _beside(axes, settings: Sequence[Setting], score: str, colors: Sequence) -> None:
    """A row for each setting, the first on top."""
    for i, setting in enumerate(settings):
        if point := _points(setting, score):
            axes.errorbar(point[0], i, xerr=point[1], color=colors[i % len(colors)], marker="o", markersize=5,
                          capsize=3)
    axes.set_yticks(range(len(settings)), [_label(setting, varying(settings)) for setting in settings], fontsize=8)
    axes.set_ylim(len(settings) - 0.5, -0.5)


def _curves(axes, settings: Sequence[Setting], colors: Sequence) -> None:
    for i, setting in enumerate(settings):
        epochs, mean, deviation = setting.band("train", "loss")
        if epochs:
            axes.plot(epochs, mean, color=colors[i % len(colors)], linewidth=1.3)
            axes.fill_between(epochs, [m - d for m, d in zip(mean, deviation, strict=True)],
                              [m + d for m, d in zip(mean, deviation, strict=True)], color=colors[i % len(colors)],
                              alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("train loss (nats)")


def draw(settings: Sequence[Setting], path: Path, title: str) -> None:
    """Two panels. Where a number was varied: test accuracy and train loss against it; else the settings' test accuracy
    one below the other, and the curves of their training loss in the same colours."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    field = axis_of(settings)
    figure = Figure(figsize=(9.5, 3.9 if field else max(3.9, 0.36 * len(settings) + 1.2)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    colors = matplotlib.colormaps["tab10" if field or len(settings) <= 10 else "tab20"].colors
    if field:
        _against(left, settings, field, "test_accuracy", colors)
        left.set_ylabel("test accuracy (%)")
        trained = [setting for setting in settings if setting.done()]
        second = "train_loss" if all(_points(setting, "train_loss") for setting in trained) else "train_accuracy"
        _against(right, settings, field, second, colors)
        right.set_ylabel("train loss (nats)" if second == "train_loss" else "train accuracy (%)")
        handles, labels = left.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8,
                          frameon=False)
    else:
        _beside(left, settings, "test_accuracy", colors)
        left.set_xlabel("test accuracy (%)")
        _curves(right, settings, colors)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)
