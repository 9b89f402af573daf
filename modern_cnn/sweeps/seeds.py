"""Runs that differ in the seed alone, and the one way to write their scores: mean ± standard deviation, in markdown."""
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

SEED, DONE = "seed", "done"
Records = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl


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
        """Return a score of each run that is done; an empty list if one of them lacks it."""
        done = self.done
        return [run.scores[score] for run in done] if all(score in run.scores for run in done) else []

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
    """Return the sample standard deviation (over n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


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
        digits = 4 if score.endswith("loss") else 0 if mean >= 100 else 2
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


def table(groups: Sequence[SeedGroup], fields: Mapping[str, str], scores: Mapping[str, str]) -> list[list[str]]:
    """Return a heading and a line for each group: `fields`, how many runs are done, `scores` (both {name: heading})."""
    return [[*fields.values(), "trials", *scores.values()],
            *([*(short_value(group.fields[field]) for field in fields), group.count,
               *(figure(score, group.values(score)) for score in scores)] for group in groups)]


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells, the first of them the heading, as a table in markdown."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], ["---"] * len(cells[0]), *cells[1:]]) + "\n"
