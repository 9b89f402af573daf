"""Weights & Biases and MLflow, which get the records of metrics.jsonl; only a run that asks for one imports it.

metrics.jsonl is what counts. A resumed run brings each logger to the state of that file before it goes on, so nothing
is there twice, and nothing is missing that a kill, a full disk or a network kept from it.
"""
import importlib.util
import logging
import os
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from modern_cnn import settings
from modern_cnn.errors import UserError
from modern_cnn.runs import workdir
from modern_cnn.settings import Settings

log = logging.getLogger(__name__)

CLOSE_SECONDS = 60.0  # that a logger has at the end to send what it still holds
OF_SPLIT = ("loss", "accuracy", "top5")  # each split has its own


def names(asked: str) -> list[str]:
    """Return ['wandb', 'mlflow'] of config.loggers='wandb,mlflow', and nothing of 'none'."""
    return [] if asked == "none" else asked.split(",")


def check(asked: str) -> None:
    """Raise UserError if a package that config.loggers asks for is not installed."""
    for name in names(asked):
        found = importlib.util.find_spec(name)
        if not found or not found.origin:  # a folder of that name, as W&B makes one, is no package
            raise UserError(f"config.loggers={asked!r} needs {name}, which is not installed: pip install "
                            f"\"modern_cnn[{name}]\", or in a checkout pip install -r requirements-{name}.txt")


def tags(split: str, values: dict[str, float]) -> dict[str, float]:
    """Return the values of a split under the names of their curves: 'loss/test', 'images_per_second'."""
    return {f"{name}/{split}" if name in OF_SPLIT else name: value for name, value in values.items()}


def _points(record: dict[str, Any]) -> dict[str, float]:
    """Return what is drawn of a record of metrics.jsonl, by the names of the curves, without its step."""
    return tags(record["split"], {name: value for name, value in record.items() if name not in ("step", "split")})


def _summary(result: dict[str, Any]) -> dict[str, float]:
    """Return {'result/accuracy/test': 0.9, ...} of the result of a run."""
    scores = {split: own for split, own in result.items() if isinstance(own, dict) and split != "train"}
    return {"result/step": result["step"]} | {f"result/{tag}": value for split, own in scores.items()
                                              for tag, value in tags(split, own).items()}


class Logger(Protocol):
    """Where the records of a run go; the constructor begins or finds its run there and sends the records so far."""
    id: str  # of the run there

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Send records of metrics.jsonl."""
        ...

    def finish(self, result: dict[str, Any]) -> None:
        """Send the result of the run."""
        ...

    def close(self, done: bool) -> None:
        """Send what is left and end; `done` says whether the run has its result."""
        ...


class Wandb:
    """A run of Weights & Biases, online or offline as WANDB_MODE says.

    Its history can only grow, and of a killed offline run nothing may be on the disk. So a resumed run writes all of it
    again under the same id, which replaces what was there.
    """

    def __init__(self, directory: Path, known: str, config: dict[str, Any], records: Sequence[dict[str, Any]]):
        import wandb  # pyright: ignore[reportMissingImports]

        self.id = known or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "modern_cnn"), id=self.id, name=directory.absolute().name,
            dir=os.environ.get("WANDB_DIR", str(directory)), config=config, reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, finish_timeout=CLOSE_SECONDS))
        self._run.define_metric("*", step_metric="step")  # the test score of a checkpoint may come steps later
        self.write(records)
        log.info("wandb: run %s, %s", self.id, f"offline in {self._run.dir}" if self._run.offline else self._run.url)

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            self._run.log({"step": record["step"]} | _points(record))

    def finish(self, result: dict[str, Any]) -> None:
        self._run.summary.update(_summary(result))

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)
        if self._run.offline:  # what earlier processes wrote is part of what this one wrote, and would overwrite it
            own = Path(self._run.dir).parent
            for earlier in own.parent.glob(f"offline-run-*-{self.id}"):
                if earlier.name != own.name:
                    shutil.rmtree(earlier, ignore_errors=True)


class Mlflow:
    """A run in the MLflow store that MLFLOW_TRACKING_URI names; a point that is there already is not sent again."""

    def __init__(self, directory: Path, known: str, config: dict[str, Any], records: Sequence[dict[str, Any]]):
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client: Any = MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "modern_cnn")
        run = self._find(known) if known else None
        if not run or (run.data.metrics and not records):  # or this one begins again: points there never change
            run = self._client.create_run(self._experiment(experiment), run_name=directory.absolute().name)
        self.id = run.info.run_id
        self._sent = {(name, point.step) for name in run.data.metrics
                      for point in self._client.get_metric_history(self.id, name)}
        self._client.update_run(self.id, status="RUNNING")
        self._describe(run.data.params, {name: str(value) for name, value in config.items()})
        self.write(records)
        log.info("mlflow: run %s, in %s", self.id, self._client.tracking_uri)

    def _find(self, known: str) -> Any:
        """Return a run, or None where this store has none of this id, or it was deleted."""
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

        try:
            run = self._client.get_run(known)
        except MlflowException as e:
            if e.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which is made if there is none."""
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except MlflowException:  # another process was quicker
            if found := self._client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    def _describe(self, before: dict[str, str], config: dict[str, str]) -> None:
        """Log the config as parameters. MLflow's never change: what a resumed run has otherwise becomes a tag."""
        from mlflow.entities import Param, RunTag  # pyright: ignore[reportMissingImports]

        new = [Param(name, value) for name, value in config.items() if name not in before]
        changed = [RunTag(f"resumed.{name}", value) for name, value in config.items()
                   if before.get(name, value) != value]
        self._client.log_batch(self.id, params=new, tags=changed)

    def _send(self, points: Iterable[tuple[int, str, float]]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        new = [Metric(name, value, now, step) for step, name, value in dict.fromkeys(points)
               if (name, step) not in self._sent]
        for start in range(0, len(new), 1000):  # the most that a server takes at once
            self._client.log_batch(self.id, metrics=new[start:start + 1000])
        self._sent |= {(metric.key, metric.step) for metric in new}

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        self._send((record["step"], *point) for record in records for point in _points(record).items())

    def finish(self, result: dict[str, Any]) -> None:
        self._send((result["step"], *point) for point in _summary(result).items())

    def close(self, done: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if done else "KILLED")


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


KINDS: dict[str, Callable[[Path, str, dict[str, Any], Sequence[dict[str, Any]]], Logger]] = {
    "wandb": Wandb, "mlflow": Mlflow}


class _Sender(threading.Thread):
    """A logger in a thread, so that training never waits for a network. The first error is told, and ends it."""

    def __init__(self, name: str, logger: Logger):
        super().__init__(name=f"logger {name}", daemon=True)
        self.logger, self._kind = logger, name
        self._actions: queue.SimpleQueue[tuple[Callable[..., None], Any] | None] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while action := self._actions.get():
            try:
                action[0](action[1])
            except Exception as e:
                log.warning("%s fails and gets no more records; the training goes on, and the same command, run again, "
                            "sends them (%s)", self._kind, _why(e))
                return

    def put(self, action: Callable[[Any], None], value: Any) -> None:
        """Do this after all that was put before."""
        if self.is_alive():
            self._actions.put((action, value))

    def close(self, done: bool) -> None:
        """End the logger, but wait no longer than is fair."""
        self.put(self.logger.close, done)
        self._actions.put(None)
        self.join(CLOSE_SECONDS + 10)  # W&B gives up by itself
        if self.is_alive():
            log.warning("%s did not take everything within %.0f s; the same command, run again, sends the rest",
                        self._kind, CLOSE_SECONDS)


class Loggers:
    """The loggers that a run asks for, none by default. loggers.json of the workdir keeps the ids of its runs there."""

    def __init__(self, directory: Path, asked: Settings, records: Sequence[dict[str, Any]]):
        self._senders, self._done = [], False
        wanted, path = names(asked.loggers), directory / "loggers.json"
        ids = workdir.read_json(path) if wanted and path.exists() else {}
        for name in wanted:
            try:
                logger = KINDS[name](directory, ids.get(name, ""), settings.flatten(asked), records)
            except Exception as e:
                if name not in ids:
                    self.close()
                    raise UserError(f"config.loggers={asked.loggers!r}: {name} cannot begin a run ({_why(e)})") from e
                log.warning("%s cannot go on with its run %s and gets no records; the training goes on, and the same "
                            "command, run again, sends them (%s)", name, ids[name], _why(e))
                continue
            self._senders.append(_Sender(name, logger))
            if ids.get(name) != logger.id:
                ids[name] = logger.id
                workdir.write_json(path, ids)

    def write(self, record: dict[str, Any]) -> None:
        """Send a record of metrics.jsonl to all."""
        for sender in self._senders:
            sender.put(sender.logger.write, [record])

    def finish(self, result: dict[str, Any]) -> None:
        """Send the result of the run to all."""
        self._done = True
        for sender in self._senders:
            sender.put(sender.logger.finish, result)

    def close(self) -> None:
        """Let all end; a second call does nothing."""
        while self._senders:
            self._senders.pop().close(self._done)
