"""A table has a row for each program, and wrong input is reported before anything is timed."""
import json
from functools import partial

import pytest

from modern_cnn.errors import UserError
from scripts.bench import steps, timing


def test_the_script_writes_table_and_json(script, tmp_path):
    done = script("benchmark.py", "--models=mlp", "--peer=library", "--rounds=1", f"--out={tmp_path / 'steps.json'}")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "steps.json").read_text())
    assert [record["who"] for record in content["results"]] == ["ours", "library"]
    assert {"versions", "commit", "machine", "device"} <= content.keys()
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["network", "mlp", "mlp"]


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
