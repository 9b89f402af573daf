"""A table has a row for each program, and wrong input is reported before anything is timed."""
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from modern_cnn.errors import UserError
from scripts.bench import steps, timing

ROOT = Path(__file__).resolve().parents[2]


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
def test_wrong_input_is_reported_before_anything_is_timed(change, words, monkeypatch):
    given = {"names": ["mlp"], "peers": [], "out": ""} | change
    monkeypatch.setattr(steps, "our_step", lambda case: pytest.fail("compiled"))
    with pytest.raises(UserError, match=words):
        timing.report("ms a step", "float32", 1, given["out"],
                      partial(steps.compare_steps, peers=given["peers"], rounds=1), steps.make_cases(given["names"]))
