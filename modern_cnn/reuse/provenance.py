"""What a finished run is in words: its record, and the command that trains it.

A record holds what the files of the workdir say, without the paths of the machine that trained, and outlives them.
"""
import json
import re
import runpy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modern_cnn import runtime, settings
from modern_cnn.errors import UserError
from modern_cnn.runs import checkpoints, log, workdir

Record = Mapping[str, Any]
Configs = Mapping[str, Mapping[str, Any]]  # the fields of each config that are set, by the config's --config=

# Fields that may differ in runs of one experiment: the seed, and where a resumed run may have another value.
FREE = {"seed", *(name for name, field in settings.FIELDS.items() if field.resume in (settings.ALWAYS, settings.PLACE))}
KNOWN = {"fashionmnist": "Fashion-MNIST", "cifar100": "CIFAR-100", "cifar10": "CIFAR-10", "cifar": "CIFAR-10",
         "digits": "digits", "mnist": "MNIST"}
ARCHIVE = "(batches)?(py|python|bin|binary|mat)?$"  # how the folders of CIFAR's authors end
SOURCES = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}  # of the other sets it is the name, with _ for -
FILES = " as image files"


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
    unfinished = steps < planned and not checkpoints.stops_early(validated, config.get("early_stopping", 0))
    if unfinished or chosen not in scored:
        raise UserError(f"the run in {directory} has not finished: step {steps:,} of {planned:,}"
                        + ("" if unfinished else ", and no score on the test split"))
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
    """Return the name of a data set, 'Fashion-MNIST' for 'idx:/data/fashion-mnist'; of an unknown set its own name."""
    place = source.removeprefix("tfds:")
    if place == source:
        place = source.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    plain = re.sub(ARCHIVE, "", re.sub("[^a-z0-9]", "", place.lower()))
    return KNOWN.get(plain, place) + FILES * source.startswith("folder:")


def set_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config that are set, by dotted name; tuples as lists, as JSON has them."""
    flat = settings.flatten(json.loads(json.dumps(config)))
    return {name: value for name, value in flat.items() if value is not None}


def read_configs(root: Path) -> dict[str, dict[str, Any]]:
    """Return the fields that each config of configs/ sets, by the config's --config=."""
    found = {}
    with runtime.own_configs():
        for path in sorted({*(root / "configs").glob("*.py")} - {root / "configs" / "base.py"}):
            module = runpy.run_path(str(path))
            for n, variant in enumerate(module.get("VARIANTS", (None,))):
                config = module["get_config"](*([variant] if variant else []))
                found[f"configs/{path.name}" + (f":{variant}" if n else "")] = set_fields(config.to_dict())
    return found


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
    values = {"data.source": source_of(record)} | record["config"]
    texts = (str(tuple(value) if isinstance(value, list) else value) for value in map(values.get, fields))
    flags = [f"--config.{field}={shlex.quote(text)}" for field, text in zip(fields, texts, strict=True)]
    return " ".join([f"--config={name}"] * bool(name) + flags)
