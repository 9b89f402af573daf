"""The clock of the benchmarks, and the file that their measurements are written to.

Programs take turns, so that a machine that slows down slows all of them.
"""
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modern_cnn.runs import workdir

TURN_SECONDS = 1.0  # long enough that the first runs after another program, which are slower, weigh little
PAUSE_SECONDS = 0.05  # before each turn: the threads of the program before still wait for work for a while


class Runner(NamedTuple):
    """A program to time."""
    run: Callable[[], Any]  # does the work once, to its end; training returns its loss
    ready_s: float = 0.0  # seconds that loading and compiling took


def time_in_turns(runners: Mapping[str, Runner], rounds: int, warmup: int) -> dict[str, list[float]]:
    """Return the milliseconds of one run in each turn, for each program by its name.

    A turn takes TURN_SECONDS, and at least one run. `warmup` turns come before the `rounds` that are measured.
    """
    times: dict[str, list[float]] = {who: [] for who in runners}
    for turn in range(rounds + warmup):
        for who, runner in runners.items():
            count = max(1, round(TURN_SECONDS * 1e3 / times[who][-1])) if turn else 1
            time.sleep(PAUSE_SECONDS)
            start = time.perf_counter()
            for _ in range(count):
                runner.run()
            times[who].append((time.perf_counter() - start) * 1e3 / count)
    return {who: taken[warmup:] for who, taken in times.items()}


def compare(runners: Mapping[str, Runner], rounds: int, warmup: int, images: int,
            **fields: Any) -> list[dict[str, Any]]:
    """Time programs in turns and return a record of each.

    Args:
      runners, rounds, warmup: see `time_in_turns`; one of the programs is called 'ours'.
      images: number of images that one run reads.
      **fields: what else each record holds.
    Returns:
      Records with 'who', the median, minimum and maximum in milliseconds, 'images_per_second' by the median, 'ready_s',
      'rounds' and 'ours_is_faster': the time of this program divided by the time of ours, as the median over turns.
    """
    times = time_in_turns(runners, rounds, warmup)
    records = []
    for who, taken in times.items():
        median = statistics.median(taken)
        ratio = statistics.median(other / own for other, own in zip(taken, times["ours"], strict=True))
        records.append({**fields, "who": who, "median_ms": median, "min_ms": min(taken), "max_ms": max(taken),
                        "ours_is_faster": ratio, "rounds": len(taken), "images_per_second": images / median * 1e3,
                        "ready_s": runners[who].ready_s})
    return records


def write_measurements(out: str, **measurements: Any) -> None:
    """Write the measurements, with machine, versions and commit, to the JSON file `out`; '' writes nothing.

    Raises:
      UserError: the file cannot be written.
    """
    if out:
        machine = workdir.describe_machine()
        if "torch" in sys.modules:
            machine["versions"]["torch"] = importlib.metadata.version("torch")
        with workdir.disk_errors(Path(out)):
            workdir.write_json(Path(out), machine | measurements)
