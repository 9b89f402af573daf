"""Results of finished runs: tables with means and deviations over the seeds, from one record for each run."""
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from modern_cnn import settings
from modern_cnn.reuse.provenance import Configs, Record, command, nearest_config, set_fields
from modern_cnn.runs import log
from modern_cnn.sweeps.report import Run, SeedGroup, deviation, figure, group_seeds, markdown_table

COMMAND = "command: `python scripts/train.py`"


def load(path: Path) -> list[Record]:
    """Return the records of a file; none if there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _differing(record: Record) -> dict[str, Any]:
    """Return the fields of a run that differ from their defaults, which older versions lack some of."""
    defaults = set_fields({name: field.default for name, field in settings.FIELDS.items()})
    return {name: value for name, value in record["config"].items()
            if value != defaults.get(name, type(value)())}


def merge(old: Sequence[Record], new: Sequence[Record], networks: Sequence[str]) -> list[Record]:
    """Return both in the order of `networks`; a new record replaces the old one of the same experiment and seed."""
    order = {name: n for n, name in enumerate(networks)}
    found = {(record["data"], record["network"], json.dumps(_differing(record), sort_keys=True), record["seed"]): record
             for record in [*old, *new]}
    return [found[key] for key in sorted(found, key=lambda key: (order.get(key[1], len(order)), *key))]


def experiments(records: Iterable[Record]) -> list[SeedGroup]:
    """Return the records in groups that differ in the seed alone."""
    return group_seeds([Run({"data": record["data"], "network": record["network"], **_differing(record),
                             "seed": record["seed"]}, record) for record in records])


def cells(group: SeedGroup, configs: Configs) -> tuple[str, str, str]:
    """Return the arguments of train.py for an experiment, its test accuracy and the time of its training, as text."""
    first, seconds = group.runs[0].scores, group.values("seconds")
    took = [log.duration(number) for number in (fmean(seconds), deviation(seconds)) if number is not None]
    return (f"`{command(first, *nearest_config(first, configs)) or first['network']}`",
            figure("accuracy", group.values("accuracy"), count=True), " ± ".join(took))


def table(records: Sequence[Record], configs: Configs) -> str:
    """Return a table with a line for each experiment, and below it the machines and versions that the runs used."""
    if not records:
        return "None yet."
    letters: dict[str, str] = {}
    lines = [[COMMAND, "parameters", "data", "steps", "test accuracy", "seeds", "training", "on"]]
    for group in experiments(records):
        first = group.runs[0].scores
        made = sorted({_made(run.scores) for run in group.runs})
        for note in made:
            letters.setdefault(note, chr(ord("a") + len(letters) % 26) + str(len(letters) // 26 or ""))
        called, accuracy, took = cells(group, configs)
        lines.append([called, f"{first['parameters']:,}", first["data"], f"{first['steps']:,}", accuracy,
                      _seeds(group), took, ", ".join(letters[note] for note in made)])
    return markdown_table(lines) + "\n" + "\n".join(f"{letter}: {note}.  " for note, letter in letters.items())


def _made(record: Record) -> str:
    """Return machine and versions of a run in words."""
    devices = f" x {record['devices']}" if record["devices"] != 1 else ""
    return f"{record['machine']}{devices}, jax {record['jax']}, commit {record['commit']}"


def _seeds(group: SeedGroup) -> str:
    """Return '0 to 2', or the seeds one by one if they are not in a row."""
    seeds = sorted({run.scores["seed"] for run in group.runs})
    if len(seeds) > 1 and seeds == [*range(seeds[0], seeds[-1] + 1)]:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
