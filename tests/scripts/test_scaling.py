"""The bytes are those of the parameters; the predictions are sums that can be done by hand."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import scaling

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = scaling.Cluster(inside=100.0, between=50.0, hop_inside=0.5, hop_between=2.0, overlapped=0.5)
METRICS = 4 * 5  # of a batch: the loss, three counts and the step
PROGRAM = """
import json, jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
from scripts.bench.scaling import traffic
print(json.dumps({f"{name} {norm} {devices}": traffic(name, norm, devices=devices)
                  for name, norm, devices in (("lenet", "global", 8), ("lenet", "global", 2), ("lenet_bn", "global", 8),
                                              ("lenet_bn", "device", 8))}))
"""


@pytest.fixture(scope="module")
def sent():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def total(traffic):
    small, large = traffic
    assert max(small) <= scaling.SMALL < min(large)
    return sum(small) + sum(large)


def test_gradients_are_all_that_a_network_without_norm_sends(sent):
    assert 0 <= total(sent["lenet global 8"]) - 4 * 61_706 <= METRICS
    assert sent["lenet global 8"] == sent["lenet global 2"]


def test_whole_batch_norm_sends_its_statistics_too(sent):
    own, whole = sent["lenet_bn device 8"], sent["lenet_bn global 8"]
    running = 4 * 2 * (6 + 16 + 120 + 84)  # mean and variance of each channel
    assert 0 <= total(own) - 4 * 44_878 - running <= METRICS
    assert total(whole) >= 4 * 44_878 + running  # forward; backward as many again, of which some are also gradients
    assert len(whole[0]) > len(own[0]) + 4


def test_an_all_reduce_by_hand():
    assert scaling.all_reduce_seconds(1000, 0, 1, CLUSTER) == 0
    assert scaling.all_reduce_seconds(800, 0, 8, CLUSTER) == pytest.approx(2 * 800 * 7 / 8 / 100)
    assert scaling.all_reduce_seconds(800, 0, 32, CLUSTER) == pytest.approx(2 * 800 * (7 / 8 / 100 + 3 / 4 / 50))
    assert scaling.all_reduce_seconds(0, 3, 8, CLUSTER) == 3 * 2 * 3 * 0.5
    assert scaling.all_reduce_seconds(0, 1, 64, CLUSTER) == 2 * 3 * (0.5 + 2)


def test_a_prediction_by_hand():
    step = scaling.predict(([0], [500, 300]), 20.0, 8, CLUSTER)
    assert step == pytest.approx((3, 20, 20 / 43, 20 / 33))


def test_the_script_prints_tables(script):
    done = script("scaling.py", "--models=lenet", "--devices=8", "--batch_size=64")
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["global", "device"]
    assert "0.2" in rows[2].split("|")[5]  # MB
    wrong = script("scaling.py", "--models=resnet500")
    assert wrong.code == 1
    assert "did you mean 'resnet50'" in wrong.err
