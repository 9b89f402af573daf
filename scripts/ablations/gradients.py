"""The sizes of gradients by depth, read from the records of a sweep's trials (`config.log_norms`): table and picture.

A trial's records are those of its first step, which learns from the initial weights, to its last.
"""
import functools
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from modern_cnn import models
from modern_cnn.errors import UserError
from modern_cnn.inspection import pictures, summary
from modern_cnn.runs import log, workdir
from modern_cnn.sweeps import report

TIMES = ("first step", "last step")
STYLES = {"first step": "--", "last step": "-"}
summarize = functools.cache(summary.summarize)  # many trials have the same network


def sizes(trial: Path) -> np.ndarray | None:
    """Return the root mean squares [2, layers] of the kernels' gradients at a trial's TIMES, from the image on.

    None where the trial has no record of them.
    """
    records = [record["gradient"] for record in log.read_norms(trial) if record.get("gradient")]
    if not records:
        return None
    config, run = workdir.read_run(trial)
    network = models.build(**config["model"], num_classes=run["data"]["num_classes"])
    layers = [row.name for row in summarize(network, tuple(run["data"]["image_shape"])).layers
              if row.name in records[0]]
    return np.array([[record[layer] for layer in layers] for record in (records[0], records[-1])])


def scores(trial: Path) -> dict[str, float]:
    """Return the columns of the table: the sizes in the first layer and in the last hidden one; {} without records."""
    found = sizes(trial)
    if found is None:
        return {}
    return {f"{layer}, {time}": float(row[place]) for time, row in zip(TIMES, found, strict=True)
            for layer, place in (("first layer", 0), ("last hidden layer", -2))}


def draw_picture(directory: Path) -> None:
    """Write picture.png: sizes by layer, their geometric mean over the seeds, and the smallest and largest shaded.

    A sweep in the folder '3-depth 56, plain' is the line 'plain' of the panel 'depth 56'. Raise UserError if none ran.
    """
    panels: dict[str, dict[str, np.ndarray]] = {}
    for sweep in sorted(path.parent for path in directory.glob("*/sweep.json")):
        panel, line = sweep.name.partition("-")[2].split(", ")
        found = [each for trial in sorted(sweep.glob("trials/*")) if (each := sizes(trial)) is not None]
        if found:
            panels.setdefault(panel, {})[line] = np.array(found)  # [seeds, times, layers]
    if not panels:
        raise UserError(f"{directory} holds no sweep with records of gradients (config.log_norms)")
    figure = Figure(figsize=(3.6 * len(panels), 4.0), layout="constrained")
    for axes, (panel, lines) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for color, (line, found) in zip(report.colors(len(lines)), lines.items(), strict=True):
            layers = range(1, found.shape[2] + 1)
            for i, time in enumerate(TIMES):
                seeds = np.maximum(found[:, i], np.finfo(np.float32).tiny)
                axes.fill_between(layers, seeds.min(0), seeds.max(0), color=color, alpha=0.15, linewidth=0)
                axes.plot(layers, np.exp(np.log(seeds).mean(0)), STYLES[time], color=color, label=f"{line}, {time}",
                          linewidth=1.3, marker="o" if len(layers) < 10 else None, markersize=3)
        pictures.plain_log_axis(axes)
        axes.set_title(panel, fontsize=10)
        axes.set_xlabel("layer (1: at the image)")
        axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("root mean square of the kernel's gradient")
    figure.suptitle("geometric mean over the seeds; shaded: from the smallest to the largest", fontsize=10)
    figure.savefig(directory / "picture.png", dpi=130)
