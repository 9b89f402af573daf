"""The pages of docs/ablations. Their text is written by hand; tables, pictures and machines come from the runs.

An experiment's directory holds a sweep, or several in directories of their own whose names tell them apart (with a
number in front, `1-`, where the order is not the alphabet's); `seconds`, with the seconds that each call of its script
took and what bash's `times` said after it; and `picture.png` where the experiment has drawn one itself.
"""
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from modern_cnn import models
from modern_cnn.errors import UserError, lookup
from modern_cnn.runs import log, workdir
from modern_cnn.settings import flatten
from modern_cnn.sweeps import report
from modern_cnn.sweeps.report import Run, SeedGroup, deviation, markdown_table, short_value
from scripts.ablations import gradients
from scripts.publish import pages

SIZES = ("parameters", "MACs")  # shown where the networks differ in them
SCORES = (*SIZES, "train_loss", "train_accuracy", "test_accuracy")  # the first columns; other scores follow
HIDDEN = ("test_loss", "validation_loss", "validation_accuracy", "seconds")
MARKERS = "os^Dv<>P*X"
UNLIKE = 1.1  # networks whose sizes differ by more than this factor are shown with them
WIDE = 8.0  # a number that varies by more than this factor goes on a logarithmic axis
LABELS = {"test_accuracy": "test accuracy (%)", "train_accuracy": "train accuracy (%)",
          "train_loss": "train loss (nats)", "MACs": "multiply-accumulates"}
PARAGRAPHS = ("Claim", "Source", "Here", "Full size", "Found")


def read(directory: Path) -> tuple[list[SeedGroup], dict[str, Any]]:
    """Return the runs of an experiment in groups, and the run.json of one. Raise UserError if nothing has run there."""
    sweeps = [path.parent for path in sorted([*directory.glob("sweep.json"), *directory.glob("*/sweep.json")])]
    if not sweeps:
        raise UserError(f"{directory} holds no sweep: run the experiment's script first")
    runs, machines = [], []
    for sweep in sweeps:
        content = workdir.read_json(sweep / "sweep.json")
        variant = {} if sweep == directory else {"variant": re.sub(r"^\d+-", "", sweep.name)}
        shared = flatten(content["config"])
        swept = dict.fromkeys(field for trial in content["trials"].values() for field in trial["fields"])
        for name, trial in content["trials"].items():
            path = sweep / "trials" / name
            fields = {field: trial["fields"].get(field, shared.get(field)) for field in swept}
            records = log.read_metrics(path / "metrics.jsonl")
            last = [record for record in records if record["split"] == "train"][-1:]
            scores = {f"train_{name}": record[name] for record in last for name in ("loss", "accuracy")}
            runs.append(Run(variant | fields, trial["result"] | scores | _size(path) | gradients.scores(path), records))
        machines += [path for path in (sweep / "run.json", *sweep.glob("trials/*/run.json")) if path.exists()]
    return report.group_seeds(runs), workdir.read_json(machines[0]) if machines else {}


def _size(path: Path) -> dict[str, int]:
    """Return parameters and multiply-accumulates of the network of a run; {} where no network was trained."""
    if not (path / "run.json").exists():
        return {}
    config, run = workdir.read_run(path)
    options = config["model"] | ({"aux_logits": False} if "aux_logits" in config["model"] else {})  # as it classifies
    network = models.build(**options, num_classes=run["data"]["num_classes"])
    found = gradients.summarize(network, tuple(run["data"]["image_shape"]))
    return {"parameters": found.params, "MACs": found.macs}


def varying(groups: Sequence[SeedGroup]) -> dict[str, str]:
    """Return {field: heading} of the fields in which the groups differ; 'network' for 'model.name'."""
    fields = [field for field in groups[0].fields if len({str(group.fields[field]) for group in groups}) > 1]
    return {field: "network" if field == "model.name" else name.replace("_", " ")
            for field, name in report.short_names(fields).items()}


def table(groups: Sequence[SeedGroup]) -> list[list[str]]:
    """Return a heading and a line for each group: the fields that tell it from the others, its size, its scores."""
    rows = [run.scores for group in groups for run in group.done]
    present = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, (int, float)))
    alike = [name for name in SIZES if len({row.get(name) for row in rows}) < 2]
    scores = {name: name.replace("_", " ") if name in SCORES else name for name in (*SCORES, *present)
              if name in present and name not in (*alike, *HIDDEN)}
    seconds = {"seconds": "seconds a trial"} if "seconds" in present else {}
    return report.score_table(groups, varying(groups), scores | seconds)


def _number(field: str, value: Any) -> Any:
    """Return the number in a value: itself, the blocks of all stages, the depth at the end of a network's name."""
    if field.endswith("stage_sizes"):
        return sum(value)
    if isinstance(value, str) and (depth := re.fullmatch(r"\w*?[a-z_](\d+)", value)):
        return int(depth[1])
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def axis_of(groups: Sequence[SeedGroup]) -> str | None:
    """Return the field to draw scores against: the first that has at least three numbers; None if there is none."""
    numbers = {field: {_number(field, group.fields[field]) for group in groups} for field in varying(groups)}
    return next((field for field, found in numbers.items() if None not in found and len(found) >= 3), None)


def _label(group: SeedGroup, fields: dict[str, str]) -> str:
    """Return a group's values with their fields' names; names of networks and of sweeps speak for themselves."""
    return ", ".join(str(group.fields[field]) if field in ("model.name", "variant")
                     else f"{name} {short_value(group.fields[field]) or 'none'}" for field, name in fields.items())


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
            lines[_label(group, others)].append((_number(field, group.fields[field]), *point))
    for i, ((label, points), color) in enumerate(zip(lines.items(), report.colors(len(lines)), strict=True)):
        if points:
            x, mean, around = zip(*sorted(points), strict=True)
            axes.errorbar(x, mean, around, color=color, marker=MARKERS[i % len(MARKERS)], markersize=4, capsize=2.5,
                          linewidth=1.3, label=label or None)
    numbers = sorted({_number(field, group.fields[field]) for group in groups})
    if numbers[0] > 0 and numbers[-1] > WIDE * numbers[0]:
        axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(numbers, [short_value(number) for number in numbers])
    value = groups[0].fields[field]
    axes.set_xlabel("depth" if isinstance(value, str) else "blocks" if field.endswith("stage_sizes")
                    else varying(groups).get(field, field))
    axes.set_ylabel(LABELS[score])


def draw_rows(panels: Sequence[Any], groups: Sequence[SeedGroup], scores: Sequence[str]) -> None:
    """Draw the groups as rows, a score in each panel."""
    for axes, score in zip(panels, scores, strict=True):
        points = [(row, *point) for row, group in enumerate(groups) if (point := _point(group, score))]
        for row, mean, around in points:
            axes.errorbar(mean, row, xerr=around, color="tab:blue", marker="o", markersize=5, capsize=3)
        means = [mean for _, mean, _ in points]
        if score in SIZES and max(means) > WIDE * min(means):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.minorticks_off()
        if score in SIZES:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(LABELS.get(score, score))
    panels[0].set_yticks(range(len(groups)), [_label(group, varying(groups)) for group in groups], fontsize=8)
    panels[0].set_ylim(len(groups) - 0.5, -0.5)


def draw_picture(groups: Sequence[SeedGroup], path: Path, title: str) -> None:
    """Write a picture of test accuracy and training loss (or accuracy), as means and deviations.

    They are drawn against the number that was varied; where none was, the groups are rows, and the sizes in which the
    networks differ have panels too.
    """
    field, done = axis_of(groups), [group for group in groups if group.done]
    scores = ["test_accuracy", "train_loss" if all(group.values("train_loss") for group in done) else "train_accuracy"]
    if field:
        figure = Figure(figsize=(9.5, 3.9), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, score in zip(panels, scores, strict=True):
            draw_against(axes, groups, field, score)
        if handles := panels[0].get_legend_handles_labels()[0]:
            figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8,
                          frameon=False)
    else:
        found = {size: [value for group in done for value in group.values(size)] for size in SIZES}
        scores += [size for size, values in found.items() if values and max(values) > UNLIKE * min(values)]
        figure = Figure(figsize=(2 + 2.5 * len(scores), 0.36 * len(groups) + 1.4), layout="constrained")
        panels = figure.subplots(1, len(scores), sharey=True)
        draw_rows(panels, groups, scores)
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)


def publish(scripts: Path, runs: Path, docs: Path, names: Sequence[str] = ()) -> list[str]:
    """Write tables and pictures of experiments, by default of all that have run, and the index; return their names.

    A new page is begun, with paragraphs to fill in. Raise UserError if one is lacking, or an experiment has not run.
    """
    known = {path.stem: path for path in sorted(scripts.glob("*.sh"))}
    chosen = [lookup(known, name, "experiment").stem for name in names] or [
        name for name in known if (runs / name).is_dir()]
    for name in chosen:
        path, picture, drawn = docs / f"{name}.md", docs / f"{name}.png", runs / name / "picture.png"
        text = path.read_text() if path.exists() else "\n\n".join([
            f"# {name}", *(f"**{paragraph}.** To do." for paragraph in PARAGRAPHS),
            f"```\nbash scripts/ablations/{name}.sh\n```", "<!-- table -->\n<!-- /table -->", f"![{name}]({name}.png)",
            "<!-- machine -->\n<!-- /machine -->\n"])
        groups, run = read(runs / name)
        if drawn.exists():
            picture.write_bytes(drawn.read_bytes())
        else:
            draw_picture(groups, picture, text.partition("\n")[0].removeprefix("# "))
        parts = {"table": markdown_table(table(groups)), "machine": _machine(run, runs / name / "seconds")}
        if any(group.runs[0].records for group in groups):
            parts["table"] += "\nTrain: the mean over the last epoch as it went, with any dropout and augmentation."
        path.write_text(pages.fill(text, parts.__getitem__))
    index = docs / "README.md"
    index.write_text(pages.fill(index.read_text(), {"experiments": list_pages(docs)}.__getitem__))
    return chosen


def list_pages(docs: Path) -> str:
    """Return the table of all experiments: title and first finding. Raise UserError if a page lacks a paragraph."""
    lines = [["experiment", "what was found"]]
    for path in sorted({*docs.glob("*.md")} - {docs / "README.md"}):
        said = dict(re.findall(r"^\*\*([\w ]+)\.\*\* (.+?)\n\n", text := path.read_text(), re.DOTALL | re.MULTILINE))
        if lacking := [name for name in PARAGRAPHS if name not in said]:
            raise UserError(f"{path} lacks paragraphs that begin with **NAME.**; write those of: {', '.join(lacking)}")
        title, found = text.partition("\n")[0].removeprefix("# "), " ".join(said["Found"].split())
        lines.append([f"[{title}]({path.name})", re.split(r"(?<=\.) ", found)[0]])
    return markdown_table(lines)


def _machine(run: dict[str, Any], seconds: Path) -> str:
    """Return how long an experiment took, over all calls of its script, and on what."""
    words = seconds.read_text().split() if seconds.exists() else []
    wall = sum(int(word) for word in words if word.isdigit())
    times = [word.removesuffix("s").partition("m") for word in words if not word.isdigit()]  # 0m1.234s
    processor = sum(60 * int(minutes) + float(rest) for minutes, _, rest in times)
    took = log.duration(wall) + (f" ({log.duration(processor)} of processor time)" if processor else "")
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    return (f"Mean ± standard deviation over the trials that were done. Took {took} on {run.get('machine')}\n"
            f"({run.get('device')}): {versions}; commit {run.get('commit')}.")
