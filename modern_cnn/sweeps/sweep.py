"""Sweeps: the grid of a few fields' values, each point a run of its own, and what comes out of them side by side.

A sweep's directory holds `trials/NAME/`, each the workdir of a run as scripts/train.py writes it; `sweep.json`, what
was asked for and how each trial ended; and, drawn from these, sweep.csv, table.md, curves.png and report.html.
"""
import ast
import copy
import csv
import dataclasses
import hashlib
import itertools
import json
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from modern_cnn.errors import UserError, did_you_mean
from modern_cnn.runs import log as logs
from modern_cnn.runs import loop, workdir
from modern_cnn.sweeps import report
from modern_cnn.training import devices as mesh
from modern_cnn.training import stacked as trials

log = logging.getLogger(__name__)

WAITING, DONE, DIVERGED = "waiting", "done", "diverged"
LARGEST = 64  # trials that train together; each has a thread or two that write its checkpoints
NAME_LENGTH = 120  # of a trial's directory; file systems take 255 bytes
SCORES = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")


def parse(sweeps: Sequence[str], config) -> dict[str, list]:
    """{field: its values} of `field=1,2`, `field=0:8` or `field=0:8:2` (the end is left out), and text, `field=a,b`.

    Raises:
      UserError: a field that the config has not got, with the closest; a value that is not of the field's type; a field
        or a value that is given twice; an empty range.
    """
    fields: dict[str, list] = {}
    for given in sweeps:
        field, equals, text = given.partition("=")
        field = field.removeprefix("config.")
        if not equals or not text:
            raise UserError(f"--sweep={given} is not of the form --sweep=seed=0:8 or --sweep=model.norm=batch,none")
        if field in fields:
            raise UserError(f"--sweep={field}= is given twice; put its values into one, with commas")
        kind = _kind(config, field)
        values = [value for part in _parts(text) for value in _values(field, part, kind)]
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice or not values:
            raise UserError(f"--sweep={given}: " + (f"{twice[0]} is there twice" if twice else "there is no value"))
        fields[field] = values
    if not fields:
        raise UserError("--sweep is missing: which fields, and which values? For example --sweep=seed=0:8")
    return fields


def _kind(config, field: str) -> type:
    """The type of a field's values; `object` where an option is unset and of any."""
    section, reached, *_, last = config, "config", *field.split(".")
    for part in field.split("."):
        if not hasattr(section, "keys") or part not in section:
            raise UserError(f"{reached} has no field {part!r}{did_you_mean(part, getattr(section, 'keys', list)())}")
        owner, section, reached = section, section[part], f"{reached}.{part}"
    if hasattr(section, "keys"):
        raise UserError(f"{reached} is a section: sweep one of its fields, --sweep={field}.FIELD=value")
    kind = owner.get_type(last)
    return object if kind is type(None) else kind


def _parts(text: str) -> list[str]:
    """'a,b' in two; commas inside of brackets do not divide."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _values(field: str, text: str, kind: type) -> list:
    """The values that `text`, which has no commas, stands for."""
    try:
        if kind is str:
            return [text]
        if kind is bool:
            return [{"true": True, "false": False}[text.lower()]]
        if kind in (int, float):
            if ":" not in text:
                return [kind(text)]
            start, end, *step = map(Decimal, text.split(":"))  # of floats 0.1:0.4:0.1 has three values, not four
            step = step[0] if step else Decimal(1)
            return [kind(start + i * step) for i in range(math.ceil((end - start) / step))]
        value = ast.literal_eval(text)
        return [tuple(value) if kind is tuple else value]
    except (ValueError, SyntaxError, KeyError, TypeError, ArithmeticError):
        if kind is object:
            return [text]
        raise UserError(f"--sweep={field}: {text!r} is not a valid {kind.__name__}"
                        + (", nor a range a:b or a:b:step" if kind in (int, float) else "")) from None


@dataclasses.dataclass
class Trial:
    """One point of the grid. `result` is its row without the fields: status, seconds and scores."""
    name: str
    fields: dict[str, Any]
    directory: Path
    result: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether training it again would change nothing. What failed otherwise (memory, disk) is tried again."""
        return self.result["status"] == DONE or self.result["status"].startswith(DIVERGED)


class Sweep:
    """A sweep's directory: which trials there are, how each ended, and the files that say so.

    Args:
      config: what all trials share; another one than before is refused, except where a run could go on with it.
      fields: {field: values}; their grid is added to the trials that are there already.
      directory: of the sweep.
    Raises:
      UserError: the directory holds a sweep over another config, or something that cannot be read.
    """

    def __init__(self, config, fields: dict[str, list], directory: Path):
        self.config, self.directory = config, directory
        self.trials: list[Trial] = []
        before = workdir.read_json(directory / "sweep.json") if (directory / "sweep.json").exists() else None
        if before:
            self._read(before)
        known = {self._point(trial.fields): trial for trial in self.trials}
        self.asked: list[Trial] = []  # by this command; the others stay as they are
        for values in itertools.product(*fields.values()):
            point = dict(zip(fields, values, strict=True))
            trial = known.get(self._point(point))
            if trial is None:
                name = _name(point)
                trial = Trial(name, point, directory / "trials" / name, {"status": WAITING, "seconds": 0.0})
                self.trials.append(trial)
            self.asked.append(trial)

    def _read(self, before: dict[str, Any]) -> None:
        try:
            self.trials = [Trial(name, record["fields"], self.directory / "trials" / name, record["result"])
                           for name, record in before["trials"].items()]
            config = before["config"]
        except (KeyError, TypeError, AttributeError) as e:
            raise UserError(f"{self.directory / 'sweep.json'} was not written by a sweep, or was edited: {e!r}") from e
        changed, refused = workdir.differences(config, self.config.to_dict())
        if refused:
            raise UserError(f"{self.directory} holds a sweep over a different config: {'; '.join(refused)}. Choose "
                            "another --workdir, or repeat the command it was started with")
        if changed:  # longer or shorter: what was done goes on
            for trial in self.trials:
                trial.result["status"] = WAITING if trial.result["status"] == DONE else trial.result["status"]

    def _point(self, fields: dict[str, Any]) -> str:
        """The same text for the same run, whichever fields say so."""
        values = json.loads(json.dumps(fields, sort_keys=True))  # as it is read back: tuples are lists
        return json.dumps({field: value for field, value in values.items() if value != self.default(field)})

    def default(self, field: str) -> Any:
        """What the shared config has for a field."""
        section = self.config.to_dict()
        for part in field.split("."):
            section = section[part]
        return json.loads(json.dumps(section))

    def config_of(self, trial: Trial):
        """The config of a trial's run."""
        config = copy.deepcopy(self.config)
        for field, value in trial.fields.items():
            *sections, last = field.split(".")
            section = config
            for part in sections:
                section = section[part]
            section[last] = tuple(value) if isinstance(value, list) else value
        return config

    def note(self, group: Sequence[Trial], outcomes: Sequence[dict | Exception | str], seconds: float) -> None:
        """Writes how the trials of a group ended: what `loop.train_and_evaluate` returned, an error, or a status.

        Args:
          seconds: that the group took; each trial's share is added to what it has taken before.
        """
        for trial, outcome in zip(group, outcomes, strict=True):
            scores = outcome if isinstance(outcome, dict) else {}
            status = DONE if scores else outcome if isinstance(outcome, str) else _reason(outcome)
            trial.result = {
                "status": status, "seconds": round(trial.result["seconds"] + seconds / len(group), 2)} | {
                f"{split}_{name}": scores[split][name]
                for split in ("validation", "test") if split in scores for name in ("loss", "accuracy")}
        self.write()

    def write(self) -> None:
        """sweep.json and sweep.csv."""
        workdir.write_json(self.directory / "sweep.json", {
            "config": self.config.to_dict(),
            "trials": {trial.name: {"fields": trial.fields, "result": trial.result} for trial in self.trials}})
        rows = self.rows()
        temporary = self.directory / "sweep.csv.tmp"
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.directory / "sweep.csv")

    def rows(self) -> list[dict[str, Any]]:
        """A dict a trial, all with the same keys: the swept fields, scores, seconds, status."""
        fields = dict.fromkeys(field for trial in self.trials for field in trial.fields)
        scores = [name for name in SCORES if name.startswith("test") or self.config.data.validation]
        return [{field: trial.fields.get(field, self.default(field)) for field in fields}
                | {name: trial.result.get(name, "") for name in scores}
                | {name: trial.result[name] for name in ("seconds", "status")} for trial in self.trials]

    def report(self) -> Path:
        """Draws table.md, curves.png and report.html. Returns the last."""
        curves = [logs.read_metrics(trial.directory / "metrics.jsonl") for trial in self.trials]
        runs = [trial.directory / "run.json" for trial in self.trials if (trial.directory / "run.json").exists()]
        return report.write(self.directory, self.rows(), curves, self.config.to_dict(),
                            workdir.read_json(runs[0]) if runs else workdir.describe_machine())


def _name(fields: dict[str, Any]) -> str:
    """A directory's name: 'optimizer.learning_rate=0.1,seed=0', with a digest where that would not do."""
    text = ",".join(f"{field}={value}" for field, value in sorted(fields.items()))
    safe = re.sub(r"[^\w.=,+-]", "_", text)
    if safe == text and len(text) <= NAME_LENGTH:
        return text
    return f"{safe[:NAME_LENGTH - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _reason(error: Exception) -> str:
    """How a trial failed, in one line."""
    if isinstance(error, loop.NotFinite):
        return f"{DIVERGED}: the loss is not finite at step {error.step}"
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return f"failed: out of memory ({text})"
    return f"failed: {text}" if isinstance(error, UserError) else f"failed: {type(error).__name__}: {text}"


def run(config, sweeps: Sequence[str], directory: str | Path, *, together: bool = True) -> dict[str, Any]:
    """Trains every trial of a grid that is not done yet, and draws the report of all that are in the directory.

    Args:
      config: a ConfigDict with the fields of configs/base.py.
      sweeps: as `parse` takes them.
      directory: of the sweep; the same command with the same one goes on.
      together: train the trials of one `trials.program` as one; False: all one after the other.
    Returns:
      {'trials', 'done': how many, 'report': its path}.
    Raises:
      UserError: bad input, or not one trial could be done.
      SystemExit: stopped by a signal, after a checkpoint.
    """
    directory = Path(directory)
    fields = parse(sweeps, config)
    with workdir.disk_errors(directory), workdir.lock(directory):
        sweep = Sweep(config, fields, directory)
        sweep.write()
        try:
            with mesh.stop_signals() as stop:
                _train(sweep, together, stop)
        finally:
            path = sweep.report()
        done = sum(trial.result["status"] == DONE for trial in sweep.asked)
        failed = [trial for trial in sweep.asked if trial.result["status"] != DONE]
        for trial in failed:
            log.warning("%s: %s", trial.name, trial.result["status"])
        if not done:
            raise UserError(f"none of the {len(sweep.asked)} trials could be done; {failed[0].name}: "
                            f"{failed[0].result['status']}")
        log.info("\n%s\nreport: %s", (directory / "table.md").read_text(), path)
        return {"trials": len(sweep.asked), "done": done, "report": str(path)}


def _train(sweep: Sweep, together: bool, stop: Callable[[int], int]) -> None:
    """The trials that are left: those of one program together, the others one after the other, until a signal."""
    groups: dict[str, list[Trial]] = {}
    for trial in sweep.asked:
        if not trial.ended:
            program = (trials.program(sweep.config_of(trial)) if together else None) or trial.name
            groups.setdefault(program, []).append(trial)
    waiting = [group[i:i + LARGEST] for group in groups.values() for i in range(0, len(group), LARGEST)]
    while waiting:
        if stop(0):  # it came while a trial was concluded
            raise SystemExit(128 + stop(0))
        group, start = waiting.pop(0), time.perf_counter()
        note = (f"{sum(trial.ended for trial in sweep.asked)} of {len(sweep.asked)} trials done, "
                f"{sum(map(len, waiting))} waiting: ")
        try:
            outcomes = _outcomes(sweep, group, note, stop)
        except Exception as e:  # whatever it is, the others go on
            if len(group) > 1:
                log.warning("%d trials cannot be trained together (%s); trying half as many", len(group), _reason(e))
                waiting[:0] = [group[:len(group) // 2], group[len(group) // 2:]]
                continue
            outcomes = [e]
        except BaseException:  # a signal; what there is has been saved
            sweep.note(group, [WAITING] * len(group), time.perf_counter() - start)
            raise
        sweep.note(group, outcomes, time.perf_counter() - start)


def _outcomes(sweep: Sweep, group: Sequence[Trial], note: str,
              stop: Callable[[int], int]) -> list[dict[str, Any] | Exception]:
    """What came out of each trial of a group: its scores, or why it failed."""
    configs = [sweep.config_of(trial) for trial in group]
    if len(group) > 1:
        return trials.train_together(configs, [trial.directory for trial in group], note, stop)
    log.info("%s%s", note, group[0].name)
    return [loop.train_and_evaluate(configs[0], group[0].directory, stop=stop)]
