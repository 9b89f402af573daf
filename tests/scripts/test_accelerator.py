"""scripts/accelerator.sh: all its parts run, so that no mistake costs the minutes that an accelerator is lent for."""
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.test_house import config_module

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (ROOT / "scripts/accelerator.sh").read_text()


def test_its_configs_exist():
    configs = set(re.findall(r"\b(\w+)\.py(?::(\w+))?\b", SCRIPT)) - {(name, "") for name in (
        "train", "benchmark", "sweep", "pages", "sitecustomize")}
    assert {"speedrun", "resnet", "densenet"} < {name for name, _ in configs}
    for name, variant in configs:
        config_module(ROOT / f"configs/{name}.py").get_config(*filter(None, [variant]))


@pytest.mark.slow
def test_all_parts_run_for_a_moment(tmp_path):
    done = subprocess.run(["bash", ROOT / "scripts/accelerator.sh", "--tiny"], capture_output=True, text=True,
                          env=os.environ | {"OUT": str(tmp_path)}, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + (tmp_path / "log.txt").read_text()[-2000:]
    assert done.stdout.count(": code 0 after ") == 3 + 3 + 8 + 2
    errors = json.loads((tmp_path / "exactness.json").read_text())["results"]
    assert max(each["error"] for each in errors if each["precision"] == "highest") < 1e-5
    assert json.loads((tmp_path / "steps.json").read_text())["results"][0]["who"] == "ours"
    with tarfile.open(tmp_path / "runs.tar.gz") as archive:
        names = archive.getnames()
    assert {f"runs/{name}/metrics.jsonl" for name in ("speedrun-2", "nin", "lenet-alone")} <= {*names}
    assert not any("checkpoints/" in name for name in names)
