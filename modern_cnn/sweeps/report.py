"""What a person sees of a sweep: a table of means and deviations, curves with bands, and both on one page.

Arrays and dicts in, files out. Trials whose settings differ in the seed alone are one setting; its curve is their mean
and its band one standard deviation to either side.
"""
import html
import io
import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = "seed"
AFTER_FIELDS = ("validation_loss", "test_loss")  # the first column of a row that is no field is one of these
WIDE = 3  # losses that differ by a larger factor are drawn on a logarithmic scale
LEGEND = 24  # settings that a legend names; there may be more
PANELS = (("train", "loss"), ("held out", "loss"), ("train", "accuracy"), ("held out", "accuracy"))
UNITS = {"loss": "cross-entropy (nats)", "accuracy": "accuracy"}
Records = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """Trials that differ in the seed alone."""
    fields: dict[str, Any]
    rows: list[dict[str, Any]]
    curves: list[Records]

    @property
    def label(self) -> str:
        names = zip(short_names(list(self.fields)), self.fields.values(), strict=True)
        return ", ".join(f"{name} {_short(value)}" for name, value in names) or "all"

    def done(self) -> list[dict[str, Any]]:
        """The rows of the trials that were done."""
        return [row for row in self.rows if row["status"] == "done"]

    def mean(self, column: str) -> float | None:
        """Over the trials that were done; None if none was."""
        values = [row[column] for row in self.done()]
        return statistics.fmean(values) if values else None

    def deviation(self, column: str) -> float | None:
        """The sample's standard deviation (over n - 1); None of fewer than two trials."""
        values = [row[column] for row in self.done()]
        return statistics.stdev(values) if len(values) > 1 else None

    def band(self, split: str, field: str) -> tuple[list[float], list[float], list[float]]:
        """(epochs, mean, deviation) of what was recorded of a split, over the trials that came so far."""
        points: dict[int, list[tuple[float, float]]] = {}
        for records in self.curves:
            # A run that was killed may have a step twice: the last is the one that it went on from.
            of_trial = {record["step"]: (record["epoch"], record[field]) for record in records
                        if record["split"] == split}
            for step, point in of_trial.items():
                points.setdefault(step, []).append(point)
        steps = sorted(points)
        values = [[value for _, value in points[step]] for step in steps]
        return ([points[step][0][0] for step in steps], [statistics.fmean(v) for v in values],
                [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values])


def short_names(fields: Sequence[str]) -> list[str]:
    """'learning_rate' of 'optimizer.learning_rate', where no other field ends alike."""
    ends = [field.rpartition(".")[2] for field in fields]
    return [end if ends.count(end) == 1 else field for field, end in zip(fields, ends, strict=True)]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def settings_of(rows: Sequence[dict[str, Any]], curves: Sequence[Records]) -> list[Setting]:
    """Rows (fields, then scores, seconds and status) and their trials' records, by all fields but the seed."""
    names = list(rows[0])
    fields = names[:min(names.index(column) for column in AFTER_FIELDS if column in names)]
    settings: dict[str, Setting] = {}
    for row, records in zip(rows, curves, strict=True):
        values = {field: row[field] for field in fields if field != SEED}
        setting = settings.setdefault(json.dumps(values), Setting(values, [], []))
        setting.rows.append(row)
        setting.curves.append(records)
    return list(settings.values())


def best(settings: Sequence[Setting]) -> Setting | None:
    """The setting of the highest mean validation accuracy, of those whose trials were all done; None where nothing was
    held out of training, as the test split chooses nothing, or there is nothing to choose from."""
    whole = [setting for setting in settings if len(setting.done()) == len(setting.rows)]
    if len(settings) < 2 or not whole or "validation_accuracy" not in whole[0].rows[0]:
        return None
    return max(whole, key=lambda setting: setting.mean("validation_accuracy"))


def table(settings: Sequence[Setting]) -> list[list[str]]:
    """A heading and a line a setting: its fields, how many trials were done, and mean and deviation of the scores."""
    fields = list(settings[0].fields)
    scores = [f"{split}_{name}" for split in ("validation", "test") for name in ("accuracy", "loss")
              if f"{split}_{name}" in settings[0].rows[0]]
    chosen = best(settings)
    lines = [[*short_names(fields), "trials", *(score.replace("_", " ") for score in scores), "seconds a trial"]]
    for setting in settings:
        done, total = len(setting.done()), len(setting.rows)
        cells = [*map(_short, setting.fields.values()), str(total) if done == total else f"{done} of {total}"]
        cells += [_spread(setting, score) for score in scores]
        cells.append(f"{setting.mean('seconds'):.1f}" if done else "")
        if setting is chosen:
            cells[len(fields)] += ", best on validation"
        lines.append(cells)
    return lines


def _spread(setting: Setting, score: str) -> str:
    mean, deviation = setting.mean(score), setting.deviation(score)
    if mean is None:
        return ""
    scale, digits, unit = (100, 2, " %") if score.endswith("accuracy") else (1, 4, "")
    around = "" if deviation is None else f" ± {deviation * scale:.{digits}f}"
    return f"{mean * scale:.{digits}f}{around}{unit}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table's lines, the first a heading."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], ["---"] * len(cells[0]), *cells[1:]]) + "\n"


def _held_out(settings: Sequence[Setting]) -> str:
    splits = {record["split"] for setting in settings for records in setting.curves for record in records}
    return "validation" if "validation" in splits else "test"


def _colors(count: int) -> list:
    """One a setting: told apart by name up to ten, in order of the rainbow's brightness above."""
    import matplotlib

    if count <= 10:
        return list(matplotlib.colormaps["tab10"].colors[:count])
    return [matplotlib.colormaps["viridis"](i / (count - 1) * 0.95) for i in range(count)]


def _draw(axes, settings: Sequence[Setting], split: str, field: str) -> None:
    """One panel: a curve with its band for each setting."""
    from matplotlib.ticker import LogLocator, NullFormatter

    means = []
    for setting, color in zip(settings, _colors(len(settings)), strict=True):
        epochs, mean, deviation = setting.band(split, field)
        if not epochs:
            continue
        low = [m - d for m, d in zip(mean, deviation, strict=True)]
        high = [m + d for m, d in zip(mean, deviation, strict=True)]
        if len(epochs) == 1:  # scored once, at the end
            axes.errorbar(epochs, mean, deviation, color=color, marker="o", markersize=4, capsize=3,
                          label=setting.label)
        else:
            axes.plot(epochs, mean, color=color, linewidth=1.4, marker="o" if len(epochs) < 20 else None, markersize=3,
                      label=setting.label)
            axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
        means += mean
    axes.set_title(f"{split} {field}", fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel(UNITS[field])
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)
    if field == "loss" and means and min(means) > 0 and max(means) > WIDE * min(means):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _panels(settings: Sequence[Setting]) -> Iterator[tuple[str, str]]:
    held_out = _held_out(settings)
    for split, field in PANELS:
        yield (held_out if split == "held out" else split), field


def _legend(figure, axes, settings: Sequence[Setting]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(settings) > 1 and handles:
        more = f", and {len(labels) - LEGEND} more" if len(labels) > LEGEND else ""
        figure.legend(handles[:LEGEND], labels[:LEGEND], loc="outside lower center", fontsize=8, frameon=False,
                      ncols=max(1, min(4, 110 // (max(map(len, labels)) + 6))), title=more or None)


def draw(settings: Sequence[Setting], path: Path, title: str) -> None:
    """The four panels as one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2).ravel()
    for axes, (split, field) in zip(grid, _panels(settings), strict=True):
        _draw(axes, settings, split, field)
    _legend(figure, grid[0], settings)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)


def _svg(settings: Sequence[Setting], split: str, field: str) -> str:
    """One panel for the page, which arranges them by its own width."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure, file = Figure(figsize=(4.6, 3.2), layout="constrained"), io.StringIO()
    FigureCanvasSVG(figure)
    _draw(figure.subplots(), settings, split, field)
    with matplotlib.rc_context({"svg.hashsalt": f"{split} {field}"}):  # names that differ from those of other panels
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = re.sub('<g id="[^"]*"', "<g", file.getvalue()[file.getvalue().index("<svg"):])  # these do not
    return text.replace("<svg", f'<svg role="img" aria-label="{split} {field}"', 1)



STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; color: #1a1a1a;
  background: #fff }
h1 { font-size: 1.4rem; line-height: 1.25 } h2 { font-size: 1.1rem; margin-top: 2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
td:last-child { white-space: normal; min-width: 7rem } tr.best { background: #eaf5ea }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .5rem }
.panels svg { width: 100%; height: auto }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; padding: 0; list-style: none }
.legend i { display: inline-block; width: 1.2em; height: .25em; vertical-align: middle; margin-right: .4em }
pre { overflow-x: auto; background: #f5f5f5; padding: .7rem; font-size: .8rem } summary { cursor: pointer }
"""


def _html_table(lines: Sequence[Sequence[str]], marked: int = 0) -> str:
    """`marked`: the number of a line to stand out, or 0."""
    def row(number, line):
        tag = "td" if number else "th"
        cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
        return f"<tr{' class=best' if number and number == marked else ''}>{cells}</tr>"

    return f"<div class=wide><table>{''.join(row(i, line) for i, line in enumerate(lines))}</table></div>"


def page(settings: Sequence[Setting], title: str, config: dict[str, Any], run: dict[str, Any]) -> str:
    """The report: a page that needs nothing beside itself."""
    from matplotlib.colors import to_hex

    chosen = best(settings)
    legend = "".join(f"<li><i style='background:{to_hex(color)}'></i>{html.escape(setting.label)}</li>"
                     for setting, color in zip(settings, _colors(len(settings)), strict=True))
    panels = "".join(_svg(settings, split, field) for split, field in _panels(settings))
    rows = [row for setting in settings for row in setting.rows]
    trials = [list(rows[0]), *([_short(value) for value in row.values()] for row in rows)]
    machine = {key: value for key, value in run.items() if key != "data"}
    return f"""<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>Mean and standard deviation over the trials of a setting that were done.</p>
{_html_table(table(settings), settings.index(chosen) + 1 if chosen else 0)}
<h2>Curves</h2>
<p>Lines are means over a setting's trials, bands one standard deviation to either side.</p>
<ul class=legend>{legend if len(settings) > 1 else ''}</ul>
<div class=panels>{panels}</div>
<h2>Trials</h2>
{_html_table(trials)}
<h2>Settings</h2>
<details><summary>What all trials share, but for the fields above</summary>
<pre>{html.escape(json.dumps(config, indent=1))}</pre></details>
<h2>Machine and versions</h2>
<pre>{html.escape(json.dumps(machine, indent=1))}</pre>
</body></html>
"""


def write(directory: Path, rows: Sequence[dict[str, Any]], curves: Sequence[Records], config: dict[str, Any],
          run: dict[str, Any]) -> Path:
    """table.md, curves.png and report.html in `directory`.

    Args:
      rows: a dict a trial, with the same keys in the same order: swept fields, scores, seconds, status.
      curves: of each trial, the records of its metrics.jsonl.
      config: what all trials share.
      run: a run.json: machine, versions.
    Returns:
      The path of report.html.
    """
    settings = settings_of(rows, curves)
    title = (f"{config['model']['name']} on {config['data']['source']}: {len(rows)} trials over "
             + ", ".join([SEED] * (SEED in rows[0]) + list(settings[0].fields)))
    (directory / "table.md").write_text(markdown(table(settings)))
    draw(settings, directory / "curves.png", title)
    path = directory / "report.html"
    path.write_text(page(settings, title, config, run))
    return path
