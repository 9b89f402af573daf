"""The directory of a run: who may write it, what the run was started with, and whether it is the same run again."""
import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import jax

from modern_cnn import runtime, settings, zoo
from modern_cnn.data.spec import Spec
from modern_cnn.errors import UserError, parse_json, sealed

log = logging.getLogger(__name__)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a dict as a JSON file with a digest, all of it or nothing: a kill leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(sealed(value), indent=1) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raise UserError if it is missing or is not JSON."""
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a run's workdir: it has no {path.name}") from None
    except (OSError, ValueError) as e:
        raise UserError(f"cannot read {path}: {e}") from e


@contextlib.contextmanager
def disk_errors(workdir: Path) -> Iterator[None]:
    """Turn the errors of a full or broken disk into UserErrors."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write {e.filename or workdir}: {e.strerror or e}; mend that (free some space?) and "
                        "run the same command again") from e


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Make the directory and hold it for this process. Raise UserError if it cannot be written, or another holds it."""
    if zoo.named(workdir):
        raise UserError(f"{workdir} is a stored network, which nothing writes: choose another --workdir, and "
                        "--config.finetune.workdir to start from its weights")
    if os.fsencode(workdir.absolute()) != str(workdir.absolute()).encode("utf-8", "replace"):
        raise UserError(f"checkpoints need a workdir whose name is UTF-8, and {workdir} is not, or this locale is "
                        "another: set LC_ALL=C.UTF-8, or choose another --workdir")
    path, new = workdir / ".lock", not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        empty = not any(workdir.iterdir())
        file = open(path, "a+")  # noqa: SIM115 - the with below
    except OSError as e:
        raise UserError(f"cannot write the workdir {workdir}: {e.strerror or e}") from e
    with file:
        try:
            runtime.hold(file)
        except OSError as e:
            if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise UserError(f"another process (pid {holder}) is training in {workdir}; "
                                "wait for it, stop it, or choose another --workdir") from None
            log.warning("the file system of %s has no locks (%s): see to it that no other process trains there",
                        workdir, e.strerror)
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            if empty and [*workdir.iterdir()] == [path]:  # a run that was refused before it began leaves nothing
                with contextlib.suppress(PermissionError):  # Windows removes no open file
                    path.unlink()
                    if new:
                        workdir.rmdir()


def _commit() -> str:
    """Return the commit of the checkout, with '-dirty' where files differ from it; 'unknown' outside a checkout.

    A copy without .git is told it by $MODERN_CNN_COMMIT.
    """
    if told := os.environ.get("MODERN_CNN_COMMIT"):
        return told
    try:
        result = subprocess.run(["git", "--git-dir=.git", "describe", "--always", "--dirty", "--abbrev=12"],
                                cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return "unknown"
    return result.stdout.strip() or "unknown"


def _processor() -> str:
    """Return the cores that this process may use, and of which processor: '2 cores of AMD EPYC family 26, AVX-512'."""
    cores, info = runtime.cores(), runtime.cpu_info()
    name = info.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in info and not re.search(r"\d", name):  # virtual machines hide the model
        name += f" family {info['cpu family']}"
    return f"{cores} core{'s' * (cores > 1)} of {', '.join(filter(None, [name, runtime.cpu_vectors()]))}"


def describe_machine() -> dict[str, Any]:
    """Return what a measurement depends on: versions, commit, platform and devices."""
    return {
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "commit": _commit(),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def read_run(workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (config.json, run.json). Raise UserError if they are missing or lack what they should hold."""
    if name := zoo.named(workdir):
        files, card = [zoo.card_path(name)] * 2, zoo.card(name)
        config, run = card["config"], card["run"]
    else:
        files = [workdir / "config.json", workdir / "run.json"]
        config, run = map(read_json, files)
    _check(files[0], config, dict.fromkeys(("model", "data", "schedule"), dict[str, object]))
    _check(files[1], run, dict.fromkeys(("versions", "data"), dict[str, object]))
    _check(files[1], run["data"], {field.name: field.type for field in dataclasses.fields(Spec)}, "data.")
    flat = settings.flatten(config)  # earlier versions lack some fields
    _check(files[0], flat, {name: field.type for name, field in settings.FIELDS.items() if name in flat
                            and (flat[name] is not None or field.default is not None)})
    return config, run


def _check(path: Path, content: Any, kinds: dict[str, Any], prefix: str = "") -> None:
    """Raise UserError if the content of a file lacks one of `kinds`, or holds something of another type there."""
    wrong = [prefix + name for name, kind in kinds.items()
             if not isinstance(content, dict) or not _fits(content.get(name), kind)]
    if wrong:
        raise UserError(f"{path} lacks {', '.join(wrong)}, or is wrong there: it was edited, or no run wrote it")


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value from JSON is of a type: a plain one, or tuples and dicts of values of one type."""
    outer, inner = get_origin(kind) or kind, get_args(kind) or (float, ...)
    if outer is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if outer is tuple:
        return (isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
                and (inner[-1] is ... or len(value) == len(inner)))
    return isinstance(value, (int, float) if outer is float else outer)


def differences(before: dict[str, Any], config: dict[str, Any],
                same_images: bool = False) -> tuple[list[tuple[str, Any, Any]], list[str]]:
    """Compare the config of a resumed run with that of before; a field that an earlier version lacks has its default.

    With `same_images` the source may be another. Return each difference, (field, old, new), and in words those refused.
    """
    # As they are read back from JSON: tuples are lists.
    old, new = (settings.flatten(json.loads(json.dumps(settings.from_json(tree).to_dict())))
                for tree in (before, config))
    allowed = {settings.ALWAYS, settings.LENGTH} | ({settings.PLACE} if same_images else set())
    if config["schedule"]["name"] not in settings.SPANNING:
        allowed.add(settings.EPOCHS)
    changed = [(name, old.get(name), new.get(name)) for name in sorted(old | new) if old.get(name) != new.get(name)]
    refused = [f"config.{name} was {a!r}, is {b!r}" for name, a, b in changed
               if name not in settings.FIELDS or settings.FIELDS[name].resume not in allowed]
    return changed, refused


def write_run(workdir: Path, config: dict[str, Any], run: dict[str, Any], *, resuming: bool) -> None:
    """Write config.json and run.json. Raise UserError if a resumed run is another run, with every difference named."""
    config, run = json.loads(json.dumps([config, run]))  # as they will be read back
    if resuming:
        if not (workdir / "config.json").exists():
            raise UserError(f"{workdir} has checkpoints but no config.json: not a run that can be resumed")
        config_before, before = read_run(workdir)
        was, now = before["data"], run["data"]
        data = [f"the data set's {field} was {was[field]}, is {now[field]}"
                for field in ("digest", "image_shape", "num_classes", "sizes") if was[field] != now[field]]
        changed, refused = differences(config_before, config, same_images=not data)
        if refused + data:
            raise UserError(f"{workdir} holds a different run: {'; '.join(refused + data)}. Choose another --workdir, "
                            "or repeat the command it was started with")
        by_device = ["parallel.compile", *["parallel.count"] * (config["parallel"]["batch_norm"] == "device")]
        for name, a, b in changed:
            log.info("resuming with config.%s=%r (was %r)", name, b, a)
            if name in by_device and max(before.get("device_count", 1), run["device_count"]) > 1:
                log.warning("with another config.%s devices draw other dropout, or normalise other parts of a batch: "
                            "results may differ", name)
        for field in ("versions", "commit", "platform", "device", "device_count", "process_count", "machine"):
            if before.get(field) != run[field]:
                log.warning("this run was started with %s %s and goes on with %s: results may differ", field,
                            before.get(field), run[field])
        if "finetuned_from" in before:
            run["finetuned_from"] = before["finetuned_from"]
    write_json(workdir / "run.json", run)
    write_json(workdir / "config.json", config)
