"""Killed at chosen moments or many times at random ones, a run ends with the same bits, records and checkpoints."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from orbax.checkpoint._src.path import deleter

from modern_cnn.runs import loop
from modern_cnn.runs.checkpoints import Checkpoints, saved_steps
from modern_cnn.runs.record import Record
from tests.data import files
from tests.runs.processes import ROOT, TRAIN, final_bits, finish, history, last_step, start

KILLS = 34  # of each kind of run, and there are six


def left(directory):
    """What a run leaves: parameters and all else of its newest checkpoint, records, and the steps that are kept."""
    return final_bits(directory), history(directory), saved_steps(directory)


def _die(after, count):
    """Return `after` with a kill at its call number `count`, counted from 1: before the call, negative: behind it."""
    calls = iter(range(1, 99))

    def dying(*args, **named):
        number = next(calls)
        if number == count:
            os.kill(os.getpid(), signal.SIGKILL)
        result = after(*args, **named)
        if number == -count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return dying


def _train_and_die(config, directory, owner, name, count):
    setattr(owner, name, _die(getattr(owner, name), count))
    loop.train_and_evaluate(config, directory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    from configs import base

    config = base.get_config()
    config.update_from_flattened_dict({
        "epochs": 2, "log_every_steps": 0, "model.name": "mlp", "data.source": "digits", "data.batch_size": 128,
        "data.validation": 0.2, "checkpoint_every_steps": 3, "optimizer.momentum": 0.9})
    config.model.hidden_sizes = (16,)
    directory = tmp_path_factory.mktemp("kills") / "whole"
    loop.train_and_evaluate(config, directory)
    return config, left(directory)


def slow(*moment):
    return pytest.param(*moment, marks=pytest.mark.slow)


@pytest.mark.parametrize(("owner", "name", "count"), [
    (Checkpoints, "save", 4), (Checkpoints, "save", -4),  # before a checkpoint, and while it is written
    slow(Checkpoints, "_write_list", 5), slow(Checkpoints, "_write_list", -5),  # complete, but without its name
    slow(deleter.StandardCheckpointDeleter, "delete_steps", 4),  # it has its name, and what it replaces is still there
    slow(deleter.StandardCheckpointDeleter, "delete_steps", 7),  # the same of the last one
    (Record, "write_scores", 2), slow(Record, "write_scores", -3)])  # between the records and the checkpoint
def test_a_kill_at_a_chosen_moment(server, whole, tmp_path, owner, name, count):
    config, expected = whole
    process = server.Process(target=_train_and_die, args=(config, tmp_path / "run", owner, name, count))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    loop.train_and_evaluate(config, tmp_path / "run")
    assert left(tmp_path / "run") == expected


def test_a_kill_while_an_old_checkpoint_is_removed(whole, tmp_path):
    """At the end of the run: no further save would remove what is left."""
    config, expected = whole
    loop.train_and_evaluate(config, tmp_path / "run")
    stale = tmp_path / "run" / "checkpoints" / "1"
    shutil.copytree(tmp_path / "run" / "checkpoints" / str(expected[2][-1]), stale)
    for file in sorted(path for path in stale.rglob("*") if path.is_file())[::2]:
        file.unlink()
    loop.train_and_evaluate(config, tmp_path / "run")
    assert left(tmp_path / "run") == expected


VARIANTS = {
    "plain": ("--config.optimizer.ema_decay=0", "--config.data.validation=0"),
    "averages": ("--config.data.validation=0",),
    "augmentation": ("--config.augment.crop=2", "--config.augment.flip=true", "--config.augment.cutout=4"),
    "validation": ("--config.optimizer.ema_decay=0", "--config.eval_every_epochs=1"),
    "streaming": ("--config.data.stream=true", "--config.augment.resized_crop=0.3", "--config.data.batch_size=16",
                  "--config.data.image_size=8"),
}


def kill_often(begin, end, step_of, compare, tmp_path):
    """Kill KILLS times: each process some steps further than it began, or soon after, until a run has ended."""
    draw = random.Random(0 if os.environ.get("CI") else None)
    killed = 0
    for number in count():
        directory = tmp_path / f"killed{number}"
        while killed < KILLS:
            process, goal = begin(directory), step_of(directory) + draw.randint(0, 16)
            while process.poll() is None and step_of(directory) < goal:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.3))
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
            if process.returncode == 0:
                break
        end(directory)
        compare(directory)
        if killed == KILLS:
            return


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_many_kills(server, variant, tmp_path):
    flags = VARIANTS[variant]
    if variant == "streaming":
        flags += (f"--config.data.source={files.write_digits(tmp_path / 'digits', 400)}",)
    finish(server, tmp_path / "whole", *flags)
    expected = left(tmp_path / "whole")

    def compare(directory):
        assert left(directory) == expected

    kill_often(lambda directory: start(directory, *flags), lambda directory: finish(server, directory, *flags),
               last_step, compare, tmp_path)


@pytest.mark.slow
def test_many_kills_of_a_sweep(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/sweep.py"), *TRAIN[1:], "--sweep=seed=0:3"]

    def begin(directory):
        return subprocess.Popen([*command, f"--workdir={directory}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True)

    def end(directory):
        process = begin(directory)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err

    def all_left(directory):
        trials = sorted(path.name for path in (Path(directory) / "trials").iterdir())
        results = json.loads((directory / "sweep.json").read_text())["trials"]
        return [(left(directory / "trials" / name), results[name]["result"] | {"seconds": 0}) for name in trials]

    def compare(directory):
        assert all_left(directory) == expected

    end(tmp_path / "whole")
    expected = all_left(tmp_path / "whole")
    kill_often(begin, end, lambda directory: max((last_step(path) for path in (directory / "trials").glob("*")),
                                                 default=0), compare, tmp_path)
