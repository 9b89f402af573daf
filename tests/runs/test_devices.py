"""Eight devices give what one gives. They are made of this machine's cores, in a process of their own."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from modern_cnn.errors import UserError
from modern_cnn.runs import loop
from modern_cnn.runs.load import load_run
from modern_cnn.training.devices import Devices
from tests.data import files

ROOT = Path(__file__).resolve().parents[2]
# One of each that draws for a batch, mixes it, or looks at all of it or of the weights; the others go without.
RECIPE = ["--config.augment.resized_crop=0.5", "--config.augment.contrast=0.4", "--config.augment.cutmix=1",
          "--config.augment.test_flip=True", "--config.loss.label_smoothing=0.1", "--config.optimizer.clip_norm=1",
          "--config.optimizer.ema_decay=0.9"]
RUNS = {  # flags of the run; which one it must equal
    "one": ([*RECIPE, "--config.parallel.count=1"], None),
    "jit": (RECIPE, "one"),
    "pmap": ([*RECIPE, "--config.parallel.compile=pmap"], "one"),
    "accumulated": (["--config.model.name=lenet", "--config.accumulate=4"], "whole"),
    "whole": (["--config.model.name=lenet", "--config.parallel.count=1"], None),
    "jit, norm by device": ([*RECIPE, "--config.parallel.batch_norm=device"], None),
    "pmap, norm by device": ([*RECIPE, "--config.parallel.batch_norm=device", "--config.parallel.compile=pmap"],
                             "jit, norm by device"),
    "streamed": (["--config.data.stream=true", "--config.parallel.count=1"], None),
    "streamed, jit": (["--config.data.stream=true"], "streamed"),
    "streamed, pmap": (["--config.data.stream=true", "--config.parallel.compile=pmap"], "streamed"),
}
# Batch statistics, momentum, augmentation, a validation split that eight do not divide.
FLAGS = ["--config.max_steps=25", "--config.log_every_steps=1", "--config.data.validation=0.1",
         "--config.data.image_size=16", "--config.test_every_epoch=True"]


def start(workdir, *flags, devices=8):
    """A process that trains on so many devices."""
    return subprocess.Popen([sys.executable, str(ROOT / "scripts/train.py"),
                             f"--config={ROOT / 'configs/quickstart.py'}", f"--workdir={workdir}", *FLAGS, *flags],
                            env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_two(workdir, *flags):
    """Two processes of four devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--processes=2"]
    return [start(workdir, *together, f"--process={index}", *flags, devices=4) for index in range(2)]


def end(processes, code=0):
    for process in processes:
        _, err = process.communicate(timeout=180)
        assert process.returncode == code, err


def result(workdir):
    """The losses that it wrote down, and its variables."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records], load_run(workdir).variables


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: (losses, variables)} of the runs above, each a process of its own, and of two processes."""
    root = tmp_path_factory.mktemp("devices")
    source = f"--config.data.source={files.write_digits(root / 'digits', 400)}"
    for name, (flags, _) in RUNS.items():
        end([start(root / name, *flags, *([source] if name.startswith("streamed") else []))])
    end(start_two(root / "two processes", *RECIPE))
    end(start_two(root / "streamed, two processes", source, "--config.data.stream=true"))
    return {name: result(root / name) for name in (*RUNS, "two processes", "streamed, two processes")}


def same(got, want):
    assert len(got[0]) == len(want[0]) == 25 + 2  # and validation and test at the end
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, (_, same) in RUNS.items() if same])
def test_losses_and_parameters_are_those_of_one_device(runs, name):
    same(runs[name], runs[RUNS[name][1]])


def test_two_processes_are_one_run(runs, tmp_path):
    """Also where one of them gets a signal: both stop after the same step, and go on."""
    same(runs["two processes"], runs["one"])
    same(runs["streamed, two processes"], runs["streamed"])  # each decoded its own half of every batch
    flags = ["--config.epochs=400", "--config.max_steps=4000", "--config.checkpoint_every_steps=0"]
    processes = start_two(tmp_path / "run", *flags)
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").read_text():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    end(processes, 128 + signal.SIGTERM)
    [step] = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert 0 < step < 4000
    total = f"--config.max_steps={step + 5}"
    end(start_two(tmp_path / "run", flags[0], total))
    end(start_two(tmp_path / "straight", flags[0], total))
    resumed, straight = result(tmp_path / "run"), result(tmp_path / "straight")
    np.testing.assert_allclose(resumed[0], straight[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("flags", "words"), [
    (["--processes=2"], "--process=0 of --processes=2: .* need a --coordinator"),
    (["--coordinator=127.0.0.1:1", "--processes=2", "--process=2"], "--process=2 of --processes=2: it must be below"),
])
def test_processes_that_cannot_be_are_refused(tmp_path, flags, words):
    process = start(tmp_path / "run", *flags)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(words, err)


def test_norm_by_device_is_another_network(runs):
    assert abs(runs["jit, norm by device"][0][0] - runs["one"][0][0]) > 1e-3


@pytest.mark.parametrize(("change", "words"), [
    ({"parallel.compile": "pjit"}, "config.parallel.compile='pjit' is unknown; did you mean 'jit'"),
    ({"parallel.batch_norm": "local"}, "config.parallel.batch_norm='local' is unknown; did you mean 'global'"),
    ({"parallel.count": 99}, "config.parallel.count=99, but there are only"),
    ({"accumulate": 3}, "config.data.batch_size=128 cannot be divided among config.accumulate=3 parts"),
])
def test_what_cannot_be_is_refused(config, tmp_path, change, words):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_a_network_without_batch_norm_needs_no_axis():
    assert Devices(compile="pmap").batch_shares == jax.device_count()
