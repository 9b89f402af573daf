"""What a person sees of a run: a progress bar or plain lines, metrics.jsonl, TensorBoard files, curves.png, a table."""
import contextlib
import json
import logging
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from tqdm import tqdm

log = logging.getLogger(__name__)

# Steps that may wait on the device: enough to keep it busy, few enough to stop within seconds. A CPU hands them out
# itself: there LeNet's steps take a tenth longer if more than one is under way.
IN_FLIGHT = {"cpu": 0, "gpu": 8, "tpu": 8}


NORM_PERCENTILES = (15, 50, 85)  # as Ioffe and Szegedy 2015, figure 1, have them


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl. Bad lines are left out, with a warning unless it is a last one, cut by a kill."""
    return _read_records(path, {"step", "epoch", "split", "loss", "accuracy"})


def read_norms(workdir: Path) -> list[dict[str, Any]]:
    """What `RunLog.norms` wrote, in order; none where config.log_norms was off."""
    return _read_records(workdir / "norms.jsonl", {"step", "epoch", "mean", "deviation"})


def _read_records(path: Path, fields: set[str]) -> list[dict[str, Any]]:
    records, lines = [], path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not fields <= record.keys():
                raise ValueError
            records.append(record)
        except (ValueError, AttributeError):
            if number < len(lines):
                log.warning("line %d of %s is not a record; it is left out", number, path)
    return records


class RunLog:
    """Writes a run's metrics everywhere they are read.

    Args:
      workdir: of metrics.jsonl and tensorboard/; records after `step` are dropped (a resumed run writes them again).
        None: in a process that does not lead, nothing is written.
      step, total_steps: steps done already, and in the whole run.
      batch_size: images in a step.
      quiet: to files alone, nothing on the console.
    """

    def __init__(self, workdir: Path | None, step: int, total_steps: int, batch_size: int, quiet: bool = False):
        self.quiet = quiet
        self._silent = workdir is None
        self._files = [] if self._silent else self._open(workdir, step)
        self._batch_size = batch_size
        self._pending: deque[tuple[int, jax.Array]] = deque()
        # On a terminal tqdm shows images/s and the time left; elsewhere `train` and `evaluation` print plain lines.
        self._bar = tqdm(total=total_steps * batch_size, initial=step * batch_size, unit="img", unit_scale=True,
                         disable=self._silent or quiet or not sys.stderr.isatty(), dynamic_ncols=True, smoothing=0.05)
        self._start = self._mark = (time.perf_counter(), step)  # when this process, and this log interval, began
        self._total_steps = total_steps
        self.training_seconds = 0.0  # without evaluation and start-up

    def _open(self, workdir: Path, step: int) -> list:
        """The files, to be closed."""
        # Written in this thread: SummaryWriter's own thread dies on a full disk, and whoever waits for it hangs.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._path = workdir / "metrics.jsonl"
        self._norms = workdir / "norms.jsonl"
        for path, records in ((self._path, read_metrics(self._path)), (self._norms, read_norms(workdir))):
            if records or path == self._path:
                temporary = path.with_suffix(".tmp")
                temporary.write_text("".join(json.dumps(record) + "\n" for record in records
                                             if record["step"] <= step))
                os.replace(temporary, path)
        self._file = open(self._path, "a")  # noqa: SIM115 - closed by close()
        (workdir / "tensorboard").mkdir(exist_ok=True)
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"), f".{os.getpid()}")
        if step:  # TensorBoard forgets what an earlier process wrote beyond this step
            self._board.write_event(Event(wall_time=time.time(), step=step + 1,
                                          session_log=SessionLog(status=SessionLog.START)))
        return [self._file, self._board]

    def tick(self, step: int, value: jax.Array) -> None:
        """Called after every step with a small array of its output: moves the bar.

        Steps are handed to the device faster than it does them; where IN_FLIGHT wait already, so does this.
        """
        self._pending.append((step, value))
        most = IN_FLIGHT[jax.default_backend()]
        while self._pending and (self._pending[0][1].is_ready() or len(self._pending) > most):
            done, value = self._pending.popleft()
            value.block_until_ready()
            self._bar.update(done * self._batch_size - self._bar.n)

    def restart(self) -> None:
        """Training goes on after an evaluation, whose time is not counted as training's."""
        self._mark = (time.perf_counter(), self._mark[1])

    def train(self, step: int, epoch: float, means: dict[str, float], learning_rate: float) -> None:
        """A training record: means over the images since the last one. The device has done `step` steps by now."""
        now, (since, first) = time.perf_counter(), self._mark
        self._mark, self.training_seconds = (now, step), self.training_seconds + now - since
        speed = (step - first) * self._batch_size / max(now - since, 1e-9)
        self._pending.clear()
        self._bar.update(step * self._batch_size - self._bar.n)
        self._write(step, epoch, "train", means | {"images_per_second": round(speed, 1),
                                                   "learning_rate": learning_rate})
        if self.quiet:
            return
        if self._bar.disable:
            left = (now - self._start[0]) / max(step - self._start[1], 1) * (self._total_steps - step)
            log.info("step %d/%d  epoch %.2f  train       loss %.4f  accuracy %.4f  %s images/s, %s left", step,
                     self._total_steps, epoch, means["loss"], means["accuracy"], f"{speed:,.0f}", duration(left))
        else:
            self._bar.set_postfix_str(f"epoch {epoch:.2f} loss {means['loss']:.4f} accuracy {means['accuracy']:.4f}")

    def norms(self, step: int, epoch: float, batch_stats: Any) -> None:
        """A line of norms.jsonl: of each normalisation's running mean and deviation, NORM_PERCENTILES over channels."""
        if self._silent:
            return
        record = {"step": step, "epoch": round(epoch, 4), "mean": {}, "deviation": {}}
        for (*layer, kind), values in flatten_dict(jax.device_get(batch_stats)).items():
            name, values = ("mean", values) if kind == "mean" else ("deviation", np.sqrt(values))
            record[name]["/".join(layer)] = np.percentile(values, NORM_PERCENTILES).round(6).tolist()
        with open(self._norms, "a") as file:
            file.write(json.dumps(record) + "\n")

    def evaluation(self, step: int, epoch: float, split: str, means: dict[str, float]) -> None:
        """A record of a whole split."""
        self._write(step, epoch, split, means)
        if self.quiet:
            return
        log.info("step %d/%d  epoch %.2f  %-10s  loss %.4f  accuracy %.4f", step, self._total_steps, epoch, split,
                 means["loss"], means["accuracy"])

    def _write(self, step: int, epoch: float, split: str, values: dict[str, float]) -> None:
        if self._silent:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        self._file.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split} | values) + "\n")
        self._file.flush()
        scalars = [Summary.Value(tag=f"{name}/{split}" if name in ("loss", "accuracy", "top5") else name,
                                 simple_value=value) for name, value in values.items()]
        self._board.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._board.flush()

    def close(self) -> None:
        """Ends the bar and the files. Once is enough; again does nothing."""
        self._bar.close()
        for file in self._files:
            with contextlib.suppress(OSError, ValueError):  # a full disk has been reported, by what was being written
                file.close()


def duration(seconds: float) -> str:
    """'42 s', '3 min 20 s', '2 h 05 min'."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def draw_curves(workdir: Path, title: str) -> Path:
    """curves.png from metrics.jsonl: loss (log scale) and accuracy against the epoch, a line for each split."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_metrics(workdir / "metrics.jsonl")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for split, color in (("train", "tab:gray"), ("validation", "tab:orange"), ("test", "tab:blue")):
        chosen = [record for record in records if record["split"] == split]
        for axis, field in zip(axes, ("loss", "accuracy"), strict=True):
            if chosen:
                axis.plot([r["epoch"] for r in chosen], [r[field] for r in chosen], color=color, label=split,
                          marker="o" if len(chosen) < 20 else None, markersize=3, linewidth=1.3)
    for axis, field in zip(axes, ("cross-entropy (nats)", "accuracy"), strict=True):
        axis.set_xlabel("epoch")
        axis.set_ylabel(field)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].legend(loc="lower right")
    figure.suptitle(title)
    path = workdir / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def table(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
