"""A run's directory: who may write it, what it was started with, and whether this is the same run again."""
import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from modern_cnn.data.sources import Spec
from modern_cnn.errors import UserError

log = logging.getLogger(__name__)

# What may change when a run is resumed; everything else would make it another run.
FREE = ("max_steps", "log_every_steps", "log_norms", "checkpoint_every_steps", "eval_every_epochs", "test_every_epoch",
        "parallel.count", "parallel.compile")
LENGTH = ("epochs",)  # may change too, unless the learning rate follows it
PLACES = ("data.source", "data.manual_dir")  # may change too, as long as the same images are there
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write_json(path: Path, value: Any) -> None:
    """All of it or nothing: a kill leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Raises UserError for a file that is missing or is not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a run's workdir: it has no {path.name}") from None
    except (OSError, ValueError) as e:
        raise UserError(f"cannot read {path}: {e}") from e


@contextlib.contextmanager
def disk_errors(workdir: Path) -> Iterator[None]:
    """A full or broken disk, told as a UserError."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write {e.filename or workdir}: {e.strerror or e}; mend that (free some space?) and "
                        "run the same command again") from e


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Makes the directory and holds it for this process; the kernel lets go when the process ends, however it ends.

    Raises:
      UserError: it cannot be written, or another process trains there.
    """
    path, new = workdir / ".lock", not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - the with below
    except OSError as e:
        raise UserError(f"cannot write the workdir {workdir}: {e.strerror or e}") from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(f"another process (pid {holder}) is training in {workdir}; "
                            "wait for it, stop it, or choose another --workdir") from None
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            if new and [*workdir.iterdir()] == [path]:  # a run that was refused before it began leaves nothing
                path.unlink()
                workdir.rmdir()


def _commit() -> str:
    """Of the project's checkout, with '-dirty' where files differ from it; 'unknown' outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    try:
        result = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"],
                                capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return "unknown"
    return result.stdout.strip() or "unknown"


def describe_machine() -> dict[str, Any]:
    """Versions, commit, platform and devices: what a measurement depends on."""
    return {
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "commit": _commit(),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def describe_run(spec: Spec, parameters: int) -> dict[str, Any]:
    """What run.json holds: the machine, and the data set."""
    return describe_machine() | {"parameters": parameters, "data": vars(spec)}


def _flat(tree: dict, prefix: str = "config") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return flat


def read_run(workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config.json, run.json). Raises UserError where they are missing, or lack what they should hold."""
    config, run = read_json(workdir / "config.json"), read_json(workdir / "run.json")
    for name, content, keys in (("config.json", config, ("model", "data", "schedule")),
                                ("run.json", run, ("versions", "data"))):
        lacking = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), dict)]
        lacking += [] if lacking or name == "config.json" else [
            f"data.{field.name}" for field in dataclasses.fields(Spec) if field.name not in content["data"]]
        if lacking:
            raise UserError(f"{workdir / name} lacks {', '.join(lacking)}: it was not written by a run, or was edited")
    return config, run


def differences(before: dict[str, Any], config: dict[str, Any],
                free: tuple[str, ...] = ()) -> tuple[list[tuple[str, Any, Any]], list[str]]:
    """Between two configs: (every one as field, old, new; those that make it another run, in words).

    Args:
      free: fields that may change too, beside those of FREE and LENGTH.
    """
    old, new = _flat(before), _flat(json.loads(json.dumps(config)))  # as it is read back: tuples are lists
    changed = [(key, old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)]
    free += FREE + (() if config["schedule"]["name"] == "cosine" else LENGTH)
    return changed, [f"{key} was {a!r}, is {b!r}" for key, a, b in changed if key.removeprefix("config.") not in free]


def record(workdir: Path, config: dict[str, Any], run: dict[str, Any], resuming: bool) -> None:
    """Writes config.json and run.json; where there are checkpoints, checks first that this is the same run.

    Raises:
      UserError: another model, data set or training setting, with every difference named.
    """
    run = json.loads(json.dumps(run))  # as it will be read back: tuples are lists
    config = json.loads(json.dumps(config))
    if not resuming:
        write_json(workdir / "run.json", run)
        write_json(workdir / "config.json", config)
        return
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} has checkpoints but no config.json: not a run that can be resumed")
    config_before, before = read_run(workdir)
    was, now = before["data"], run["data"]
    data = [f"the data set's {field} was {was[field]}, is {now[field]}"
            for field in ("digest", "image_shape", "num_classes", "sizes") if was[field] != now[field]]
    changed, refused = differences(config_before, config, () if data else PLACES)
    refused += data
    if refused:
        raise UserError(f"{workdir} holds a different run: {'; '.join(refused)}. Choose another --workdir, or repeat "
                        "the command it was started with")
    for key, a, b in changed:
        log.info("resuming with %s=%r (was %r)", key, b, a)
    for field in ("versions", "commit", "platform", "device", "device_count"):
        if before.get(field) != run[field]:
            log.warning("this run was started with %s %s and goes on with %s: results may differ", field,
                        before.get(field), run[field])
    if "finetuned_from" in before:  # what the run started from stays as it was read then
        run["finetuned_from"] = before["finetuned_from"]
    write_json(workdir / "run.json", run)
    write_json(workdir / "config.json", config)
