"""The clock of the benchmarks, and the table and the file that their measurements are written to.

Programs take turns, so that a machine that slows down slows all of them.
"""
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modern_cnn.errors import UserError
from modern_cnn.runs import workdir

TURN_SECONDS = 1.0  # long enough that the first runs after another program, which are slower, weigh little
PAUSE_SECONDS = 0.05  # before each turn: the threads of the program before still wait for work for a while
ROW = "{:<16} {:<16} {:<20} {:>32} {:>10} {:>12} {:>8}"  # of fixed widths, as rows are printed one by one
Records = list[dict[str, Any]]


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


def compare(phase: str, case: Case, runners: Mapping[str, Runner], rounds: int, warmup: int, images: int) -> Records:
    """Time programs in turns and return a record of each; one of them is called 'ours'.

    A turn takes TURN_SECONDS, and at least one run of `images` images. `warmup` turns come before the `rounds` that are
    measured. 'images_per_second' is by the median; 'ours_is_faster' is the time of a program divided by the time of
    ours, as the median over turns.
    """
    times: dict[str, list[float]] = {who: [] for who in runners}  # milliseconds of one run in each turn
    for turn in range(rounds + warmup):
        for who, runner in runners.items():
            count = max(1, round(TURN_SECONDS * 1e3 / times[who][-1])) if turn else 1
            time.sleep(PAUSE_SECONDS)
            start = time.perf_counter()
            for _ in range(count):
                runner.run()
            times[who].append((time.perf_counter() - start) * 1e3 / count)
    records = []
    for who, every in times.items():
        taken = every[warmup:]
        ratio = statistics.median(other / own for other, own in zip(taken, times["ours"][warmup:], strict=True))
        median = statistics.median(taken)
        records.append({"phase": phase, **case._asdict(), "who": who, "median_ms": median, "min_ms": min(taken),
                        "max_ms": max(taken), "ours_is_faster": ratio, "rounds": rounds,
                        "images_per_second": images / median * 1e3, "ready_s": runners[who].ready_s})
    return records


def report(unit: str, dtype: str, rounds: int, out: str, measure: Callable[[Any], Records],
           cases: Iterable[Any]) -> None:
    """Print the records that `measure(case)` returns of each case, and write them to `out`, as soon as it has them.

    Raise UserError if `out` cannot be written; where its folder is missing, before anything is measured.
    """
    if out and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {Path(out).parent}")
    at = workdir.describe_machine()
    print(f"{at['machine']}, {at['device']}; {dtype}; {rounds} turns of each; ms: median (fastest to slowest)")
    print(ROW.format("network", "batch, image", "who", unit, "images/s", "ready after", "ours is"), flush=True)
    records = []
    for case in cases:
        for record in (found := measure(case)):
            shape = "x".join(map(str, record["image_shape"]))
            cells = ("{model}", "{batch_size}, " + shape, "{who}", "{median_ms:,.1f} ({min_ms:,.1f} to {max_ms:,.1f})",
                     "{images_per_second:,.0f}", "{ready_s:.1f} s", "{ours_is_faster:.2f}x")
            print(ROW.format(*(cell.format(**record) for cell in cells)), flush=True)
        records += found
        write_measurements(out, results=records)


def write_measurements(out: str, **measurements: Any) -> None:
    """Write machine, versions, commit and the measurements to the JSON file `out`, if any; UserError if that fails."""
    if out:
        machine = workdir.describe_machine()
        if "torch" in sys.modules:
            machine["versions"]["torch"] = importlib.metadata.version("torch")
        with workdir.disk_errors(Path(out)):
            workdir.write_json(Path(out), machine | measurements)
