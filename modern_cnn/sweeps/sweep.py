"""A sweep: the grid of a few fields' values, each point a run of its own, and their results side by side.

The directory of a sweep holds `trials/NAME/`, each the workdir of a run as scripts/train.py writes it; `sweep.json`,
what was asked for and how each trial ended; and, drawn from these, sweep.csv, table.md, curves.png and report.html.
"""
import copy
import csv
import dataclasses
import hashlib
import itertools
import json
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from modern_cnn import buckets, settings
from modern_cnn.errors import UserError, lack_of_memory
from modern_cnn.runs import loop, workdir
from modern_cnn.runs.log import read_metrics
from modern_cnn.runs.record import NotFinite
from modern_cnn.sweeps import report
from modern_cnn.sweeps.grid import parse
from modern_cnn.training.stacked import group_key

log = logging.getLogger(__name__)

WAITING, DONE, DIVERGED = "waiting", "done", "diverged"
LARGEST = 64  # trials that train together; each has a thread or two that write its checkpoints
NAME_LENGTH = 120  # of a trial's directory; file systems take 255 bytes
SCORES = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
Outcome = dict[str, Any] | Exception | str  # a result, an error, or a status


@dataclasses.dataclass
class Trial:
    """One point of the grid. `result` holds its status, seconds and scores."""
    name: str
    fields: dict[str, Any]
    directory: Path
    result: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether it is not trained again. Trials that failed for want of memory or disk are."""
        return self.result["status"] == DONE or self.result["status"].startswith(DIVERGED)


class Sweep:
    """The directory of a sweep: its trials, how each ended, and the files that say so.

    All trials share `config`; another one than before is refused, except where a run could go on with it. The grid of
    `fields`, {field: values}, is added to the trials that are there. Raise UserError if that is refused, or damaged.
    """

    def __init__(self, config: ml_collections.ConfigDict, fields: dict[str, list], directory: Path):
        self.config, self.directory = config, directory
        self.shared = json.loads(json.dumps(settings.flatten(config)))  # as it is read back: tuples are lists
        self.trials: list[Trial] = []
        self.asked: list[Trial] = []  # by this command; the others stay unchanged
        changed: list[tuple[str, Any, Any]] = []
        if (directory / "sweep.json").exists():
            changed = self._read(workdir.read_json(directory / "sweep.json"))
        elif (directory / "config.json").exists():
            raise UserError(f"{directory} holds a run: choose another --workdir for the sweep")
        # Of two that are now the same point, the one whose own fields say so is meant.
        known = {self._point(trial.fields): trial for trial in sorted(self.trials, key=lambda trial: len(trial.fields))}
        named, kept = {trial.name: trial for trial in self.trials}, {}
        for values in itertools.product(*fields.values()):
            point = dict(zip(fields, values, strict=True))
            name = _name(point)
            trial = known.get(self._point(point))
            if trial is None and name in named:  # it kept another length, which is not in its name
                trial = named[name]
                kept[name] = {field: trial.fields.pop(field) for field in [*trial.fields] if field not in point}
            if trial is None:
                trial = Trial(name, point, directory / "trials" / name, {"status": WAITING, "seconds": 0.0})
                self.trials.append(trial)
            self.asked.append(trial)
        self._refuse(_change_lengths(self, changed, kept))

    def _read(self, before: dict[str, Any]) -> list[tuple[str, Any, Any]]:
        """Take the trials of a sweep.json, and return how its config differs: (field, old, new)."""
        try:
            self.trials = [Trial(name, record["fields"], self.directory / "trials" / name, record["result"])
                           for name, record in before["trials"].items()]
            config = before["config"]
        except (KeyError, TypeError, AttributeError) as e:
            raise UserError(f"{self.directory / 'sweep.json'} was not written by a sweep, or was edited: {e!r}") from e
        # Whether moved images are the same, each trial finds out.
        changed, refused = workdir.differences(config, self.config.to_dict(), same_images=True)
        self._refuse(refused)
        return changed

    def _refuse(self, reasons: Sequence[str]) -> None:
        if reasons:
            raise UserError(f"{self.directory} holds a sweep over a different config: {'; '.join(reasons)}. Choose "
                            "another --workdir, or repeat the command it was started with")

    def _point(self, fields: dict[str, Any]) -> str:
        """Return the same text for the same run, also where a field has the value of the shared config."""
        values = json.loads(json.dumps(fields, sort_keys=True))
        return json.dumps({field: value for field, value in values.items() if value != self.shared.get(field)})

    def config_of(self, trial: Trial) -> ml_collections.ConfigDict:
        """Return the config of a trial's run."""
        config = copy.deepcopy(self.config)
        config.update_from_flattened_dict({field: tuple(value) if isinstance(value, list) else value
                                           for field, value in trial.fields.items()})
        return config

    def note(self, group: Sequence[Trial], outcomes: Sequence[Outcome], seconds: float) -> None:
        """Write how the trials of a group ended: what `loop.train_and_evaluate` returned, an error, or a status.

        Each trial's share of the seconds that the group took is added to the time that it has taken before.
        """
        for trial, outcome in zip(group, outcomes, strict=True):
            scores = outcome if isinstance(outcome, dict) else {}
            taken = round(trial.result["seconds"] + seconds / len(group), 2)
            trial.result = {"status": _status(outcome), "seconds": taken} | {
                f"{split}_{name}": value[name] for split, value in scores.items() if split in ("validation", "test")
                for name in ("loss", "accuracy")}
        self.write()

    def write(self) -> None:
        """Write sweep.json and sweep.csv."""
        workdir.write_json(self.directory / "sweep.json", {
            "config": self.config.to_dict(),
            "trials": {trial.name: {"fields": trial.fields, "result": trial.result} for trial in self.trials}})
        rows = self.rows()
        temporary = self.directory / "sweep.csv.tmp"
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.directory / "sweep.csv")

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each trial, all with the same keys: the swept fields, scores, seconds, status."""
        fields = dict.fromkeys(field for trial in self.trials for field in trial.fields)
        scores = [name for name in SCORES if name.startswith("test") or self.shared["data.validation"]
                  or any(name in trial.result for trial in self.trials)]
        return [{field: trial.fields.get(field, self.shared.get(field)) for field in fields}
                | {name: trial.result.get(name, "") for name in scores}
                | {name: trial.result[name] for name in ("seconds", "status")} for trial in self.trials]

    def report(self) -> Path:
        """Draw table.md, curves.png and report.html, and return the path of the last."""
        curves = [read_metrics(trial.directory / "metrics.jsonl") for trial in self.trials]
        runs = [trial.directory / "run.json" for trial in self.trials if (trial.directory / "run.json").exists()]
        return report.write(self.directory, self.rows(), curves, self.config.to_dict(),
                            workdir.read_json(runs[0]) if runs else workdir.describe_machine())


def _change_lengths(sweep: Sweep, changed: Sequence[tuple[str, Any, Any]],
                    kept: dict[str, dict[str, Any]]) -> list[str]:
    """Let trials that are asked for go on to another length, and return which could not; the others keep theirs.

    `changed` is how the shared config differs from before, (field, old, new). `kept` holds the lengths of trials, by
    name, that had kept theirs and are asked for now.
    """
    refused = []
    for trial in sweep.trials:
        own = {name: (old, new) for name, old, new in changed if name not in trial.fields
               and settings.FIELDS[name].resume in (settings.LENGTH, settings.EPOCHS)}
        own |= {name: (old, sweep.shared[name]) for name, old in kept.get(trial.name, {}).items()}
        if trial.result["status"] != DONE or not own:
            continue
        if trial not in sweep.asked:
            trial.fields |= {name: old for name, (old, _) in own.items()}
            continue
        trial.result["status"] = WAITING
        refused += [f"{trial.name} is done, and config.{name} was {old}, is {new}" for name, (old, new) in own.items()
                    if _shortens(name, old, new) or (settings.FIELDS[name].resume == settings.EPOCHS
                                                     and trial.fields.get("schedule.name") in settings.SPANNING)]
    return refused


def _shortens(name: str, old: Any, new: Any) -> bool:
    """Return whether a field that sets the length of a run asks for less than before; no limit is 0."""
    return name in ("epochs", "max_steps") and (new or float("inf")) < (old or float("inf"))


def _name(fields: dict[str, Any]) -> str:
    """Return a name for a directory, 'optimizer.learning_rate=0.1,seed=0', with a digest where that is not allowed."""
    text = ",".join(f"{field}={value}" for field, value in sorted(fields.items()))
    safe = re.sub(r"[^\w.=,+-]", "_", text, flags=re.ASCII)  # a letter is a byte
    if safe == text and len(text) <= NAME_LENGTH:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    return f"{safe[:NAME_LENGTH - 9]}-{digest[:8]}"


def _status(outcome: Outcome) -> str:
    """Return how a trial ended, in one line; a status stays as it is."""
    if isinstance(outcome, dict):
        return DONE
    if isinstance(outcome, str):
        return outcome
    if isinstance(outcome, NotFinite):
        return f"{DIVERGED}: the loss is not finite at step {outcome.step}"
    if lack := lack_of_memory(outcome):
        return f"failed: out of memory ({lack})"
    text = " ".join(str(outcome).split())[:300] or type(outcome).__name__
    return f"failed: {text}" if isinstance(outcome, UserError) else f"failed: {type(outcome).__name__}: {text}"


def run(config: ml_collections.ConfigDict, sweeps: Sequence[str], directory: str | Path, *,
        together: bool = True) -> dict[str, Any]:
    """Train every trial of a grid that is not done yet, and draw the report of all that are in the directory.

    `sweeps` are as `grid.parse` takes them. The same call goes on with a sweep that was stopped. Trials with the same
    `group_key` are trained as one program; without `together` all are trained one after the other.

    Return {'trials': how many, 'done': how many, 'report': its path}. Raise UserError for bad input, or if not one
    trial could be done, and SystemExit if stopped by a signal, after a checkpoint.
    """
    if buckets.url_of(directory):
        raise UserError("a sweep cannot be in a bucket, only a run: choose a --workdir on this machine, and copy it to "
                        f"{directory} afterwards")
    directory, fields = Path(directory), parse(sweeps, config)
    with workdir.disk_errors(directory), workdir.lock(directory):
        sweep = Sweep(config, fields, directory)
        sweep.write()
        try:
            with loop.stop_signals() as stop:
                _train(sweep, together, stop)
        except SystemExit:
            log.warning("to resume, run the same command with --workdir=%s", directory)
            raise
        finally:
            path = sweep.report()
        failed = [trial for trial in sweep.asked if trial.result["status"] != DONE]
        for trial in failed:
            log.warning("%s: %s", trial.name, trial.result["status"])
        if len(failed) == len(sweep.asked):
            raise UserError(f"none of the {len(sweep.asked)} trials could be done; {failed[0].name}: "
                            f"{failed[0].result['status']}")
        log.info("\n%s\nreport: %s", (directory / "table.md").read_text("utf-8"), path)
        return {"trials": len(sweep.asked), "done": len(sweep.asked) - len(failed), "report": str(path)}


def _groups(sweep: Sweep, together: bool) -> list[list[Trial]]:
    """Return the trials that are left, those that can train together in one group of at most LARGEST."""
    groups: dict[str, list[Trial]] = {}
    for trial in sweep.asked:
        if trial.ended:
            continue
        try:
            checked = settings.read(sweep.config_of(trial))
            key = group_key(checked) if together else None
        except UserError as e:
            trial.result["status"] = _status(e)
            log.warning("%s: %s", trial.name, trial.result["status"])
            continue
        groups.setdefault(key or trial.name, []).append(trial)
    return [group[i:i + LARGEST] for group in groups.values() for i in range(0, len(group), LARGEST)]


def _train(sweep: Sweep, together: bool, stop: loop.Stop) -> None:
    """Train the trials that are left, group by group, until a signal comes."""
    waiting = _groups(sweep, together)
    sweep.write()
    while waiting:
        if stop(0):  # the signal came at the end of the last group
            raise SystemExit(128 + stop(0))
        group, start = waiting.pop(0), time.perf_counter()
        note = (f"{sum(trial.ended for trial in sweep.asked)} of {len(sweep.asked)} trials done, "
                f"{sum(map(len, waiting))} waiting: ")
        try:
            configs = [sweep.config_of(trial) for trial in group]
            if len(group) > 1:
                outcomes = loop.train_trials(configs, [trial.directory for trial in group], note, stop)
            else:
                log.info("%s%s", note, group[0].name)
                outcomes = [loop.train_and_evaluate(configs[0], group[0].directory, stop=stop)]
        except Exception as e:  # of any kind: the other trials go on
            if len(group) > 1:
                log.warning("%d trials cannot be trained together (%s); trying half as many", len(group), _status(e))
                waiting[:0] = [group[:len(group) // 2], group[len(group) // 2:]]
                continue
            outcomes = [e]
        except BaseException:  # a signal; checkpoints have been saved
            sweep.note(group, [WAITING] * len(group), time.perf_counter() - start)
            raise
        sweep.note(group, outcomes, time.perf_counter() - start)
