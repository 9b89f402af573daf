"""Eight devices give what one gives. They are made of this machine's cores, in a process of their own."""
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from modern_cnn.errors import UserError
from modern_cnn.training import evaluation, loop
from modern_cnn.training.mesh import Devices

ROOT = Path(__file__).resolve().parents[2]
RUNS = {  # flags of the run; which one it must equal
    "one": (["--config.parallel.count=1"], None),
    "jit": ([], "one"),
    "pmap": (["--config.parallel.compile=pmap"], "one"),
    "accumulated": (["--config.model.name=lenet", "--config.accumulate=4"], "whole"),
    "whole": (["--config.model.name=lenet", "--config.parallel.count=1"], None),
    "jit, norm by device": (["--config.parallel.batch_norm=device"], None),
    "pmap, norm by device": (["--config.parallel.batch_norm=device", "--config.parallel.compile=pmap"],
                             "jit, norm by device"),
}
# Batch statistics, momentum, augmentation, a validation split that eight do not divide.
FLAGS = ["--config.max_steps=25", "--config.log_every_steps=1", "--config.data.validation=0.1",
         "--config.data.image_size=16", "--config.test_every_epoch=True"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: (records of metrics.jsonl without clock times, variables)} of the runs above, each its own process."""
    root, environment = tmp_path_factory.mktemp("devices"), dict(os.environ)
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    results = {}
    for name, (flags, _) in RUNS.items():
        subprocess.run([sys.executable, str(ROOT / "scripts/train.py"), f"--config={ROOT / 'configs/quickstart.py'}",
                        f"--workdir={root / name}", *FLAGS, *flags], env=environment, check=True, capture_output=True)
        records = [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
        results[name] = [record["loss"] for record in records], evaluation.load_run(root / name)[1]
    return results


@pytest.mark.parametrize("name", [name for name, (_, same) in RUNS.items() if same])
def test_losses_and_parameters_are_those_of_one_device(runs, name):
    (losses, variables), (expected, wanted) = runs[name], runs[RUNS[name][1]]
    assert len(losses) == 25 + 2  # and validation and test at the end
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
    for got, want in zip(jax.tree.leaves(variables), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


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
    assert len(Devices(compile="pmap")) == jax.device_count()
