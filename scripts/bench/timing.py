"""The clock of the benchmarks, and the table and the file that their measurements are written to.

Programs take turns, so that a machine that slows down slows all of them. Whole commands run in processes of their own,
up to a run's first step or to its end: `arguments` are --config=... and its overrides, `out` is a JSON file, or ''.
"""
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from modern_cnn import runtime
from modern_cnn.cli import text_table
from modern_cnn.errors import UserError
from modern_cnn.runs import log, workdir

SCRIPTS = Path(__file__).resolve().parents[1]
TURN_SECONDS = 1.0  # long enough that the first runs after another program, which are slower, weigh little
PAUSE_SECONDS = 0.05  # before each turn: the threads of the program before still wait for work for a while
ROW = "{:<16} {:<16} {:<13} {:>28} {:>9} {:>11} {:>22}"  # of fixed widths, as rows are printed one by one
SAID_SECONDS = 5.0
Records = list[dict[str, Any]]
T = TypeVar("T")


class Case(NamedTuple):
    """A network, and the batches that it is timed on."""
    model: str
    batch_size: int
    image_shape: tuple[int, int, int]
    dtype: str


class Runner(NamedTuple):
    """A program to time."""
    run: Callable[[], Any]  # does the work once, to its end; training returns its loss
    ready_s: float = 0.0  # seconds that loading and compiling took
    compiled: Any = None  # XLA's program, where the step is ours
    memory: int | None = None  # bytes that a run needs at its fullest, where that is known
    turn: Callable[[int], float] | None = None  # times so many runs in another process, instead of `clock`


def clock(run: Callable[[], Any], count: int) -> float:
    """Return the milliseconds of a run, as the mean of `count` runs."""
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) * 1e3 / count


def along(items: Iterable[T], doing: str) -> Iterator[T]:
    """Yield items, and say on stderr which one it is, at the first and then every SAID_SECONDS."""
    items, said = list(items), float("-inf")
    for number, item in enumerate(items, start=1):
        if time.perf_counter() - said >= SAID_SECONDS:
            said = time.perf_counter()
            print(f"{doing}: {number} of {len(items)}", file=sys.stderr, flush=True)
        yield item


def compare(phase: str, case: Case, runners: Mapping[str, Runner], rounds: int, warmup: int, images: int) -> Records:
    """Time programs in turn and return a record of each; one of them is called 'ours'.

    A turn takes TURN_SECONDS, and at least one run of `images` images. `warmup` rounds come before the `rounds` that
    are measured. 'images_per_second' is by the median; 'ours_is_faster' the median over rounds of a program's time by
    ours, 'ours_is_faster_range' the least and the greatest.
    """
    times: dict[str, list[float]] = {who: [] for who in runners}  # milliseconds of one run in each turn
    for turn in along(range(rounds + warmup), f"{case.model}, rounds"):
        for who, runner in runners.items():
            count = max(1, round(TURN_SECONDS * 1e3 / times[who][-1])) if turn else 1
            time.sleep(PAUSE_SECONDS)
            times[who].append(runner.turn(count) if runner.turn else clock(runner.run, count))
    records = []
    for who, every in times.items():
        taken = every[warmup:]
        ratios = [other / own for other, own in zip(taken, times["ours"][warmup:], strict=True)]
        median = statistics.median(taken)
        records.append({"phase": phase, **case._asdict(), "who": who, "median_ms": median, "min_ms": min(taken),
                        "max_ms": max(taken), "ours_is_faster": statistics.median(ratios),
                        "ours_is_faster_range": [min(ratios), max(ratios)], "rounds": rounds,
                        "images_per_second": images / median * 1e3, "ready_s": runners[who].ready_s})
    return records


def allocator(who: str = "all programs") -> str:
    """Return the allocator of memory: the environment's, or the system's and who keeps memory (`keep_memory`)."""
    return runtime.allocator() or "the system's" + f"; {who} keep their memory" * runtime.keep_memory()


def report(unit: str, dtype: str, rounds: int, out: str, measure: Callable[[Any], Records],
           cases: Iterable[Any], keeping: str = "all programs") -> None:
    """Print the records that `measure(case)` returns of each case, and write them to `out`, as soon as it has them.

    `keeping` says which programs keep their memory.

    Raise UserError if `out` cannot be written; where its folder is missing, before anything is measured.
    """
    if out and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {Path(out).parent}")
    at = workdir.describe_machine()
    print(f"{at['machine']}, {at['device']}; {dtype}; {rounds} rounds of each; ms, ratio: median (least to greatest); "
          f"allocator: {allocator(keeping)}")
    print(ROW.format("network", "batch, image", "who", unit, "images/s", "ready after", "ours is"), flush=True)
    records = []
    for case in cases:
        for record in (found := measure(case)):
            shape = "x".join(map(str, record["image_shape"]))
            cells = ("{model}", "{batch_size}, " + shape, "{who}", "{median_ms:,.1f} ({min_ms:,.1f} to {max_ms:,.1f})",
                     "{images_per_second:,.0f}", "{ready_s:.1f} s",
                     "{ours_is_faster:.2f}x ({ours_is_faster_range[0]:.2f} to {ours_is_faster_range[1]:.2f})")
            print(ROW.format(*(cell.format(**record) for cell in cells)), flush=True)
        records += found
        write_measurements(out, allocator=allocator(keeping), results=records)


def write_measurements(out: str, **measurements: Any) -> None:
    """Write machine, versions, allocator and the measurements to the JSON file `out`, if any; or raise UserError."""
    if out:
        machine = workdir.describe_machine()
        peers = (record.get("who", "") for record in measurements.get("results", []))
        if "torch" in sys.modules or any(who.startswith("torch") for who in peers):  # in another process
            machine["versions"]["torch"] = importlib.metadata.version("torch")
        with workdir.disk_errors(Path(out)):
            workdir.write_json(Path(out), machine | {"allocator": allocator()} | measurements)


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
    for _ in along(range(rounds), "rounds"):
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
    for seed in along(range(seeds), "seeds"):
        with tempfile.TemporaryDirectory() as place:
            seconds = _time(place, "train.py", *arguments, f"--config.seed={seed}", f"--workdir={place}/run")
            metrics = log.read_metrics(Path(place) / "run" / "metrics.jsonl")
        test = [record for record in metrics if record["split"] == "test"][-1]
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
        print(f"{trials + 3} commands: one that fills the caches, two sweeps, {trials} runs", flush=True)
        train(f"--workdir={place}/warm")
        seconds = {
            "together": sweep(f"--workdir={place}/together"),
            "one after the other": sweep("--notogether", f"--workdir={place}/one"),
            "train.py": sum(train(f"--config.seed={seed}", f"--workdir={place}/{seed}")
                            for seed in along(range(trials), "runs"))}
    rows = [[way, f"{taken:.1f} s", f"{taken / seconds['together']:.2f} times as long as together"]
            for way, taken in seconds.items()]
    print("\n".join(text_table(rows, "lrl")))
    write_measurements(out, trials=trials, seconds=seconds)
