"""Several devices give what one gives. They are made of this machine's cores, in processes of their own."""
import json
import os
import re
import signal
import socket
import time

import jax
import numpy as np
import pytest

from modern_cnn import runtime
from modern_cnn.errors import UserError
from modern_cnn.runs import loop, record
from modern_cnn.runs.load import load_run
from modern_cnn.runs.log import read_norms
from modern_cnn.training.devices import Devices
from tests.data import files
from tests.runs import processes, small

# Of what draws for a batch, mixes it, or looks at all of it or of the weights, each kind is in some of the runs.
STILL = {"augment.rotate": 0.0, "augment.zoom": 0.0, "augment.shift": 0.0}
RECIPE = STILL | {"augment.cutmix": 1.0, "augment.test_flip": True, "loss.label_smoothing": 0.1,
                  "optimizer.clip_norm": 1.0, "optimizer.ema_decay": 0.9, "data.image_size": 0,
                  "log_norms": True}
ONE, PMAP = {"parallel.count": 1}, {"parallel.compile": "pmap"}
STREAM = STILL | {"model.norm": "none", "augment.resized_crop": 0.5, "data.stream": True}
NORM = {"parallel.batch_norm": "device", "log_norms": True}
RUNS = {  # fields of the run; which one it must equal
    "recipe": (RECIPE | ONE, None),
    "jit": (RECIPE, "recipe"),
    "plain": (ONE, None),
    "jit, norm by device": (NORM, None),
    "pmap, norm by device": (NORM | PMAP, "jit, norm by device"),
    "streamed": (STREAM | ONE, None),
    "streamed, jit": (STREAM, "streamed"),
    "streamed, accumulated": (STREAM | {"accumulate": 4}, "streamed"),
}
STEPS = 12
# Momentum, augmentation, images enlarged in the step, a validation split that eight do not divide.
FIELDS = {"max_steps": STEPS, "log_every_steps": 1, "data.validation": 0.1, "data.image_size": 10,
          "test_every_epoch": True}


def xla_flags(devices):
    """The flags of a process with so many devices."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"


def start_two(server, workdir, **fields):
    """Start a run as two processes of two devices each, on two hosts where that can be imitated."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--processes=2"]
    changed = [f"--config.{name}={value}" for name, value in (FIELDS | fields).items()]
    return [processes.fork(server, workdir, *together, f"--process={index}", *changed, command=processes.SMALL,
                           XLA_FLAGS=xla_flags(2), OTHER_HOST="1" * index) for index in range(2)]


def end(both, code=0):
    for process in both:
        ended, _, err = processes.end(process)
        assert ended == code, err


def result(workdir):
    """The losses that it wrote down, its variables, and the gradients that it wrote down."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    gradients = [record["gradient"] for record in read_norms(workdir)]
    return [record["loss"] for record in records], load_run(workdir).variables, gradients


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return {"data.source": files.write_digits(tmp_path_factory.mktemp("images") / "digits", 400)}


def _train(root, runs, xla_flags, cache):
    os.environ |= {"XLA_FLAGS": xla_flags, "MODERN_CNN_CACHE": cache}
    runtime.configure()
    record.draw_curves = lambda *args: None
    for name, fields in runs.items():
        config = small.get_config()
        config.update_from_flattened_dict(FIELDS | fields)
        loop.train_and_evaluate(config, root / name)


def train(server, root, runs, devices=2):
    """Return {name: (losses, variables)} of runs that a process with so many devices trains."""
    process = server.Process(target=_train, args=(root, runs, xla_flags(devices), os.environ["MODERN_CNN_CACHE"]))
    process.start()
    process.join(600)
    assert process.exitcode == 0
    return {name: result(root / name) for name in runs}


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory, source):
    """{name: (losses, variables)} of the runs above, and of one of two processes."""
    root = tmp_path_factory.mktemp("devices")
    end(start_two(server, root / "two"))
    runs = {name: fields | (source if "data.stream" in fields else {}) for name, (fields, _) in RUNS.items()}
    eight = {"jit": runs.pop("jit")}
    return {"two": result(root / "two")} | train(server, root, runs) | train(server, root, eight, devices=8)


def same(got, want):
    assert len(got[0]) == len(want[0]) == STEPS + 2  # and validation and test at the end
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, (_, same) in RUNS.items() if same])
def test_losses_and_parameters_are_those_of_one_device(runs, name):
    same(runs[name], runs[RUNS[name][1]])


@pytest.mark.parametrize("name", ["jit", "pmap, norm by device"])
def test_gradients_are_those_of_one_device(runs, name):
    (_, _, got), (_, _, want) = runs[name], runs[RUNS[name][1]]
    assert len(got) == len(want) == STEPS
    for ours, theirs in zip(got, want, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
        assert min(ours.values()) > 1e-4


def test_two_processes_are_one_device(runs):
    same(runs["two"], runs["plain"])


@pytest.mark.slow
def test_every_augmentation_is_that_of_one_device(server, tmp_path):
    fields = RECIPE | {"augment.rotate": 10.0, "augment.resized_crop": 0.5, "augment.contrast": 0.4}
    trained = train(server, tmp_path, {"one": fields | ONE, "jit": fields, "pmap": fields | PMAP})
    same(trained["jit"], trained["one"])
    same(trained["pmap"], trained["one"])


@pytest.mark.slow
def test_a_stream_under_pmap_is_that_of_one_device(server, runs, source, tmp_path):
    same(train(server, tmp_path, {"pmap": STREAM | PMAP | source})["pmap"], runs["streamed"])


@pytest.mark.slow
def test_each_of_two_processes_decodes_its_half_of_a_stream(server, runs, source, tmp_path):
    end(start_two(server, tmp_path, **source, **STREAM, log_norms=True))
    same(result(tmp_path), runs["streamed"])
    assert [min(gradients.values()) > 1e-4 for gradients in result(tmp_path)[2]] == [True] * STEPS


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(server, tmp_path):
    fields = {"epochs": 400}
    both = start_two(server, tmp_path / "run", **fields, max_steps=4000, checkpoint_every_steps=0)
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").read_text():
        assert all(process.is_alive() for process in both)
        time.sleep(0.05)
    os.kill(both[1].pid, signal.SIGTERM)
    end(both, 128 + signal.SIGTERM)
    [step] = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert 0 < step < 4000
    end(start_two(server, tmp_path / "run", **fields, max_steps=step + 5))
    end(start_two(server, tmp_path / "straight", **fields, max_steps=step + 5))
    resumed, straight = result(tmp_path / "run"), result(tmp_path / "straight")
    np.testing.assert_allclose(resumed[0], straight[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("flags", "words"), [
    (["--processes=2"], "--process=0 of --processes=2: .* need a --coordinator"),
    (["--coordinator=127.0.0.1:1", "--processes=2", "--process=2"], "--process=2 of --processes=2: it must be below"),
])
def test_processes_that_cannot_be_are_refused(server, tmp_path, flags, words):
    code, _, err = processes.end(processes.fork(server, tmp_path / "run", *flags))
    assert code == 1
    assert re.search(words, err)


def test_norm_by_device_is_another_network(runs):
    assert np.abs(np.subtract(runs["jit, norm by device"][0], runs["plain"][0])).max() > 1e-3


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
