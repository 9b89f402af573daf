"""The benchmark times what it says it times; how long that takes is no test's business."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modern_cnn import benchmarks
from modern_cnn.errors import UserError
from modern_cnn.models import MODELS

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
        benchmarks.formulations.convolution((3, 3), (1, 1), ((1, 1), (1, 1)), 1, 4, (8, 8))) or (state, 0))
    case = benchmarks.Case("lenet", 8, (28, 28, 1), {}, "float32")
    benchmarks.ours(case)
    benchmarks.library(case)
    assert taken == ["canonical", "library"]


def test_ours_and_a_peer_in_turn():
    case = benchmarks.Case("lenet", 8, (28, 28, 1), {}, "bfloat16")
    own, other = benchmarks.compare(case, ["library"], 3)
    assert (own["who"], other["who"], own["dtype"], own["rounds"]) == ("ours", "library", "bfloat16", 3)
    assert own["ours_is_faster"] == 1
    assert own["min_ms"] <= own["step_ms"] <= own["max_ms"]
    assert np.isclose(own["images_per_second"], 8 / own["step_ms"] * 1e3)


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
