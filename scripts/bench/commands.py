"""Whole commands against the clock, each a process of its own: to a run's first step, or to its end."""
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from modern_cnn.errors import UserError
from modern_cnn.runs import workdir

log = logging.getLogger(__name__)

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def _process(place: str, script: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of a script of scripts/ that has its caches in the directory `place`."""
    return [sys.executable, str(SCRIPTS / script), *arguments], os.environ | {"MODERN_CNN_CACHE": f"{place}/cache"}


def _failed(command: Sequence[str], stderr: str) -> UserError:
    """What is said of a command that failed: the last line of its stderr."""
    return UserError(f"{' '.join(command)} failed: {(stderr.strip() or '?').splitlines()[-1]}")


def _timed(place: str, script: str, *arguments: str) -> float:
    """Seconds from a script's command to its end, with its caches in the directory `place`.

    Raises:
      UserError: it fails.
    """
    command, environment = _process(place, script, arguments)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise _failed(command, done.stderr)
    return seconds


def _first_step(place: str, directory: Path, arguments: Sequence[str]) -> float:
    """Seconds until a run in the workdir `directory` has recorded a step; it is stopped then.

    Raises:
      UserError: it ends before.
    """
    command, environment = _process(place, "train.py", [*arguments, f"--workdir={directory}",
                                                        "--config.log_every_steps=1"])
    metrics, stderr = directory / "metrics.jsonl", Path(place) / "stderr"
    start = time.perf_counter()
    with stderr.open("w+") as errors:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        while not (metrics.exists() and metrics.stat().st_size):
            if run.poll() is not None:
                raise _failed(command, stderr.read_text())
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        run.terminate()
        run.wait()
    return seconds


def _write(out: str, results: dict) -> None:
    """JSON of the machine and the results to the file `out`, or nothing if that is ''."""
    if out:
        with workdir.disk_errors(Path(out)):
            workdir.write_json(Path(out), {**workdir.describe_machine(), **results})


def report_startup(arguments: Sequence[str], rounds: int, out: str) -> None:
    """From the command of a run to the record of its first step, with empty caches and then with what that one left.

    Args:
      arguments: --config=... and its overrides.
      rounds: how often both.
      out: file for a JSON of it all, or ''.
    Raises:
      UserError: a run ends before its first step; its last line is told.
    """
    seconds: dict[str, list[float]] = {"empty": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            for caches, taken in seconds.items():
                taken.append(_first_step(place, Path(place) / caches, arguments))
    for caches, taken in seconds.items():
        log.info("first step %.1f s after the command with %s caches (%.1f to %.1f, median of %d)",
                 statistics.median(taken), caches, min(taken), max(taken), rounds)
    _write(out, {"first_step_s": seconds})


def report_runs(arguments: Sequence[str], seeds: int, out: str) -> None:
    """Whole runs of scripts/train.py, each a process of its own with empty caches: test accuracy and wall time.

    Args:
      arguments: --config=... and its overrides.
      seeds: --config.seed from 0 up to this.
      out: file for a JSON of it all, or ''.
    Raises:
      UserError: a run fails; its last line is told.
    """
    records = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            seconds = _timed(place, "train.py", *arguments, f"--config.seed={seed}", f"--workdir={place}/run")
            lines = (Path(place) / "run" / "metrics.jsonl").read_text().splitlines()
            test = [record for record in map(json.loads, lines) if record["split"] == "test"][-1]
        records.append({"seed": seed, "seconds": seconds, "test_accuracy": test["accuracy"], "step": test["step"]})
        log.info("seed %d  test accuracy %.2f %%  %.1f s", seed, 100 * test["accuracy"], seconds)
    accuracy, seconds = ([record[name] for record in records] for name in ("test_accuracy", "seconds"))
    machine = workdir.describe_machine()
    log.info("%d seeds: test accuracy %.2f %% as mean (%.2f to %.2f), %.1f s as median (%.1f to %.1f), cold start and "
             "compilation included; %s, %s", seeds, 100 * statistics.mean(accuracy), 100 * min(accuracy),
             100 * max(accuracy), statistics.median(seconds), min(seconds), max(seconds), machine["machine"],
             machine["device"])
    _write(out, {"results": records})


def report_trials(arguments: Sequence[str], trials: int, out: str) -> None:
    """So many seeds of a config by scripts/sweep.py together, the same one after the other, and as runs of train.py.

    All are whole processes, in this order, after one run that fills the caches for all.

    Args:
      arguments: --config=... and its overrides.
      trials: how many seeds, from 0.
      out: file for a JSON of it all, or ''.
    Raises:
      UserError: a run fails; its last line is told.
    """
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        train = partial(_timed, place, "train.py", *arguments)
        sweep = partial(_timed, place, "sweep.py", *arguments, f"--sweep=seed=0:{trials}")
        train(f"--workdir={place}/warm")
        seconds["together"] = sweep(f"--workdir={place}/together")
        seconds["one after the other"] = sweep("--notogether", f"--workdir={place}/one")
        seconds["train.py"] = sum(train(f"--config.seed={seed}", f"--workdir={place}/{seed}") for seed in range(trials))
    for way, taken in seconds.items():
        log.info("%-20s %8.1f s, %.2f times as long as together", way, taken, taken / seconds["together"])
    _write(out, {"trials": trials, "seconds": seconds})
