"""A run's directory: who may write it, what it was started with, and whether this is the same run again."""
import contextlib
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
FREE = ("epochs", "max_steps", "log_every_steps", "checkpoint_every_steps", "eval_every_epochs", "test_every_epoch")
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
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
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
    result = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True,
                            text=True, check=False)
    return result.stdout.strip() or "unknown"


def describe_run(spec: Spec, parameters: int) -> dict[str, Any]:
    """What run.json holds: versions, commit, platform, devices and the data set."""
    return {
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "commit": _commit(),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "parameters": parameters,
        "data": vars(spec),
    }


def _flat(tree: dict, prefix: str = "config") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return flat


def record(workdir: Path, config: dict[str, Any], run: dict[str, Any]) -> None:
    """Writes config.json and run.json, or on a directory that has them checks that this is the same run.

    Raises:
      UserError: another model, data set or training setting, with every difference named.
    """
    run = json.loads(json.dumps(run))  # as it will be read back: tuples are lists
    config = json.loads(json.dumps(config))
    if not (workdir / "config.json").exists():
        if (workdir / "checkpoints").exists():
            raise UserError(f"{workdir} has checkpoints but no config.json: not a run that can be resumed")
        write_json(workdir / "run.json", run)
        write_json(workdir / "config.json", config)  # last: its presence says that both are there
        return
    old, new = _flat(read_json(workdir / "config.json")), _flat(config)
    changed = [(key, old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)]
    before = read_json(workdir / "run.json")
    was, now = before["data"], run["data"]
    data = [f"the data set's {field} was {was[field]}, is {now[field]}"
            for field in ("digest", "image_shape", "num_classes", "sizes") if was[field] != now[field]]
    free = FREE if data else FREE + PLACES
    refused = [f"{key} was {a!r}, is {b!r}" for key, a, b in changed if key.removeprefix("config.") not in free] + data
    if refused:
        raise UserError(f"{workdir} holds a different run: {'; '.join(refused)}. Choose another --workdir, or repeat "
                        "the command it was started with")
    for key, a, b in changed:
        log.info("resuming with %s=%r (was %r)", key, b, a)
    for field in ("versions", "platform", "device", "device_count"):
        if before[field] != run[field]:
            log.warning("this run was started with %s %s and goes on with %s: results may differ in the last bits",
                        field, before[field], run[field])
    write_json(workdir / "run.json", run)
    write_json(workdir / "config.json", config)
