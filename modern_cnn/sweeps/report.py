"""The report of a sweep: runs that differ in the seed alone, their scores as mean ± deviation, curves with bands."""
import html
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modern_cnn.runs import html_page
from modern_cnn.runs.log import plain, scale_axes

SEED, DONE = "seed", "done"
Records = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl
FIRST_SCORES = ("validation_loss", "test_loss")  # a row has its fields first, then its scores from one of these
LEGEND = 24  # groups that a legend names; there may be more
UNITS = {"loss": "cross-entropy (nats)", "accuracy": "accuracy"}


class Run(NamedTuple):
    """A training run."""
    fields: Mapping[str, Any]  # those that tell the run from others, the seed among them
    scores: Mapping[str, Any]  # its numbers by name; `status` says why where the run is not done
    records: Records = ()


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in the seed alone, and the fields that they share."""
    fields: dict[str, Any]
    runs: list[Run]

    @property
    def done(self) -> list[Run]:
        return [run for run in self.runs if run.scores.get("status", DONE) == DONE]

    @property
    def count(self) -> str:
        """How many runs are done: '3', or '2 of 3'."""
        done, total = len(self.done), len(self.runs)
        return str(total) if done == total else f"{done} of {total}"

    @property
    def label(self) -> str:
        names = short_names(list(self.fields))
        return ", ".join(f"{name} {short_value(self.fields[field])}" for field, name in names.items()) or "all"

    def values(self, score: str) -> list[float]:
        """Return a score of each run that is done; an empty list if one of them lacks it, or has '' for it."""
        found = [run.scores.get(score, "") for run in self.done]
        return found if "" not in found else []

    def band(self, split: str, score: str) -> tuple[list[float], list[float], list[float]]:
        """Return (epochs, mean, deviation) of a score recorded in a split, each over the runs that have the epoch."""
        points: dict[int, list[tuple[float, float]]] = {}
        for run in self.runs:
            # A run that was killed may have a step twice: the run went on from the last record.
            recorded = {record["step"]: (record["epoch"], record[score]) for record in run.records
                        if record["split"] == split}
            for step, point in recorded.items():
                points.setdefault(step, []).append(point)
        columns = [list(zip(*points[step], strict=True)) for step in sorted(points)]
        return ([epochs[0] for epochs, _ in columns], [statistics.fmean(values) for _, values in columns],
                [deviation(values) or 0.0 for _, values in columns])


def group_seeds(runs: Sequence[Run]) -> list[SeedGroup]:
    """Return the groups of runs that differ in the seed alone, in order of first appearance. A missing field is ''."""
    names = dict.fromkeys(field for run in runs for field in run.fields if field != SEED)
    groups: dict[str, SeedGroup] = {}
    for run in runs:
        fields = {name: run.fields.get(name, "") for name in names}
        groups.setdefault(json.dumps(fields), SeedGroup(fields, [])).runs.append(run)
    return list(groups.values())


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (over n - 1); None for fewer than two values, NaN if one is not finite."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(isfinite, values)) else nan


def figure(score: str, values: Sequence[float], count: bool = False) -> str:
    """Return a score as 'mean ± standard deviation' in its unit; '' without values. `count` appends '(n = 3)'.

    The name of the score decides unit and digits: accuracies are in percent, losses have four digits. Sizes of networks
    have no deviation, nor have the seconds of a trial, which trials that train together share.
    """
    if not values:
        return ""
    scale, unit = (100, " %") if score.endswith("accuracy") else (1, "")
    mean, around = statistics.fmean(values), deviation(values)
    if score in ("parameters", "MACs", "seconds"):
        digits, around = int(score == "seconds"), None
    else:
        small = unit == "" and 0 < mean < 0.1  # two significant digits
        digits = 4 if score.endswith("loss") else 0 if mean >= 100 else 1 - floor(log10(mean)) if small else 2
    text = f"{mean * scale:,.{digits}f}" + ("" if around is None else f" ± {around * scale:,.{digits}f}") + unit
    return f"{text} (n = {len(values)})" if count else text


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """Return {field: its last part}, 'learning_rate' for 'optimizer.learning_rate', unless two fields end alike."""
    ends = [field.rpartition(".")[2] for field in fields]
    return {field: end if ends.count(end) == 1 else field for field, end in zip(fields, ends, strict=True)}


def short_value(value: Any) -> str:
    """Return a field's value as text for a table: six digits of a float, '3-4-6' for a list, 'none' for None."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)


def score_table(groups: Sequence[SeedGroup], fields: Mapping[str, str], scores: Mapping[str, str]) -> list[list[str]]:
    """Return a heading and a line for each group: `fields`, how many runs are done, `scores` (both {name: heading})."""
    return [[*fields.values(), "trials", *scores.values()],
            *([*(short_value(group.fields[field]) for field in fields), group.count,
               *(figure(score, group.values(score)) for score in scores)] for group in groups)]


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells, the first of them the heading, as a table in markdown."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], ["---"] * len(cells[0]), *cells[1:]]) + "\n"


def groups_of(rows: Sequence[dict[str, Any]], curves: Sequence[Records]) -> list[SeedGroup]:
    """Return the groups of a sweep's trials, from their rows and records as `write` takes them."""
    first = next(i for i, name in enumerate(rows[0]) if name in FIRST_SCORES)
    return group_seeds([Run(dict([*row.items()][:first]), dict([*row.items()][first:]), records)
                        for row, records in zip(rows, curves, strict=True)])


def best(groups: Sequence[SeedGroup]) -> SeedGroup | None:
    """Return the group with the highest mean validation accuracy among those whose trials are all done.

    It is None where there is nothing to choose from, or no validation split: the test split chooses nothing.
    """
    means = {i: statistics.fmean(values) for i, group in enumerate(groups)
             if len(group.done) == len(group.runs) and (values := group.values("validation_accuracy"))}
    return groups[max(means, key=means.__getitem__)] if len(groups) > 1 and means else None


def table(groups: Sequence[SeedGroup]) -> list[list[str]]:
    """Return a heading and a line for each group: its fields, its trials that are done, its scores."""
    scores = [f"{split}_{name}" for split in ("validation", "test") for name in ("accuracy", "loss")]
    headings = {name: name.replace("_", " ") for name in scores if name in groups[0].runs[0].scores}
    lines = score_table(groups, short_names(list(groups[0].fields)), headings | {"seconds": "seconds a trial"})
    if chosen := best(groups):
        lines[groups.index(chosen) + 1][len(chosen.fields)] += ", best on validation"
    return lines


def colors(count: int) -> list:
    """Return a colour for each of `count` groups: names tell up to ten apart, more go from dark to bright."""
    import matplotlib

    tab10, viridis = matplotlib.colormaps["tab10"], matplotlib.colormaps["viridis"]
    return [tab10(i) if count <= 10 else viridis(i / (count - 1) * 0.95) for i in range(count)]


def draw_curves(axes: Any, groups: Sequence[SeedGroup], split: str, score: str) -> None:
    """Draw one panel: for each group its mean curve, in a band of one standard deviation to either side."""
    means = []
    for group, color in zip(groups, colors(len(groups)), strict=True):
        epochs, mean, deviation = group.band(split, score)
        if len(epochs) == 1:  # scored once, at the end
            axes.errorbar(epochs, mean, deviation, color=color, marker="o", markersize=4, capsize=3,
                          label=plain(group.label))
        elif epochs:
            axes.plot(epochs, mean, color=color, linewidth=1.4, marker="o" if len(epochs) < 20 else None, markersize=3,
                      label=plain(group.label))
            axes.fill_between(epochs, np.subtract(mean, deviation), np.add(mean, deviation), color=color, alpha=0.18,
                              linewidth=0)
        means += mean
    axes.set_title(f"{split} {score}", fontsize=10)
    axes.set(ylabel=UNITS[score], xlim=(0, None))
    scale_axes(axes, means if score == "loss" else ())


def _panels(groups: Sequence[SeedGroup]) -> list[tuple[str, str]]:
    """Return (split, score) of each panel; the validation split is the one held out, if there is one."""
    splits = {record["split"] for group in groups for run in group.runs for record in run.records}
    held_out = "validation" if "validation" in splits else "test"
    return [(split, score) for score in ("loss", "accuracy") for split in ("train", held_out)]


def draw(groups: Sequence[SeedGroup], path: Path, title: str) -> None:
    """Write the four panels as one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.6), layout="constrained")
    grid = figure.subplots(2, 2).ravel()
    for axes, (split, score) in zip(grid, _panels(groups), strict=True):
        draw_curves(axes, groups, split, score)
    handles, labels = grid[0].get_legend_handles_labels()
    if len(groups) > 1 and handles:
        more = f", and {len(labels) - LEGEND} more" if len(labels) > LEGEND else None
        figure.legend(handles[:LEGEND], labels[:LEGEND], loc="outside lower center", fontsize=8, frameon=False,
                      ncols=max(1, min(4, 110 // (max(map(len, labels)) + 6))), title=more)
    figure.suptitle(plain(title), fontsize=11)
    figure.savefig(path, dpi=130)


def _svg(groups: Sequence[SeedGroup], split: str, score: str) -> str:
    """Return one panel as SVG for the page, which arranges the panels by its own width."""
    import matplotlib
    from matplotlib.figure import Figure

    figure, file = Figure(figsize=(4.6, 3.2), layout="constrained"), io.StringIO()
    draw_curves(figure.subplots(), groups, split, score)
    with matplotlib.rc_context({"svg.hashsalt": f"{split} {score}"}):  # or the panels' names would clash on the page
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = re.sub('<g id="[^"]*"', "<g", file.getvalue().partition("<svg")[2])  # no salt in these names
    return f'<svg role="img" aria-label="{split} {score}"{text}'


STYLE = """
td:last-child { white-space: normal; min-width: 7rem } tr.best { background: #eaf5ea }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .5rem }
.panels svg { width: 100%; height: auto }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; padding: 0; list-style: none }
.legend i { display: inline-block; width: 1.2em; height: .25em; vertical-align: middle; margin-right: .4em }
"""


def page(groups: Sequence[SeedGroup], title: str, config: dict[str, Any], machine: dict[str, Any]) -> str:
    """Return the report as HTML that needs no other file."""
    from matplotlib.colors import to_hex

    chosen = best(groups)
    legend = "".join(f"<li><i style='background:{to_hex(color)}'></i>{html.escape(group.label)}</li>"
                     for group, color in zip(groups, colors(len(groups)), strict=True))
    panels = "".join(_svg(groups, split, score) for split, score in _panels(groups))
    rows = [{**run.fields, **run.scores} for group in groups for run in group.runs]
    trials = [list(rows[0]), *([short_value(value) for value in row.values()] for row in rows)]
    return html_page.document(title, f"""
<p>Mean and standard deviation over the trials of a setting that are done.</p>
{html_page.table(table(groups), groups.index(chosen) + 1 if chosen else 0)}
<h2>Curves</h2>
<p>Lines are means over the trials of a setting, bands one standard deviation to either side.</p>
<ul class=legend>{legend if len(groups) > 1 else ''}</ul>
<div class=panels>{panels}</div>
<h2>Trials</h2>
{html_page.table(trials)}
<h2>Settings</h2>
<details><summary>What all trials share, but for the fields above</summary>
<pre>{html.escape(json.dumps(config, indent=1))}</pre></details>
<h2>Machine and versions</h2>
<pre>{html.escape(json.dumps(machine, indent=1))}</pre>
""", STYLE)


def write(directory: Path, rows: Sequence[dict[str, Any]], curves: Sequence[Records], config: dict[str, Any],
          run: dict[str, Any]) -> Path:
    """Write table.md, curves.png and report.html into `directory`, and return the path of report.html.

    `rows` has a dict for each trial, with the same keys in the same order: swept fields, scores, seconds, status.
    `curves` has the records of each one's metrics.jsonl. The `config` is what all share, `run` one of their run.json.
    """
    groups = groups_of(rows, curves)
    title = (f"{config['model']['name']} on {config['data']['source']}: {len(rows)} trials over "
             + ", ".join([SEED] * (SEED in rows[0]) + list(groups[0].fields)))
    (directory / "table.md").write_text(markdown_table(table(groups)), "utf-8", "backslashreplace")
    draw(groups, directory / "curves.png", title)
    path = directory / "report.html"
    machine = {key: value for key, value in run.items() if key != "data"}
    path.write_text(page(groups, title, config, machine), "utf-8", "backslashreplace")
    return path
