"""Results of finished runs: tables with means and deviations over the seeds, from one record for each run.

A record holds what the files of the workdir say, without the paths of the machine that trained, and outlives them.
"""
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from modern_cnn import settings
from modern_cnn.errors import UserError
from modern_cnn.runs import log, workdir
from modern_cnn.sweeps.report import Run, SeedGroup, deviation, figure, group_seeds, markdown_table

Record = Mapping[str, Any]
Configs = Mapping[str, Mapping[str, Any]]  # the fields of each config that are set, by the config's --config=

# Fields that may differ in runs of one experiment: the seed, and where a resumed run may have another value.
FREE = {"seed", *(name for name, field in settings.FIELDS.items() if field.resume in (settings.ALWAYS, settings.PLACE))}
KNOWN = {"fashion": "Fashion-MNIST", "cifar100": "CIFAR-100", "cifar": "CIFAR-10", "digits": "digits", "mnist": "MNIST"}
SOURCES = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}  # of the other sets it is the name, with _ for -
FILES = " as image files"
COMMAND = "command: `python scripts/train.py`"


def read(directory: Path) -> Record:
    """Return the record of a run. Raise UserError if that is not its workdir, or the run has not finished."""
    config, run = workdir.read_run(directory)
    metrics = log.read_metrics(directory / "metrics.jsonl")
    data, batch = run["data"], config["data"]["batch_size"]
    planned = config["epochs"] * (data["sizes"]["train"] // batch)
    planned = min(planned, config.get("max_steps") or planned)
    trained, validated, tested = ([record for record in metrics if record["split"] == split]
                                  for split in ("train", "validation", "test"))
    steps, scored = max((record["step"] for record in trained), default=0), {each["step"]: each for each in tested}
    chosen = max(validated, key=lambda r: (r["accuracy"], -r["loss"], r["step"]))["step"] if validated else steps
    if steps < planned or chosen not in scored:
        raise UserError(f"the run in {directory} has not finished: step {steps:,} of {planned:,}"
                        + ("" if steps < planned else ", and no score on the test split"))
    seconds = sum((record["step"] - before) * batch / max(record["images_per_second"], 1e-9)
                  for before, record in zip([0, *(record["step"] for record in trained)], trained, strict=False))
    return {
        "network": config["model"]["name"], "data": data_name(data["source"]), "seed": config["seed"],
        "config": {name: value for name, value in sorted(set_fields(config).items()) if name not in FREE},
        "parameters": run.get("parameters"), "steps": steps, "epochs": trained[-1]["epoch"], "chosen": chosen,
        "accuracy": scored[chosen]["accuracy"], "loss": scored[chosen]["loss"], "seconds": round(seconds, 1),
        "machine": f"{run.get('machine', 'unknown machine')} ({run.get('device')})", "jax": run["versions"].get("jax"),
        "devices": run.get("device_count"), "commit": run.get("commit"),
    }


def data_name(source: str) -> str:
    """Return the name of a data set, 'Fashion-MNIST' for 'idx:/data/fashion-mnist'; the folder's of an unknown set."""
    place = source.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    plain = re.sub("[^a-z0-9]", "", place.lower())
    return next((name for part, name in KNOWN.items() if part in plain), place) + FILES * source.startswith("folder:")


def set_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config that are set, by dotted name; tuples as lists, as JSON has them."""
    flat = settings.flatten(json.loads(json.dumps(config)))
    return {name: value for name, value in flat.items() if value is not None}


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


def nearest_config(record: Record, configs: Configs) -> tuple[str, list[str]]:
    """Return (the config that a run differs least from, the fields that differ); ('', []) without a config."""
    differences = []
    for name, fields in configs.items():
        if fields["model.name"] == record["network"]:
            changed = [key for key, value in record["config"].items() if value != fields.get(key, type(value)())]
            elsewhere = record["data"].removesuffix(FILES) != data_name(fields["data.source"])
            differences.append((name, changed + ["data.source"] * elsewhere))
    return min(differences, key=lambda difference: len(difference[1]), default=("", []))


def source_of(record: Record) -> str:
    """Return the config.data.source of the set that a run trained on, where anybody can have it from."""
    name = record["data"].removesuffix(FILES)
    return SOURCES.get(name, re.sub("[^a-z0-9]", "_", name.lower()))


def command(record: Record, name: str, fields: Sequence[str]) -> str:
    """Return the arguments of train.py: a config, and the values that a run has for `fields`."""
    values = record["config"] | {"data.source": source_of(record)}
    texts = (str(tuple(value) if isinstance(value, list) else value) for value in map(values.get, fields))
    flags = [f"--config.{field}={shlex.quote(text)}" for field, text in zip(fields, texts, strict=True)]
    return " ".join([f"--config={name}"] * bool(name) + flags)


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
