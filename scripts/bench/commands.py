"""Whole commands against the clock, each in a process of its own: up to a run's first step, or to its end.

`arguments` are --config=... and its overrides; `out` is a file for a JSON of the measurements, or ''.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from modern_cnn.cli import text_table
from modern_cnn.errors import UserError
from modern_cnn.runs import workdir
from scripts.bench.timing import write_measurements

SCRIPTS = Path(__file__).resolve().parents[1]


def _command(place: str, script: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command of a script, and an environment whose caches are in the directory `place`."""
    return [sys.executable, str(SCRIPTS / script), *arguments], os.environ | {"MODERN_CNN_CACHE": f"{place}/cache"}


def _failure(command: Sequence[str], stderr: str) -> UserError:
    """Return the error for a command that failed: the last line that it wrote to stderr says why."""
    return UserError(f"{' '.join(command)} failed: {(stderr.strip() or '?').splitlines()[-1]}")


def _time_to_end(place: str, script: str, *arguments: str) -> float:
    """Return the seconds that a script takes, start-up included, with its caches in the directory `place`.

    Raises:
      UserError: the script fails.
    """
    command, environment = _command(place, script, arguments)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise _failure(command, done.stderr)
    return seconds


def _time_to_first_step(place: str, directory: Path, arguments: Sequence[str]) -> float:
    """Return the seconds until a run in the workdir `directory` has recorded a step; the run is then stopped.

    Raises:
      UserError: the run ends before its first step.
    """
    command, environment = _command(place, "train.py", [*arguments, f"--workdir={directory}",
                                                        "--config.log_every_steps=1"])
    metrics, stderr = directory / "metrics.jsonl", Path(place) / "stderr"
    start = time.perf_counter()
    with stderr.open("w+") as errors:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        while not (metrics.exists() and metrics.stat().st_size):
            if run.poll() is not None:
                raise _failure(command, stderr.read_text())
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        run.terminate()
        run.wait()
    return seconds


def report_startup(arguments: Sequence[str], rounds: int, out: str) -> None:
    """Print the time from the command of a run to its first step, with empty caches and with those it then left.

    Both are measured `rounds` times.

    Raises:
      UserError: a run ends before its first step.
    """
    seconds: dict[str, list[float]] = {"empty": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            for caches, taken in seconds.items():
                taken.append(_time_to_first_step(place, Path(place) / caches, arguments))
    for caches, taken in seconds.items():
        print(f"first step {statistics.median(taken):.1f} s after the command with {caches} caches "
              f"({min(taken):.1f} to {max(taken):.1f}, median of {rounds})")
    write_measurements(out, first_step_s=seconds)


def report_runs(arguments: Sequence[str], seeds: int, out: str) -> None:
    """Print the test accuracy and the wall time of a run of scripts/train.py with each seed from 0, with empty caches.

    Raises:
      UserError: a run fails.
    """
    records = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            seconds = _time_to_end(place, "train.py", *arguments, f"--config.seed={seed}", f"--workdir={place}/run")
            lines = (Path(place) / "run" / "metrics.jsonl").read_text().splitlines()
            test = [record for record in map(json.loads, lines) if record["split"] == "test"][-1]
        records.append({"seed": seed, "seconds": seconds, "test_accuracy": test["accuracy"], "step": test["step"]})
        print(f"seed {seed}  test accuracy {100 * test['accuracy']:.2f} %  {seconds:.1f} s", flush=True)
    accuracy = [100 * record["test_accuracy"] for record in records]
    seconds = [record["seconds"] for record in records]
    machine = workdir.describe_machine()
    print(f"{seeds} seeds: test accuracy {statistics.mean(accuracy):.2f} % as mean ({min(accuracy):.2f} to "
          f"{max(accuracy):.2f}), {statistics.median(seconds):.1f} s as median ({min(seconds):.1f} to "
          f"{max(seconds):.1f}), start-up and compilation included; {machine['machine']}, {machine['device']}")
    write_measurements(out, results=records)


def report_trials(arguments: Sequence[str], trials: int, out: str) -> None:
    """Print the wall time of several seeds: in one sweep together, in one sweep one by one, and as runs of train.py.

    Each is a whole process, in this order, after one run that fills the caches for all.

    Raises:
      UserError: a run fails.
    """
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        train = partial(_time_to_end, place, "train.py", *arguments)
        sweep = partial(_time_to_end, place, "sweep.py", *arguments, f"--sweep=seed=0:{trials}")
        train(f"--workdir={place}/warm")
        seconds["together"] = sweep(f"--workdir={place}/together")
        seconds["one after the other"] = sweep("--notogether", f"--workdir={place}/one")
        seconds["train.py"] = sum(train(f"--config.seed={seed}", f"--workdir={place}/{seed}") for seed in range(trials))
    rows = [[way, f"{taken:.1f} s", f"{taken / seconds['together']:.2f} times as long as together"]
            for way, taken in seconds.items()]
    print("\n".join(text_table(rows, "lrl")))
    write_measurements(out, trials=trials, seconds=seconds)
