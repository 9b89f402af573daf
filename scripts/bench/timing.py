"""The clock: runners take turns, so that a machine that slows down slows them all."""
import statistics
import time
from collections.abc import Callable

TURN_SECONDS = 1.0  # the first steps after another program are slower
PAUSE_SECONDS = 0.05  # before each turn: the threads of the one before still spin for a while, waiting for work
Step = Callable[[], float]  # does once, to its end, what is timed; of training it returns the loss


def in_turn(runners: dict[str, Step], rounds: int, unmeasured: int) -> dict[str, list[float]]:
    """{who: milliseconds of one run in each turn}, without the first `unmeasured` turns."""
    times: dict[str, list[float]] = {who: [] for who in runners}
    for turn in range(rounds + unmeasured):
        for who, run in runners.items():
            count = max(1, round(TURN_SECONDS * 1e3 / times[who][-1])) if turn else 1
            time.sleep(PAUSE_SECONDS)
            start = time.perf_counter()
            for _ in range(count):
                run()
            times[who].append((time.perf_counter() - start) * 1e3 / count)
    return {who: taken[unmeasured:] for who, taken in times.items()}


def summarize(times: dict[str, list[float]]) -> list[dict]:
    """Of each: median, minimum and maximum, and how many times as fast as this one ours is (the median over turns)."""
    return [{"who": who, "median_ms": statistics.median(taken), "min_ms": min(taken), "max_ms": max(taken),
             "ours_is_faster": statistics.median(other / own for other, own in zip(taken, times["ours"], strict=True)),
             "rounds": len(taken)} for who, taken in times.items()]
