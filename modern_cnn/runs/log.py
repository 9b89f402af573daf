"""What a run writes while it trains: metrics.jsonl, TensorBoard files, curves, and its progress on the console."""
import contextlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from modern_cnn.errors import parse_json, sealed
from modern_cnn.runs.loggers import Loggers, tags
from modern_cnn.settings import Settings
from modern_cnn.training.program import Plan

log = logging.getLogger(__name__)

# Steps that may wait on the device: enough to keep it busy, few enough to stop within seconds. A CPU runs the steps of
# LeNet a tenth slower if more than one is under way.
IN_FLIGHT = {"cpu": 0, "gpu": 8, "tpu": 8}
NORM_PERCENTILES = (15, 50, 85)  # as in Ioffe and Szegedy 2015, figure 1
WIDE = 3  # losses that differ by a larger factor are drawn on a logarithmic scale
TRIALS_SECONDS = 10.0  # between two progress lines of trials that train together
SILENT_SECONDS = 60.0  # without a bar, a line says how far the training is after so long without a record


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl; bad lines are left out, with a warning unless a kill cut off the last."""
    return _read_records(path, {"step": int, "epoch": float, "split": str, "loss": float, "accuracy": float})


def read_norms(workdir: Path) -> list[dict[str, Any]]:
    """Return the records of norms.jsonl; none where config.log_norms was off."""
    return _read_records(workdir / "norms.jsonl", {"step": int, "epoch": float, "mean": dict, "deviation": dict},
                         {"gradient": dict})


def _read_records(path: Path, fields: dict[str, type], more: dict[str, type] | None = None) -> list[dict[str, Any]]:
    """Return the lines that hold `fields`, of these types, and perhaps `more` and numbers beside them."""
    types = fields | (more or {})
    records, lines = [], path.read_bytes().splitlines(keepends=True) if path.exists() else []
    seal = b'"crc": ' if any(b'"crc": ' in line for line in lines) else b""  # earlier versions wrote none
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            kinds = {name: types.get(name, float) for name in record}
            if not fields.keys() <= kinds.keys() or seal not in line or not all(
                    isinstance(record[name], (int, float) if kind is float else kind) for name, kind in kinds.items()):
                raise ValueError
            records.append(record)
        except (ValueError, TypeError):
            if number < len(lines) or line.endswith(b"\n"):
                log.warning("line %d of %s is not a record; it is left out", number, path)
    return records


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Let what is imported here find that packages are not installed, unless they are imported already."""
    absent = [package for package in packages  # None is Python's own mark of absence
              if sys.modules.setdefault(package, None) is None]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in absent:
            del sys.modules[package]


class Log:
    """The files of a run's metrics, and the loggers of its settings.

    Opening them drops records beyond `step`: a resumed run writes them again.
    """

    def __init__(self, workdir: Path, step: int, settings: Settings | None = None):
        # Written in this thread: the thread of SummaryWriter dies on a full disk, and whoever waits for it hangs.
        # They take up to seconds to import: for arrays of its own, and for buckets, where this writes no file.
        with _without("torch", "boto3", "google.cloud.storage"):
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        self._metrics, self._norms = workdir / "metrics.jsonl", workdir / "norms.jsonl"
        for path, records in ((self._metrics, read_metrics(self._metrics)), (self._norms, read_norms(workdir))):
            if records or path == self._metrics:
                temporary = path.with_suffix(".tmp")
                kept = [json.dumps(sealed(record)) + "\n" for record in records if record["step"] <= step]
                temporary.write_text("".join(kept))
                os.replace(temporary, path)
        self._loggers = Loggers(workdir, settings or Settings(), read_metrics(self._metrics))
        (workdir / "tensorboard").mkdir(exist_ok=True)
        again = any((workdir / "tensorboard").iterdir())
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"), f".{os.getpid()}")
        if step or again:  # TensorBoard forgets what an earlier process wrote beyond this step
            self._board.write_event(Event(wall_time=time.time(), step=step + 1,
                                          session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, epoch: float, split: str, values: dict[str, float]) -> None:
        """Write a record of a split everywhere."""
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        record = {"step": step, "epoch": round(epoch, 4), "split": split} | values
        with open(self._metrics, "a") as file:
            file.write(json.dumps(sealed(record)) + "\n")
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in tags(split, values).items()]
        self._board.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._board.flush()
        self._loggers.write(record)

    def finish(self, result: dict[str, Any]) -> None:
        """Send the result of the run to its loggers."""
        self._loggers.finish(result)

    def write_norms(self, step: int, epoch: float, batch_stats: Any, gradients: dict[str, Any]) -> None:
        """Write NORM_PERCENTILES over the channels of each batch norm's running mean and deviation, and `gradients`."""
        sizes = {layer: float(f"{size:.6g}") for layer, size in jax.device_get(gradients).items()}
        record: dict[str, Any] = {"step": step, "epoch": round(epoch, 4), "mean": {}, "deviation": {},
                                  "gradient": sizes}
        flat: dict[tuple[str, ...], Any] = flatten_dict(jax.device_get(batch_stats))
        for (*layer, kind), values in flat.items():
            if kind not in ("mean", "var"):  # a kernel that is not learned
                continue
            name, values = ("mean", values) if kind == "mean" else ("deviation", np.sqrt(values))
            record[name]["/".join(layer)] = np.percentile(values, NORM_PERCENTILES).round(6).tolist()
        with open(self._norms, "a") as file:
            file.write(json.dumps(sealed(record)) + "\n")

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._loggers.close()
        with contextlib.suppress(OSError, ValueError):  # a full disk has been reported already, by the write
            self._board.close()


def plain(text: str) -> str:
    """Return a text as matplotlib draws it letter by letter: dollars begin no formula, bytes that are no text show."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def scale_axes(axis: Any, losses: Sequence[float] = ()) -> None:
    """Give a panel a grid, whole epochs, and for `losses` that differ more than WIDE a log scale of plain numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axis.grid(alpha=0.3)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if losses and 0 < WIDE * min(losses) < max(losses):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def draw_curves(workdir: Path, title: str) -> Path:
    """Draw curves.png from metrics.jsonl and return its path: loss and accuracy by epoch, of each split."""
    from matplotlib.figure import Figure

    records = read_metrics(workdir / "metrics.jsonl")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, field, label in zip(axes, ("loss", "accuracy"), ("cross-entropy (nats)", "accuracy"), strict=True):
        for split, color in (("train", "tab:gray"), ("validation", "tab:orange"), ("test", "tab:blue")):
            chosen = [record for record in records if record["split"] == split]
            if chosen:
                axis.plot([r["epoch"] for r in chosen], [r[field] for r in chosen], color=color, label=split,
                          marker="o" if len(chosen) < 20 else None, markersize=3, linewidth=1.3)
        axis.set_ylabel(label)
        scale_axes(axis, [record["loss"] for record in records if field == "loss"])
    axes[1].legend(loc="lower right")
    figure.suptitle(plain(title))
    path = workdir / "curves.png"
    figure.savefig(path, dpi=120)
    return path


class Progress:
    """Keeps the host close to the device, measures the speed, and shows on the console how far the training is.

    On a terminal a bar shows images/s and the time left (by the steps after the first, which compiles). Elsewhere there
    is a line for each record, and one after every SILENT_SECONDS without a record. With `trials`, which train together,
    one line speaks for all, every TRIALS_SECONDS, and begins with `note`.
    """

    def __init__(self, plan: Plan, step: int = 0, *, shown: bool = True, trials: bool = False, note: str = ""):
        self._plan, self._shown, self._trials, self._note = plan, shown, trials, note
        self._pending: deque[tuple[int, Any]] = deque()
        self.bar = tqdm(total=plan.total_steps * plan.batch_size, initial=step * plan.batch_size, unit="img",
                         unit_scale=True, disable=not shown or trials or not sys.stderr.isatty(),
                         dynamic_ncols=True, smoothing=0.05)
        self._mark = (time.perf_counter(), step)  # when this log interval began
        self._start: tuple[float, int] | None = None  # when the first step, and with it the compilation, was done
        if shown and step < plan.total_steps:
            log.info("%scompiling ...", note)
        self._told = 0.0 if trials else self._mark[0]  # when the last line was shown
        self.training_seconds = 0.0  # without evaluation and start-up

    def tick(self, step: int, output: jax.Array) -> None:
        """Wait until at most IN_FLIGHT steps are left to do; `output` is a small result of the last one."""
        if self._start is None:
            output.block_until_ready()
            self._start = time.perf_counter(), step
            self.bar.unpause()
        self._pending.append((step, output))
        while self._pending and (self._pending[0][1].is_ready()
                                 or len(self._pending) > IN_FLIGHT[jax.default_backend()]):
            done, output = self._pending.popleft()
            output.block_until_ready()
            self.bar.update(done * self._plan.batch_size - self.bar.n)

    def remind(self, step: int) -> None:
        """Say how far the training is, if nothing was shown for a while; for steps that have no record."""
        now, done = time.perf_counter(), step - len(self._pending)
        if self._shown and not self._trials and self.bar.disable and now - self._told >= SILENT_SECONDS:
            self._told = now
            log.info("step %d/%d%s", done, self._plan.total_steps, self._left(done, now))

    def _left(self, step: int, now: float) -> str:
        """Return ', 3 min 20 s left', or nothing where that is not known yet."""
        began, first = self._start or (now, step)
        rest = self._plan.total_steps - step
        return f", {duration((now - began) / (step - first) * rest)} left" if step > first else ""

    @contextlib.contextmanager
    def paused(self, output: jax.Array) -> Iterator[None]:
        """Count no training time from when an output is ready, for an evaluation or a checkpoint."""
        output.block_until_ready()
        began = time.perf_counter()
        yield
        self._mark = (self._mark[0] + time.perf_counter() - began, self._mark[1])

    def measure(self, step: int) -> float:
        """Return images/s since the last call; the device has done `step` steps by now."""
        now, (since, first) = time.perf_counter(), self._mark
        self._mark, self.training_seconds = (now, step), self.training_seconds + now - since
        self._pending.clear()
        self.bar.update(step * self._plan.batch_size - self.bar.n)
        return (step - first) * self._plan.batch_size / max(now - since, 1e-9)

    def show(self, step: int, split: str, means: Sequence[dict[str, float]], speed: float = 0.0) -> None:
        """Show the metrics of a split, of one run or of each trial."""
        now, steps = time.perf_counter(), self._plan.total_steps
        if not self._shown or not means or (self._trials and (split != "train" or now - self._told < TRIALS_SECONDS)):
            return
        self._told, epoch, left = now, step / self._plan.steps_per_epoch, self._left(step, now)
        losses, accuracy = [mean["loss"] for mean in means], means[0]["accuracy"]
        if self._trials:
            log.info("%s%d trials together, step %d/%d, training loss %.4f to %.4f%s", self._note, len(losses),
                     step, steps, min(losses), max(losses), left)
        elif split == "train" and not self.bar.disable:
            self.bar.set_postfix_str(f"epoch {epoch:.2f} loss {losses[0]:.4f} accuracy {accuracy:.4f}")
        else:
            log.info("step %d/%d  epoch %.2f  %-10s  loss %.4f  accuracy %.4f%s", step, steps, epoch, split, losses[0],
                     accuracy, f"  {speed:,.0f} images/s{left}" if speed else "")


def duration(seconds: float) -> str:
    """Return '42 s', '3 min 20 s' or '2 h 05 min'."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
