"""What runs came to, from their own files: one record a run, and a table of records with medians over seeds.

A record is what `config.json`, `run.json` and `metrics.jsonl` say, without the places on the machine that trained; a
file of records (one JSON object a line) outlives the workdirs.
"""
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modern_cnn.errors import UserError
from modern_cnn.runs import log as logs
from modern_cnn.runs import workdir

Record = dict[str, Any]

# What a run may have otherwise and still be the same experiment; and where its images lay.
OTHERWISE = {"seed", "log_every_steps", "checkpoint_every_steps", "eval_every_epochs", "test_every_epoch",
             "parallel.count", "parallel.compile", "data.source", "data.manual_dir"}
KNOWN = {"fashion": "Fashion-MNIST", "cifar100": "CIFAR-100", "cifar": "CIFAR-10", "digits": "digits", "mnist": "MNIST"}


def read(directory: Path) -> Record:
    """The record of a finished run.

    Raises:
      UserError: not a workdir, or the run has not finished.
    """
    config, run = workdir.read_run(directory)
    metrics = logs.read_metrics(directory / "metrics.jsonl")
    data, batch = run["data"], config["data"]["batch_size"]
    planned = config["epochs"] * (data["sizes"]["train"] // batch)
    planned = min(planned, config.get("max_steps") or planned)
    trained = [record for record in metrics if record["split"] == "train"]
    steps = max((record["step"] for record in trained), default=0)
    scored = {record["step"]: record for record in metrics if record["split"] == "test"}
    validated = [record for record in metrics if record["split"] == "validation"]
    chosen = max(validated, key=lambda r: (r["accuracy"], -r["loss"], r["step"]))["step"] if validated else steps
    if steps < planned or chosen not in scored:
        raise UserError(f"the run in {directory} has not finished: step {steps:,} of {planned:,}"
                        + ("" if steps < planned else ", and no score on the test split"))
    seconds, before = 0.0, 0
    for record in trained:
        seconds += (record["step"] - before) * batch / max(record["images_per_second"], 1e-9)
        before = record["step"]
    return {
        "network": config["model"]["name"], "data": data_name(data["source"]), "seed": config["seed"],
        "config": {key: value for key, value in sorted(flat(config).items()) if key not in OTHERWISE},
        "parameters": run.get("parameters"), "steps": steps, "epochs": trained[-1]["epoch"], "chosen": chosen,
        "accuracy": scored[chosen]["accuracy"], "loss": scored[chosen]["loss"], "seconds": round(seconds, 1),
        "machine": f"{run.get('machine', 'unknown machine')} ({run.get('device')})", "jax": run["versions"].get("jax"),
        "devices": run.get("device_count"), "commit": run.get("commit"),
    }


def data_name(source: str) -> str:
    """'Fashion-MNIST' of 'idx:/data/fashion-mnist'; without the directory where the set is not a known one."""
    place = source.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    plain = re.sub("[^a-z0-9]", "", place.lower())
    name = next((name for part, name in KNOWN.items() if part in plain), place)
    return f"{name} as image files" if source.startswith("folder:") else name


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'data.batch_size': 64} of {'data': {'batch_size': 64}}; what is not set is left out."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def load(path: Path) -> list[Record]:
    """The records of a file; none where there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def merge(old: Sequence[Record], new: Sequence[Record], networks: Sequence[str]) -> list[Record]:
    """Both, in the order of `networks`; a new record replaces the old one of the same experiment and seed."""
    order = {name: n for n, name in enumerate(networks)}
    found = {_key(record): record for record in [*old, *new]}
    return [found[key] for key in sorted(found, key=lambda key: (order.get(key[1], len(order)), *key))]


def save(path: Path, records: Sequence[Record]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _key(record: Record) -> tuple[str, str, str, int]:
    fields = {key: value for key, value in record["config"].items() if value}  # older code has fewer that are off
    return (record["data"], record["network"], json.dumps(fields, sort_keys=True), record["seed"])


def command(record: Record, configs: Mapping[str, Mapping[str, Any]]) -> str:
    """What to give train.py: the config that the run differs least from, and the fields that it has otherwise.

    Args:
      configs: the flat fields of each config, by what --config= names it with.
    """
    name, changed = _changes(record, configs)
    return " ".join([f"--config={name}", *_flags(record, changed)]) if name else record["network"]


def _changes(record: Record, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """(name of the config that the run differs least from, its fields that the run has otherwise); ('', []) if none."""
    best: tuple[str, list[str]] = ("", [])
    for name, fields in configs.items():
        if fields["model.name"] != record["network"]:
            continue
        changed = [key for key, value in record["config"].items() if value != fields.get(key, type(value)())]
        here, there = record["data"].removesuffix(" as image files"), data_name(fields["data.source"])
        changed += ["data.source"] if here != there else []
        if not best[0] or len(changed) < len(best[1]):
            best = (name, changed)
    return best


def _flags(record: Record, fields: Sequence[str]) -> list[str]:
    source = re.sub("[^a-z0-9]", "_", record["data"].removesuffix(" as image files").lower())
    return [f"--config.{key}={source if key == 'data.source' else _literal(record['config'][key])}" for key in fields]


def _literal(value: Any) -> str:
    text = str(tuple(value) if isinstance(value, list) else value)
    return f"'{text}'" if "(" in text else text


def table(records: Sequence[Record], configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of markdown: a row for each experiment, and what the runs were made on."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record)[:3], []).append(record)
    if not groups:
        return ["None yet."]
    notes: list[str] = []
    lines = ["| command: `python scripts/train.py` | parameters | data | steps | test accuracy, median (range) | seeds "
             "| training | on |", "|---|---|---|---|---|---|---|---|"]
    for (data, _, _), runs in groups.items():
        made = sorted({_made(record) for record in runs})
        notes += [note for note in made if note not in notes]
        letters = ", ".join(_letter(notes.index(note)) for note in made)
        lines.append(f"| `{command(runs[0], configs)}` | {runs[0]['parameters']:,} | {data} | {runs[0]['steps']:,} | "
                     f"{_spread([100 * r['accuracy'] for r in runs])} | {_seeds([r['seed'] for r in runs])} | "
                     f"{logs.duration(statistics.median(r['seconds'] for r in runs))} | {letters} |")
    return [*lines, "", *[f"{_letter(n)}: {note}.  " for n, note in enumerate(notes)]]


def on_all(records: Sequence[Record], sets: Sequence[str]) -> list[dict[str, list[Record]]]:
    """For each command that ran on all of `sets`: the records of each set."""
    groups: dict[tuple[str, ...], dict[str, list[Record]]] = {}
    for record in records:
        for name in sets:
            if record["data"].startswith(name):
                groups.setdefault(_key(record)[1:3], {}).setdefault(name, []).append(record)
    return [group for group in groups.values() if len(group) == len(sets)]


def side_by_side(rows: Sequence[dict[str, list[Record]]], configs: Mapping[str, Mapping[str, Any]],
                 sets: Sequence[str]) -> list[str]:
    """Lines of markdown: a row for each of what `on_all` gives, and what all of their commands share."""
    if not rows:
        return ["None yet."]
    firsts = [row[sets[0]][0] for row in rows]
    changes = [_changes(record, configs) for record in firsts]
    shared = [field for field in dict.fromkeys(field for _, fields in changes for field in fields if field in
                                               firsts[0]["config"])
              if len({json.dumps(record["config"].get(field)) for record in firsts}) == 1]
    lines = [f"| command: `python scripts/train.py` | parameters | {' | '.join(sets)} |",
             "|---|---|" + "---|" * len(sets)]
    for row, first, (name, fields) in zip(rows, firsts, changes, strict=True):
        own = [field for field in fields if field not in (*shared, "data.source")]
        cells = [_spread([100 * r["accuracy"] for r in row[data]]) for data in sets]
        lines.append(f"| `{' '.join([f'--config={name}', *_flags(first, own)])}` | {first['parameters']:,} | "
                     f"{' | '.join(cells)} |")
    made = sorted({_made(record) for row in rows for runs in row.values() for record in runs})
    return [*lines, "", f"All with `{' '.join(_flags(firsts[0], shared))}`, seeds "
            f"{_seeds({r['seed'] for row in rows for runs in row.values() for r in runs})}, on {'; '.join(made)}."]


def _made(record: Record) -> str:
    """On what, and with which versions."""
    devices = f" x {record['devices']}" if record["devices"] != 1 else ""
    return f"{record['machine']}{devices}, jax {record['jax']}, commit {record['commit']}"


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) + (str(number // 26) if number >= 26 else "")


def _spread(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):.1f} %"
    return f"{middle} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else middle


def _seeds(seeds: Iterable[int]) -> str:
    """'0 to 2', or the seeds one by one."""
    seeds = sorted(seeds)
    if len(seeds) > 1 and seeds == [*range(seeds[0], seeds[-1] + 1)]:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
