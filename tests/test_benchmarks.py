"""The benchmark times what it says it times; how long that takes is no test's business."""
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from configs import quickstart
from modern_cnn import benchmarks
from modern_cnn.errors import UserError
from modern_cnn.models import MODELS
from tests.data import files

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("who", ["ours", "torch", "library"])  # torch.compile builds C++ code for minutes
def test_everybody_learns_the_same_batch(who):
    case = benchmarks.Case("lenet", 8, (28, 28, 1), {}, "float32")
    step, seconds = (benchmarks.PEERS | {"ours": benchmarks.ours})[who](case)
    losses = [step() for _ in range(20)]
    assert seconds > 0
    assert losses[-1] < losses[0]
    assert abs(losses[0] - np.log(10)) < 0.5


def test_the_library_is_xlas_own_operations(monkeypatch):
    taken = []
    monkeypatch.setattr(benchmarks.steps, "train_step", lambda state, batch, key: taken.append(
        benchmarks.formulations.convolution((3, 3, 4, 40), (1, 1), ((1, 1), (1, 1)), 1, 4, (8, 8))) or (state, 0))
    case = benchmarks.Case("lenet", 8, (28, 28, 1), {}, "float32")
    benchmarks.ours(case)
    benchmarks.library(case)
    assert taken == ["canonical", "library"]


def test_ours_and_a_peer_in_turn():
    case = benchmarks.Case("lenet", 8, (28, 28, 1), {}, "bfloat16")
    own, other = benchmarks.compare(case, ["library"], 3)
    assert (own["who"], other["who"], own["dtype"], own["rounds"]) == ("ours", "library", "bfloat16", 3)
    assert own["ours_is_faster"] == 1
    assert own["min_ms"] <= own["median_ms"] <= own["max_ms"]
    assert np.isclose(own["images_per_second"], 8 / own["median_ms"] * 1e3)


def test_every_network_has_a_size():
    assert set(benchmarks.SIZES) <= set(MODELS)
    assert benchmarks.Case.of("resnet50").image_shape == (224, 224, 3)
    assert benchmarks.Case.of("lenet", 16).batch_size == 16


def test_the_script_writes_table_and_json(tmp_path):
    done = subprocess.run([sys.executable, "scripts/benchmark.py", "--models=mlp", "--peer=library", "--rounds=2",
                           f"--out={tmp_path / 'steps.json'}"], cwd=ROOT, capture_output=True, text=True, check=True)
    content = json.loads((tmp_path / "steps.json").read_text())
    assert [record["who"] for record in content["results"]] == ["ours", "library"]
    assert {"versions", "commit", "machine", "device"} <= content.keys()
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["network", "mlp", "mlp"]


@pytest.mark.parametrize(("change", "words"), [
    ({"names": ["lenett"]}, "no network 'lenett'; did you mean 'lenet'"),
    ({"peers": ["troch"]}, "no peer 'troch'; did you mean 'torch'"),
    ({"out": "/no/such/folder/x.json"}, "there is no folder /no/such/folder"),
])
def test_what_is_wrong_is_said_before_anything_is_timed(change, words):
    arguments = {"names": ["mlp"], "peers": [], "batch_size": 0, "dtype": "float32", "rounds": 1, "out": ""}
    with pytest.raises(UserError, match=words):
        benchmarks.report(**arguments | change)


def test_an_epoch_is_what_training_does(tmp_path):
    config = quickstart.get_config()
    config.data.batch_size = 256
    records = benchmarks.compare_epochs(config, ["torch"], 1)
    assert [record["who"] for record in records] == ["ours", "torch, 0 workers", f"torch, {os.cpu_count()} workers",
                                                     "torch, channels-last"]
    assert np.isclose(records[0]["images_per_second"], 1437 / records[0]["median_ms"] * 1e3)
    epoch, _ = benchmarks.our_epoch(config)
    theirs, _ = benchmarks.torch_epoch(config, 0)
    for each in (epoch, theirs):
        losses = [each() for _ in range(4)]
        assert losses[-1] < losses[0]


def test_loading_is_of_the_same_images(tmp_path):
    files.write_images(tmp_path / "train", count=10, size=(40, 30), ending=".jpg")
    files.write_images(tmp_path / "test", count=2, ending=".jpg")
    config = quickstart.get_config()
    config.update(data={"source": f"folder:{tmp_path}", "stream": True, "image_size": 16, "batch_size": 8},
                  augment={"resized_crop": 0.3})
    records = benchmarks.compare_loading(config, ["torch", "tf.data"], 1)
    assert [record["who"] for record in records] == [
        "ours", "torch, 0 workers", f"torch, {os.cpu_count()} workers", "tf.data"]
    assert np.isclose(records[0]["images_per_second"], 16 / records[0]["median_ms"] * 1e3)
    dataset = benchmarks.sources.load(config.data)
    for load in (partial(benchmarks.torch_loading, workers=0), benchmarks.tf_loading):
        assert len(load(config, dataset)()) == 2


def test_whole_runs_are_repeated_with_other_seeds(tmp_path):
    done = subprocess.run([sys.executable, "scripts/benchmark.py", "--config", "configs/quickstart.py", "--seeds=2",
                           "--config.max_steps=60", f"--out={tmp_path / 'runs.json'}"], cwd=ROOT, capture_output=True,
                          text=True, check=True)
    results = json.loads((tmp_path / "runs.json").read_text())["results"]
    assert [(record["seed"], record["step"]) for record in results] == [(0, 60), (1, 60)]
    assert results[0]["test_accuracy"] != results[1]["test_accuracy"]
    mean = 50 * sum(record["test_accuracy"] for record in results)
    assert f"2 seeds: test accuracy {mean:.2f} % as mean" in done.stdout


def test_start_up_is_timed_with_empty_and_with_warm_caches(tmp_path):
    out = tmp_path / "startup.json"
    done = subprocess.run([sys.executable, "scripts/benchmark.py", "--config=configs/quickstart.py", "--startup",
                           "--rounds=1", f"--out={out}"], cwd=ROOT, capture_output=True, text=True, check=True)
    (empty,), (warm,) = json.loads(out.read_text())["first_step_s"].values()
    assert empty > warm > 1
    assert [f"{seconds:.1f} s after the command" in done.stdout for seconds in (empty, warm)] == [True, True]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--seeds=2"], "--seeds, --startup, --trials and --loading need a --config"),
    (["--config=configs/quickstart.py", "--startup", "--config.data.batch_size=5000"], "is more than the 1437"),
    (["--config=configs/quickstart.py", "--loading"], "--loading times random crops of a streamed folder"),
    (["--config=configs/quickstart.py", "--seeds=1", "--config.data.batch_size=5000"], "is more than the 1437"),
])
def test_runs_that_cannot_be(arguments, words):
    done = subprocess.run([sys.executable, "scripts/benchmark.py", *arguments], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
