"""Weights & Biases and MLflow beside metrics.jsonl: the same records, also after a kill, and nothing of them else."""
import contextlib
import inspect
import json
import logging
import pydoc
import signal
import struct
import sys
import threading

import pytest

from modern_cnn import settings
from modern_cnn.errors import UserError
from modern_cnn.runs import loggers, loop, record
from modern_cnn.runs.log import Log, read_metrics
from tests.runs.fake_loggers import Fakes
from tests.runs.processes import TOTAL_STEPS, last_step, start, wait

BOTH = "wandb,mlflow"


@pytest.fixture
def fakes(monkeypatch):
    return Fakes().install(monkeypatch)


@pytest.fixture
def asked(config):
    """22 steps, with a record after every two and a checkpoint after every four."""
    config.update(epochs=2, log_every_steps=2, checkpoint_every_steps=4, loggers=BOTH, test_every_epoch=True)
    return config


def ids(directory):
    return json.loads((directory / "loggers.json").read_text())


def rows(directory):
    """What the history of W&B must be: metrics.jsonl under the names of the curves."""
    return [{"step": r["step"], "epoch": r["epoch"]} | {
        f"{name}/{r['split']}" if name in ("loss", "accuracy", "top5") else name: value
        for name, value in r.items() if name not in ("step", "epoch", "split")} for r in read_metrics(
            directory / "metrics.jsonl")]


def points(directory):
    """What the metrics of MLflow must be, without the result."""
    return {(name, row["step"]): value for row in rows(directory) for name, value in row.items() if name != "step"}


def untimed(found):
    """Without what a clock measured: of steps that were done twice each time counts once."""
    return {key: value for key, value in found.items() if key[0] != "images_per_second"}


def test_both_get_what_metrics_jsonl_has(asked, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    result = loop.train_and_evaluate(asked, tmp_path / "mine")
    curves, known = rows(tmp_path / "mine"), ids(tmp_path / "mine")
    assert {"loss/train", "accuracy/test", "images_per_second", "learning_rate"} < {*curves[0], *curves[-1]}
    there, stored = fakes.wandb[known["wandb"]], fakes.mlflow[known["mlflow"]]
    assert there["history"] == curves
    assert there["axes"] == {"*": {"step_metric": "step"}}
    summary = {"result/step": 22, "result/loss/test": result["test"]["loss"],
               "result/accuracy/test": result["test"]["accuracy"]}
    assert there["summary"] == summary
    assert fakes.points(known["mlflow"]) == points(tmp_path / "mine") | {
        (name, 22): value for name, value in summary.items()}
    for config in (there["config"], stored["params"]):
        assert (str(config["model.name"]), str(config["optimizer.momentum"])) == ("mlp", "0.9")
    assert (stored["name"], stored["experiment"], there["exit"], stored["status"]) == ("mine", "0", 0, "FINISHED")
    assert [*fakes.experiments] == ["ours"]


class Killed(BaseException):
    """What ends a process at once, as far as a test can."""


def kill(monkeypatch, step):
    """Let a run end after the record of a step, whose checkpoint is not written any more."""
    write = record.Record.write_training

    def dying(self, at, *rest):
        write(self, at, *rest)
        if at == step:
            raise Killed

    monkeypatch.setattr(record.Record, "write_training", dying)


def test_a_run_that_was_killed_goes_on_in_the_same_runs(asked, fakes, tmp_path, monkeypatch):
    """What the logger of the first process held back is sent by the second, and what it had sent is there once."""
    with monkeypatch.context() as patch:
        kill(patch, 10)
        with pytest.raises(Killed):
            loop.train_and_evaluate(asked, tmp_path)
    known = ids(tmp_path)
    assert fakes.mlflow[known["mlflow"]]["status"] == "KILLED"
    assert ("loss/train", 10) in fakes.points(known["mlflow"])
    stored = fakes.mlflow[known["mlflow"]]["metrics"]
    stored[:] = [m for m in stored if m.step != 6]  # the network was gone for a while
    asked.eval_every_epochs = 2
    loop.train_and_evaluate(asked, tmp_path)
    assert ids(tmp_path) == known
    assert fakes.rows(known["wandb"]) == rows(tmp_path)
    assert [row["step"] for row in rows(tmp_path) if "loss/train" in row].count(10) == 1
    found = {key: value for key, value in fakes.points(known["mlflow"]).items() if "result" not in key[0]}
    assert untimed(found) == untimed(points(tmp_path))
    assert len(found) == len(points(tmp_path))
    assert fakes.mlflow[known["mlflow"]]["tags"] == {"resumed.eval_every_epochs": "2"}
    assert fakes.mlflow[known["mlflow"]]["status"] == "FINISHED"
    assert len(fakes.wandb) == len(fakes.mlflow) == 1


def test_an_attempt_that_began_again_has_a_run_of_its_own(asked, fakes, tmp_path, monkeypatch):
    """Before its first checkpoint a run may change any field; MLflow's points never change."""
    with monkeypatch.context() as patch:
        kill(patch, 2)
        with pytest.raises(Killed):
            loop.train_and_evaluate(asked, tmp_path)
    first = ids(tmp_path)["mlflow"]
    asked.optimizer.learning_rate /= 2
    loop.train_and_evaluate(asked, tmp_path)
    second = ids(tmp_path)["mlflow"]
    assert first != second
    found = {key: value for key, value in fakes.points(second).items() if "result" not in key[0]}
    assert untimed(found) == untimed(points(tmp_path))


def test_loggers_may_be_added_to_a_run_that_goes_on(asked, fakes, tmp_path):
    asked.loggers = "none"
    with pytest.raises(SystemExit):
        loop.train_and_evaluate(asked, tmp_path, stop=lambda step: signal.SIGTERM if step == 12 else 0)
    assert not (tmp_path / "loggers.json").exists()
    assert fakes.calls == []
    asked.loggers = "mlflow"
    loop.train_and_evaluate(asked, tmp_path)
    assert points(tmp_path).items() <= fakes.points(ids(tmp_path)["mlflow"]).items()
    fakes.mlflow["run0"]["stage"] = "deleted"
    loop.train_and_evaluate(asked, tmp_path)  # is at its end, and is told again to a store that has it no more
    assert ids(tmp_path) == {"mlflow": "run1", "crc": ids(tmp_path)["crc"]}
    fakes.mlflow["another"] = fakes.mlflow.pop("run1")
    loop.train_and_evaluate(asked, tmp_path)
    assert points(tmp_path).items() <= fakes.points("run2").items()


def test_trials_that_train_together_have_a_run_each(asked, fakes, tmp_path):
    asked.update(epochs=1, test_every_epoch=False)
    configs = [asked.copy_and_resolve_references() for _ in range(2)]
    configs[1].seed = 1
    loop.train_trials(configs, [tmp_path / "0", tmp_path / "1"])
    for name in "01":
        known = ids(tmp_path / name)
        assert fakes.rows(known["wandb"]) == rows(tmp_path / name)
        assert fakes.mlflow[known["mlflow"]]["params"]["seed"] == name


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("modern_cnn"), "propagate", True)
    return lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def write(directory, steps, step=0, before=lambda number: None):
    """Do with the Log of a run what the run does, without its training."""
    asked = settings.Settings(loggers=BOTH)
    with contextlib.closing(Log(directory, step, asked)) as opened:
        for number in steps:
            before(number)
            opened.write(number, number / 10, "train", {"loss": 1 / number, "accuracy": 0.5})
        opened.finish({"step": steps[-1], "test": {"loss": 1.0, "accuracy": 0.5}})


@pytest.mark.parametrize("call", ["wandb.Run.log", "mlflow.MlflowClient.log_batch"])
def test_a_logger_that_fails_is_told_once_and_nothing_is_lost(fakes, tmp_path, warnings_of, call):
    def gone(number):
        if number == 3:
            fakes.fail.add(call)

    write(tmp_path, range(1, 9), before=gone)
    [warning] = warnings_of()
    assert warning.startswith(f"{call.split('.')[0]} fails and gets no more records; the training goes on")
    assert warning.endswith("(ConnectionError: the network is gone)")
    fakes.fail.clear()
    assert {len(fakes.rows(ids(tmp_path)["wandb"])), len(fakes.points(ids(tmp_path)["mlflow"])) // 3} != {8}
    write(tmp_path, range(9, 12), step=8)
    assert fakes.rows(ids(tmp_path)["wandb"]) == rows(tmp_path)
    assert points(tmp_path).items() <= fakes.points(ids(tmp_path)["mlflow"]).items()
    assert len(rows(tmp_path)) == 11


def test_a_logger_that_never_answers_does_not_hold_up_the_end(fakes, tmp_path, warnings_of, monkeypatch):
    waits = threading.Event()
    monkeypatch.setattr(loggers.Mlflow, "write", lambda self, records: records and waits.wait(3))
    monkeypatch.setattr(loggers, "CLOSE_SECONDS", -9.9)
    write(tmp_path, range(1, 9))
    waits.set()
    assert "mlflow did not take everything" in " ".join(warnings_of())
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 8


def test_a_logger_that_does_not_start(fakes, tmp_path, warnings_of):
    """Whoever begins a run is told at once; one that goes on, perhaps at night, goes on."""
    fakes.fail.add("mlflow.MlflowClient.create_run")
    with pytest.raises(UserError, match=r"config.loggers='wandb,mlflow': mlflow cannot begin a run \(ConnectionError: "
                                        r"the network is gone\)"):
        write(tmp_path, range(1, 3))
    assert [run["exit"] for run in fakes.wandb.values()] == [1]
    fakes.fail.clear()
    write(tmp_path, range(1, 3))
    fakes.fail.add("mlflow.MlflowClient.get_run")
    write(tmp_path, range(3, 5), step=2)
    [warning] = warnings_of()
    assert warning.startswith("mlflow cannot go on with its run run0 and gets no records; the training goes on")
    assert fakes.rows(ids(tmp_path)["wandb"]) == rows(tmp_path)


def test_only_the_first_process_writes(asked, fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(record.devices, "leads", lambda: False)
    loop.train_and_evaluate(asked, tmp_path)
    assert fakes.calls == []
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_without_the_package_a_line_says_what_to_install(asked, tmp_path, monkeypatch, name):
    """Nothing is compiled or written before; a folder of its name on the path is not the package."""
    asked.loggers = name
    monkeypatch.setattr(loop, "Program", lambda *_: pytest.fail("a program was made"))
    for folder in (False, True):
        if folder:
            (tmp_path / name).mkdir()
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "site-packages" not in p)])
        else:
            monkeypatch.setitem(sys.modules, name, None)  # Python's own mark of absence
        with pytest.raises(UserError, match=f"config.loggers='{name}' needs {name}, which is not installed: pip "
                                            rf'install "modern_cnn\[{name}\]", or .* -r requirements-{name}.txt'):
            loop.train_and_evaluate(asked, tmp_path / "run")
        assert not (tmp_path / "run").exists()


# ---- the packages themselves: pip install -r requirements-wandb.txt -r requirements-mlflow.txt

def offline_rows(directory):
    """The history in the one offline run of a workdir: records of W&B's own messages, in a log of LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = directory.glob("wandb/offline-run-*/run-*.wandb")
    data, position, part, found, summary = path.read_bytes(), 7, b"", [], {}
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if (left := -position % 32768) < 7:  # no header begins so late in a block
            position += left
        _, size, kind = struct.unpack("<IHB", data[position:position + 7])
        part, position = part + data[position + 7:position + 7 + size], position + 7 + size
        if kind in (1, 4):  # whole, or its last part
            message, part = Record.FromString(part), b""
            found.append({item.key or ".".join(item.nested_key): json.loads(item.value_json)
                          for item in message.history.item})
            summary |= {item.key or ".".join(item.nested_key): json.loads(item.value_json)
                        for item in message.summary.update}
    return [{key: value for key, value in row.items() if key[0] != "_"} for row in found if row], summary


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize("store", ["sqlite:///{}/store.db", "file:{}/store"])
def test_the_packages_show_the_curves_also_after_a_kill(tmp_path, monkeypatch, store):
    pytest.importorskip("wandb", reason="pip install -r requirements-wandb.txt")
    pytest.importorskip("mlflow", reason="pip install -r requirements-mlflow.txt")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.format(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    process = start(tmp_path / "run", f"--config.loggers={BOTH}")
    wait(lambda: process.poll() is None, lambda: last_step(tmp_path / "run") >= 9)
    process.kill()
    process.communicate()
    killed, known = last_step(tmp_path / "run"), ids(tmp_path / "run")
    assert 9 <= killed < TOTAL_STEPS
    process = start(tmp_path / "run", f"--config.loggers={BOTH}")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"wandb: run {known['wandb']}" in out
    history, summary = offline_rows(tmp_path / "run")
    assert history == rows(tmp_path / "run")
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_run(known["mlflow"])
    stored = [(m.key, m.step, m.value) for name in run.data.metrics
              for m in client.get_metric_history(known["mlflow"], name)]
    curves = {(name, step): value for name, step, value in stored if not name.startswith("result")}
    assert len({item[:2] for item in stored}) == len(stored)
    assert curves.keys() == points(tmp_path / "run").keys()
    assert untimed(curves) == pytest.approx(untimed(points(tmp_path / "run")), rel=1e-15)
    assert summary["result/accuracy/test"] == pytest.approx(run.data.metrics["result/accuracy/test"])
    assert run.data.params["model.name"] == "vgg11"
    assert run.info.status == "FINISHED"
    assert ids(tmp_path / "run") == known


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages
def test_the_packages_take_the_calls_that_the_fakes_took(asked, tmp_path):
    for name in ("wandb", "mlflow"):
        pytest.importorskip(name, reason=f"pip install -r requirements-{name}.txt")
    with pytest.MonkeyPatch.context() as patch:
        fakes = Fakes().install(patch)
        loop.train_and_evaluate(asked, tmp_path)
        asked.eval_every_epochs = 2
        loop.train_and_evaluate(asked, tmp_path)
    assert len({name for name, *_ in fakes.calls}) == 17
    for name, args, named in fakes.calls:
        real = pydoc.locate(name)
        method = inspect.isfunction(real) and "." in real.__qualname__
        inspect.signature(real).bind(*[None] * method, *args, **named)
