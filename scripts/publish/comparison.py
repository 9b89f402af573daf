"""The picture of an experiment: its scores against the number that was varied, or side by side; and its curves."""
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from modern_cnn.sweeps.report import colors, draw_curves
from modern_cnn.sweeps.seeds import SeedGroup, deviation, short_names, short_value

MARKERS = "os^Dv<>P*X"
WIDE = 8.0  # a number that varies by more than this factor goes on a logarithmic axis
LABELS = {"test_accuracy": "test accuracy (%)", "train_accuracy": "train accuracy (%)",
          "train_loss": "train loss (nats)"}


def varying(groups: Sequence[SeedGroup]) -> dict[str, str]:
    """Return {field: heading} of the fields in which the groups differ; 'network' for 'model.name'."""
    fields = [field for field in groups[0].fields if len({str(group.fields[field]) for group in groups}) > 1]
    return {field: "network" if field == "model.name" else name.replace("_", " ")
            for field, name in short_names(fields).items()}


def _number(value: Any) -> Any:
    """Return the number in a value: itself, the blocks of all stages, the depth at the end of a network's name."""
    if isinstance(value, list) and all(isinstance(part, int) for part in value):
        return sum(value)
    if isinstance(value, str) and (depth := re.fullmatch(r"\w*?[a-z_](\d+)", value)):
        return int(depth[1])
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def axis_of(groups: Sequence[SeedGroup]) -> str | None:
    """Return the field to draw scores against: the first that has at least three numbers; None if there is none."""
    numbers = {field: {_number(group.fields[field]) for group in groups} for field in varying(groups)}
    return next((field for field, found in numbers.items() if None not in found and len(found) >= 3), None)


def _label(group: SeedGroup, fields: dict[str, str]) -> str:
    """Return a group's values; numbers and truth values with the names of their fields, text speaks for itself."""
    return ", ".join(value if isinstance(value := group.fields[field], str) and value
                     else f"{name} {short_value(value) or 'none'}" for field, name in fields.items())


def _point(group: SeedGroup, score: str) -> tuple[float, float] | None:
    """Return (mean, deviation) of a score; None where no run has it."""
    values = [value * (100 if score.endswith("accuracy") else 1) for value in group.values(score)]
    return (fmean(values), deviation(values) or 0.0) if values else None


def draw_against(axes: Any, groups: Sequence[SeedGroup], field: str, score: str) -> None:
    """Draw a score over the numbers of `field`, a line for each combination of the other fields."""
    others = {other: name for other, name in varying(groups).items() if other != field}
    lines: dict[str, list] = {_label(group, others): [] for group in groups}
    for group in groups:
        if point := _point(group, score):
            lines[_label(group, others)].append((_number(group.fields[field]), *point))
    for i, ((label, points), color) in enumerate(zip(lines.items(), colors(len(lines)), strict=True)):
        if points:
            x, mean, around = zip(*sorted(points), strict=True)
            axes.errorbar(x, mean, around, color=color, marker=MARKERS[i % len(MARKERS)], markersize=4, capsize=2.5,
                          linewidth=1.3, label=label or None)
    numbers = sorted({_number(group.fields[field]) for group in groups})
    if numbers[0] > 0 and numbers[-1] > WIDE * numbers[0]:
        axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(numbers, [short_value(number) for number in numbers])
    value = groups[0].fields[field]
    axes.set_xlabel("depth" if isinstance(value, str) else "blocks" if isinstance(value, list)
                    else varying(groups).get(field, field))
    axes.set_ylabel(LABELS[score])


def draw(groups: Sequence[SeedGroup], path: Path, title: str) -> None:
    """Write a picture of two panels.

    Where a number was varied, they show test accuracy and training loss (or accuracy) against it; else the groups' test
    accuracy, one below the other, and the curves of their training loss in the same colours.
    """
    from matplotlib.figure import Figure

    field = axis_of(groups)
    figure = Figure(figsize=(9.5, 3.9 if field else max(3.9, 0.36 * len(groups) + 1.2)), layout="constrained")
    left, right = figure.subplots(1, 2)
    if field:
        losses = all(group.values("train_loss") for group in groups if group.done)
        draw_against(left, groups, field, "test_accuracy")
        draw_against(right, groups, field, "train_loss" if losses else "train_accuracy")
        if handles := left.get_legend_handles_labels()[0]:
            figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8,
                          frameon=False)
    else:
        for i, (group, color) in enumerate(zip(groups, colors(len(groups)), strict=True)):  # a row each
            if point := _point(group, "test_accuracy"):
                left.errorbar(point[0], i, xerr=point[1], color=color, marker="o", markersize=5, capsize=3)
        left.set_yticks(range(len(groups)), [_label(group, varying(groups)) for group in groups], fontsize=8)
        left.set_ylim(len(groups) - 0.5, -0.5)
        left.set_xlabel(LABELS["test_accuracy"])
        draw_curves(right, groups, "train", "loss")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)
