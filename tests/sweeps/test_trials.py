"""Trials that train together are their single runs, and nothing that happens to one ends a sweep."""
import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

import modern_cnn
from modern_cnn import settings
from modern_cnn.errors import UserError
from modern_cnn.runs import load, loop, workdir
from modern_cnn.runs.checkpoints import saved_steps
from modern_cnn.runs.log import read_metrics
from modern_cnn.sweeps import sweep
from modern_cnn.training import stacked
from tests.runs import small
from tests.runs.test_kills import left

ROOT = Path(__file__).resolve().parents[2]


def rows(directory):
    with (directory / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def curve(directory):
    return {(r["step"], r["split"]): (r["loss"], r["accuracy"]) for r in read_metrics(directory / "metrics.jsonl")}


def assert_same_curves(directory, single, steps):
    ours, theirs = curve(directory), curve(single)
    assert ours.keys() == theirs.keys()
    assert len(ours) >= steps
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, rtol=0, atol=1e-5, err_msg=str(key))


# ---- together

def test_each_trial_is_its_single_run_for_fifty_steps(tmp_path):
    """Batch statistics, dropout, augmentation and a validation split; seeds and learning rates differ.

    Only the checkpoint that validation chooses is scored on the test images.
    """
    config = small.get_config()
    config.max_steps, config.log_every_steps, config.model.dropout_rate, config.data.validation = 50, 1, 0.1, 0.1
    config.augment.update(rotate=0.0, zoom=0.0, shift=0.0, crop=2, flip=True)
    result = sweep.run(config, ["seed=3,5", "optimizer.learning_rate=0.02,0.05"], tmp_path / "sweep")
    assert (result["trials"], result["done"]) == (4, 4)
    config.seed, config.optimizer.learning_rate = 5, 0.02
    single = loop.train_and_evaluate(config, tmp_path / "single")
    directory = tmp_path / "sweep/trials/optimizer.learning_rate=0.02,seed=5"
    assert_same_curves(directory, tmp_path / "single", 50)
    row = rows(tmp_path / "sweep")[2]
    assert (row["seed"], row["optimizer.learning_rate"]) == ("5", "0.02")
    for split in ("validation", "test"):
        assert np.isclose(float(row[f"{split}_loss"]), single[split]["loss"], atol=1e-5)
        assert float(row[f"{split}_accuracy"]) == single[split]["accuracy"]
    assert (directory / "config.json").read_text() == (tmp_path / "single/config.json").read_text()
    assert load.evaluate_workdir(directory)["accuracy"] == single["test"]["accuracy"]
    ours, theirs = (modern_cnn.load(path)[1] for path in (directory, tmp_path / "single"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("way", ["as it is", "vmap"])
def test_every_number_may_differ(config, tmp_path, monkeypatch, way):
    """Half of the numbers in one trial, half in the other, with a step schedule; as on a GPU too."""
    if way == "vmap":
        monkeypatch.setattr(stacked, "over_trials", lambda function, devices: jax.vmap(function, in_axes=(0, None)))
    config.epochs, config.log_every_steps, config.data.batch_size = 1, 1, 256
    config.schedule.name, config.schedule.milestones = "step", (0.5,)
    flags = {"optimizer.learning_rate": (0.1, 0.2), "optimizer.weight_decay": (0.01, 0.001),
             "optimizer.momentum": (0.5, 0.9), "optimizer.ema_decay": (0.9, 0.5), "schedule.factor": (0.1, 0.5),
             "model.dropout_rate": (0.2, 0.4), "loss.label_smoothing": (0.1, 0.2), "seed": (1, 2)}
    assert flags.keys() == {*settings.VARYING, "seed"}
    configs = []
    for i in range(2):
        configs.append(config.copy_and_resolve_references())
        for field, values in flags.items():
            configs[i].update_from_flattened_dict({field: values[i]})
    directories = [tmp_path / "0", tmp_path / "1"]
    results = loop.train_trials(configs, directories)
    for one, directory, result in zip(configs, directories, results, strict=True):
        single = loop.train_and_evaluate(one, directory / "single")
        assert_same_curves(directory, directory / "single", 6)
        assert np.isclose(result["test"]["loss"], single["test"]["loss"], atol=1e-5)


@pytest.mark.slow
def test_killed_on_two_devices_it_goes_on(tmp_path):
    """Three trials over two devices, which cannot share them equally; kill -9 after their first checkpoint."""
    command = [sys.executable, str(ROOT / "scripts/sweep.py"), f"--config={ROOT}/configs/mlp.py", "--sweep=seed=0:3",
               "--config.data.source=digits", "--config.data.batch_size=32", "--config.epochs=12",
               "--config.checkpoint_every_steps=30", f"--workdir={tmp_path / 'sweep'}"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    last = tmp_path / "sweep/trials/seed=2"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    while process.poll() is None and not saved_steps(last):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < saved_steps(last)[-1] < 12 * 44
    done = subprocess.run(command, text=True, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(tmp_path / "sweep")] == ["done"] * 3
    config = ml_collections.ConfigDict(workdir.read_run(last)[0])
    loop.train_and_evaluate(config, tmp_path / "single")
    assert_same_curves(last, tmp_path / "single", 24)


# ---- failures

def test_a_diverging_trial_is_recorded_and_the_others_are_right(config, tmp_path, monkeypatch):
    config.model.dropout_rate = 0.0
    result = sweep.run(config, ["optimizer.learning_rate=0.1,1e30,0.2"], tmp_path / "sweep")
    assert (result["trials"], result["done"]) == (3, 2)
    good, bad, other = rows(tmp_path / "sweep")
    assert re.fullmatch(r"diverged: the loss is not finite at step \d+", bad["status"])
    assert (bad["test_accuracy"], good["status"], other["status"]) == ("", "done", "done")
    single = config.copy_and_resolve_references()
    single.optimizer.learning_rate = 0.2
    loop.train_and_evaluate(single, tmp_path / "single")
    assert_same_curves(tmp_path / "sweep/trials/optimizer.learning_rate=0.2", tmp_path / "single", 4)
    page = (tmp_path / "sweep/report.html").read_text()
    assert bad["status"] in page
    assert "0 of 1" in (tmp_path / "sweep/table.md").read_text()
    before = rows(tmp_path / "sweep")
    for name in ("train_trials", "train_and_evaluate"):
        monkeypatch.setattr(loop, name, lambda *_, **__: pytest.fail("a trial that has ended was trained again"))
    assert sweep.run(config, ["optimizer.learning_rate=0.1,1e30,0.2"], tmp_path / "sweep")["done"] == 2
    assert rows(tmp_path / "sweep") == before


def test_a_network_that_does_not_fit_fails_alone(tmp_path):
    config = small.get_config()
    config.max_steps = 1
    result = sweep.run(config, ["data.image_size=1,8", "seed=0:2"], tmp_path)
    assert (result["trials"], result["done"]) == (4, 2)
    assert [row["status"].split(" the")[0] for row in rows(tmp_path)] == ["failed:"] * 2 + ["done"] * 2
    assert "'vgg11' cannot be built for the 1x1x1 images" in rows(tmp_path)[0]["status"]
    with pytest.raises(UserError, match=r"none of the 1 trials could be done; data.image_size=1,seed=0: failed: the "):
        sweep.run(config, ["data.image_size=1", "seed=0"], tmp_path)


def test_out_of_memory_is_tried_in_halves_then_alone(config, tmp_path, monkeypatch):
    sizes = []

    def train(configs, *_):
        sizes.append(len(configs))
        if len(configs) > 2 or configs[-1].seed == 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
        return [{"test": {"loss": 1.0, "accuracy": config.seed / 10}} for config in configs]

    monkeypatch.setattr(loop, "train_trials", train)
    monkeypatch.setattr(loop, "train_and_evaluate", lambda config, *_, **__: train([config])[0])
    assert sweep.run(config, ["seed=0:5"], tmp_path)["done"] == 4
    assert sizes == [5, 2, 3, 1, 2, 1, 1]
    assert [row["test_accuracy"] for row in rows(tmp_path)] == ["0.0", "0.1", "0.2", "0.3", ""]
    assert rows(tmp_path)[4]["status"].startswith("failed: out of memory")
    sweep.run(config, ["seed=0:5"], tmp_path)  # what failed for want of memory is tried again, and only that
    assert sizes[7:] == [1]


# ---- resuming

def stop_at(monkeypatch, step):
    """SIGTERM comes before this step."""
    @contextlib.contextmanager
    def signals():
        yield lambda now: signal.SIGTERM if now >= step else 0

    monkeypatch.setattr(loop, "stop_signals", signals)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The configs of two trials, the directories of their whole runs, and the folder of those stopped at step 10."""
    configs = [small.get_config() for _ in range(2)]
    for seed, config in enumerate(configs):
        config.update(seed=seed, max_steps=15, checkpoint_every_steps=5)
    root = tmp_path_factory.mktemp("stopped")
    whole, stopped = ([root / kind / str(seed) for seed in range(2)] for kind in ("whole", "stopped"))
    loop.train_trials(configs, whole)
    with pytest.raises(SystemExit):
        loop.train_trials(configs, stopped, stop=lambda step: signal.SIGTERM if step == 10 else 0)
    return configs, [left(directory) for directory in whole], root / "stopped"


@pytest.mark.parametrize("saved", [
    (10, 5), *(pytest.param(other, marks=pytest.mark.slow) for other in ((5, None), (5, 5)))], ids=str)
def test_after_a_kill_between_the_saves_of_two_trials_they_go_on_together(stopped, tmp_path, saved, monkeypatch):
    """The first trial has a checkpoint more than the second; they go on together, since alone they round otherwise."""
    configs, whole, directory = stopped
    shutil.copytree(directory, tmp_path / "killed")
    killed = [tmp_path / "killed" / str(seed) for seed in range(2)]
    for directory, newest in zip(killed, saved, strict=True):
        for step in saved_steps(directory):
            if newest is None or step > newest:
                shutil.rmtree(directory / "checkpoints" / str(step))
    together, complete = [], loop._complete
    monkeypatch.setattr(loop, "_complete", lambda program, records, *rest: together.append(len(records)) or complete(
        program, records, *rest))
    loop.train_trials(configs, killed)
    assert together == [2]
    assert [left(directory) for directory in killed] == whole


def test_stopped_it_goes_on_to_the_same_curves_and_grows(config, tmp_path, monkeypatch):
    config.log_every_steps, config.data.batch_size = 1, 256
    sweep.run(config, ["seed=0:2"], tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(SystemExit) as stopped:
            sweep.run(config, ["seed=0:2"], tmp_path / "sweep")
    assert stopped.value.code == 143
    assert saved_steps(tmp_path / "sweep/trials/seed=1")[-1] == 7
    assert [row["status"] for row in rows(tmp_path / "sweep")] == ["waiting"] * 2
    config.seed = 1  # a single run goes on with the one, the same command with the other
    loop.train_and_evaluate(config, tmp_path / "sweep/trials/seed=1")
    assert_same_curves(tmp_path / "sweep/trials/seed=1", tmp_path / "whole/trials/seed=1", 16)
    config.seed = 0
    sweep.run(config, ["seed=0:2"], tmp_path / "sweep")
    assert curve(tmp_path / "sweep/trials/seed=0") == curve(tmp_path / "whole/trials/seed=0")

    before = rows(tmp_path / "sweep")
    config.optimizer.nesterov = True
    with pytest.raises(UserError, match=r"different config: config.optimizer.nesterov was False, is True"):
        sweep.run(config, ["seed=0:2"], tmp_path / "sweep")
    config.optimizer.nesterov = False
    asked = []
    together = loop.train_trials
    monkeypatch.setattr(loop, "train_trials", lambda configs, *args: asked.extend(
        (config.seed, config.optimizer.learning_rate) for config in configs) or together(configs, *args))
    sweep.run(config, ["seed=1:3", "optimizer.learning_rate=0.1,0.2"], tmp_path / "sweep")  # seed 1 at 0.1 is there
    assert asked == [(1, 0.2), (2, 0.1), (2, 0.2)]
    after = rows(tmp_path / "sweep")
    assert [(row["seed"], row["optimizer.learning_rate"]) for row in after] == [
        ("0", "0.1"), ("1", "0.1"), ("1", "0.2"), ("2", "0.1"), ("2", "0.2")]
    assert [after[i][name] for i in (0, 1) for name in before[0]] == [row[name] for row in before for name in row]

    config.epochs = 4  # longer: trials go on
    assert sweep.run(config, ["seed=0:2"], tmp_path / "sweep")["done"] == 2
    assert saved_steps(tmp_path / "sweep/trials/seed=0")[-1] == 20


# ---- what a sweep says of trials that are done

def scored(accuracy, *splits):
    return {"step": 3} | {split: {"loss": 1.0, "accuracy": accuracy} for split in ("test", *splits)}


@pytest.fixture
def noted(config, tmp_path):
    """A sweep over two schedules, both done without training, of which the second was validated."""
    config.schedule.name, config.max_steps = "constant", 3
    found = sweep.Sweep(config, {"schedule.name": ["constant", "cosine"]}, tmp_path / "sweep")
    found.directory.mkdir()
    found.note(found.asked, [scored(0.5), scored(0.75, "validation")], 2.0)
    return found


def test_validation_scores_are_shown_where_there_are_any(noted):
    assert [row["validation_accuracy"] for row in rows(noted.directory)] == ["", "0.75"]
    noted.report()
    table = (noted.directory / "table.md").read_text()
    assert "| constant | 1 |  |  | 50.00 %" in table
    assert "| cosine | 1, best on validation | 75.00 %" in table


def status(config, directory):
    return [trial.result["status"] for trial in sweep.Sweep(config, {"schedule.name": ["constant"]}, directory).trials]


def test_only_more_steps_make_a_trial_go_on(noted, config):
    for field, value in (("log_every_steps", 7), ("loggers", "none"), ("data.source", "folder:/moved")):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({field: value})
        assert status(changed, noted.directory) == ["done"] * 2
    config.max_steps = 4
    assert status(config, noted.directory) == ["waiting", "done"]


def test_a_trial_that_is_not_asked_for_keeps_its_length(noted, config):
    """And can be told from one that went on, whichever of the two the shared config names."""
    config.max_steps = 4
    grown = sweep.Sweep(config, {"schedule.name": ["constant"]}, noted.directory)
    grown.note(grown.asked, [scored(0.6)], 1.0)
    assert [(row["max_steps"], row["status"], row["test_accuracy"]) for row in rows(noted.directory)] == [
        ("4", "done", "0.6"), ("3", "done", "0.75")]
    config.max_steps = 3
    both = sweep.Sweep(config, {"schedule.name": ["cosine"], "max_steps": [3, 5]}, noted.directory)
    assert [trial.result["status"] for trial in both.asked] == ["done", "waiting"]
    both.note(both.asked[1:], [scored(0.9)], 1.0)
    config.max_steps = 5
    longest = sweep.Sweep(config, {"schedule.name": ["cosine"]}, noted.directory)
    assert [trial.result["test_accuracy"] for trial in longest.asked] == [0.9]
    longest.write()
    assert [(row["max_steps"], row["test_accuracy"]) for row in rows(noted.directory)] == [
        ("4", "0.6"), ("3", "0.75"), ("5", "0.9")]


def test_a_trial_that_kept_its_length_goes_on_when_it_is_asked_for(noted, config):
    """It is the same trial, in the same directory, and cannot become shorter."""
    config.max_steps = 4
    grown = sweep.Sweep(config, {"schedule.name": ["constant"]}, noted.directory)
    grown.note(grown.asked, [scored(0.6)], 1.0)  # 'cosine' has kept 3
    again = sweep.Sweep(config, {"schedule.name": ["cosine"]}, noted.directory)
    assert [trial.name for trial in again.trials] == ["schedule.name=constant", "schedule.name=cosine"]
    assert [trial.result["status"] for trial in again.trials] == ["done", "waiting"]
    assert again.config_of(again.asked[0]).max_steps == 4
    before = (noted.directory / "sweep.json").read_bytes()
    config.max_steps = 2
    with pytest.raises(UserError, match=r"cosine is done, and config\.max_steps was 3, is 2"):
        sweep.run(config, ["schedule.name=cosine"], noted.directory)
    assert (noted.directory / "sweep.json").read_bytes() == before


def test_a_run_and_a_sweep_do_not_share_a_directory(noted, config, tmp_path):
    with pytest.raises(UserError, match="holds a sweep: choose another --workdir for a run"):
        loop.train_and_evaluate(config, noted.directory)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run: choose another --workdir for the sweep"):
        sweep.run(config, ["seed=0:2"], tmp_path / "run")


def test_a_trial_that_cannot_be_is_told_before_the_first_is_trained(config, tmp_path, monkeypatch, caplog):
    config.optimizer.update(momentum=0.9, nesterov=True)
    said = []
    monkeypatch.setattr(loop, "train_and_evaluate", lambda *args, **options: said.append(caplog.text) or scored(0.5))
    result = sweep.run(config, ["optimizer.momentum=0.5,0"], tmp_path / "sweep")
    assert (result["trials"], result["done"]) == (2, 1)
    assert len(said) == 1
    assert "optimizer.momentum=0.0: failed: config.optimizer.nesterov=True does nothing without" in said[0]
    assert [row["status"].split(":")[0] for row in rows(tmp_path / "sweep")] == ["done", "failed"]


@pytest.mark.parametrize(("field", "value", "words"), [
    ("max_steps", 2, "schedule.name=constant is done, and config.max_steps was 3, is 2"),
    ("epochs", 99, "schedule.name=cosine is done, and config.epochs was 3, is 99")])
def test_what_a_done_trial_could_not_go_on_with_is_refused_first(field, value, words, noted, config):
    before = (noted.directory / "sweep.json").read_bytes()
    config[field] = value
    with pytest.raises(UserError, match=words):
        sweep.run(config, ["schedule.name=constant,cosine"], noted.directory)
    assert (noted.directory / "sweep.json").read_bytes() == before


def test_names_of_trials_fit_in_any_script():
    names = {sweep._name({"data.source": f"folder:/{letter * 200}"}) for letter in "训é"}
    assert len(names) == 2
    assert max(len(name.encode()) for name in names) <= sweep.NAME_LENGTH


def test_a_stopped_sweep_names_its_own_directory(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop, "stop_signals", lambda: contextlib.nullcontext(
        lambda step: signal.SIGTERM if step else 0))
    config.max_steps = 3
    with pytest.raises(SystemExit):
        sweep.run(config, ["seed=0"], tmp_path / "sweep")
    with pytest.raises(SystemExit):
        loop.train_and_evaluate(config, tmp_path / "single")
    said = [message for message in caplog.messages if "to resume" in message]
    assert said == [f"to resume, run the same command with --workdir={tmp_path / name}" for name in (
        "sweep", "single")]
