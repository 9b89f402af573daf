"""Whole commands against the clock, each in a process of its own: up to a run's first step, or to its end.

`arguments` are --config=... and its overrides; `out` is a file for a JSON of the measurements, or ''. All raise
UserError if a command fails: the last line that it wrote to stderr says why.
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


def _time(place: str, script: str, *arguments: str, until: Path | None = None) -> float:
    """Return the seconds until a script ends, or is stopped as the file `until` has content; caches are in `place`."""
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors,
                               env=os.environ | {"MODERN_CNN_CACHE": f"{place}/cache"})
        while not (reached := until and until.exists() and until.stat().st_size) and run.poll() is None:
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        run.terminate()
        if run.wait() and not reached:
            errors.seek(0)
            raise UserError(f"{' '.join(command)} failed: {(errors.read().strip() or '?').splitlines()[-1]}")
    return seconds


def report_startup(arguments: Sequence[str], rounds: int, out: str) -> None:
    """Print the median time from the command of a run to its first step, with empty caches and with those it left."""
    seconds: dict[str, list[float]] = {"empty": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            for caches, taken in seconds.items():
                taken.append(_time(place, "train.py", *arguments, f"--workdir={place}/{caches}",
                                   "--config.log_every_steps=1", until=Path(place) / caches / "metrics.jsonl"))
    for caches, taken in seconds.items():
        print(f"first step {statistics.median(taken):.1f} s after the command with {caches} caches "
              f"({min(taken):.1f} to {max(taken):.1f}, median of {rounds})")
    write_measurements(out, first_step_s=seconds)


def report_runs(arguments: Sequence[str], seeds: int, out: str) -> None:
    """Print test accuracy and wall time of a run of scripts/train.py with each seed from 0, with empty caches."""
    records = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            seconds = _time(place, "train.py", *arguments, f"--config.seed={seed}", f"--workdir={place}/run")
            lines = (Path(place) / "run" / "metrics.jsonl").read_text().splitlines()
            test = [record for record in map(json.loads, lines) if record["split"] == "test"][-1]
        records.append({"seed": seed, "seconds": seconds, "test_accuracy": test["accuracy"], "step": test["step"]})
        print(f"seed {seed}  test accuracy {100 * test['accuracy']:.2f} %  {seconds:.1f} s", flush=True)
    accuracy, seconds = [100 * each["test_accuracy"] for each in records], [each["seconds"] for each in records]
    machine = workdir.describe_machine()
    print(f"{seeds} seeds: test accuracy {statistics.mean(accuracy):.2f} % as mean ({min(accuracy):.2f} to "
          f"{max(accuracy):.2f}), {statistics.median(seconds):.1f} s as median ({min(seconds):.1f} to "
          f"{max(seconds):.1f}), start-up and compilation included; {machine['machine']}, {machine['device']}")
    write_measurements(out, results=records)


def report_trials(arguments: Sequence[str], trials: int, out: str) -> None:
    """Print the wall time of several seeds: in one sweep together, in one sweep one by one, and as runs of train.py.

    Each is a whole process, in this order, after one run that fills the caches for all.
    """
    with tempfile.TemporaryDirectory() as place:
        train = partial(_time, place, "train.py", *arguments)
        sweep = partial(_time, place, "sweep.py", *arguments, f"--sweep=seed=0:{trials}")
        train(f"--workdir={place}/warm")
        seconds = {
            "together": sweep(f"--workdir={place}/together"),
            "one after the other": sweep("--notogether", f"--workdir={place}/one"),
            "train.py": sum(train(f"--config.seed={seed}", f"--workdir={place}/{seed}") for seed in range(trials))}
    rows = [[way, f"{taken:.1f} s", f"{taken / seconds['together']:.2f} times as long as together"]
            for way, taken in seconds.items()]
    print("\n".join(text_table(rows, "lrl")))
    write_measurements(out, trials=trials, seconds=seconds)
