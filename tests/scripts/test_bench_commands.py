"""Whole commands are timed to their first step or their end; the last line of one that fails is repeated."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from modern_cnn.errors import UserError
from scripts.bench import timing

ROOT = Path(__file__).resolve().parents[2]


def test_a_long_command_says_how_far_it_is(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    for seconds in timing.along([1, 3, 3, 9], "rounds"):
        now += seconds
    assert capsys.readouterr() == ("", "rounds: 1 of 4\nrounds: 4 of 4\n")
    case = timing.Case("lenet", 8, (28, 28, 1), "float32")
    monkeypatch.undo()
    timing.compare("step", case, {"ours": timing.Runner(lambda: None)}, 1, 0, 8)
    assert capsys.readouterr().err == "lenet, rounds: 1 of 1\n"


@pytest.mark.slow
def test_whole_runs_are_repeated_with_other_seeds(tmp_path):
    done = subprocess.run([sys.executable, "scripts/benchmark.py", "--config", "configs/quickstart.py", "--seeds=2",
                           "--config.max_steps=60", f"--out={tmp_path / 'runs.json'}"], cwd=ROOT, capture_output=True,
                          text=True, check=True)
    results = json.loads((tmp_path / "runs.json").read_text())["results"]
    assert [(record["seed"], record["step"]) for record in results] == [(0, 60), (1, 60)]
    assert results[0]["test_accuracy"] != results[1]["test_accuracy"]
    mean = 50 * sum(record["test_accuracy"] for record in results)
    assert f"2 seeds: test accuracy {mean:.2f} % as mean" in done.stdout


TRAIN = """
import os, pathlib, sys, time
cache = pathlib.Path(os.environ["MODERN_CNN_CACHE"])
time.sleep(0 if cache.exists() else 3)
cache.mkdir(exist_ok=True)
workdir, = [word.partition("=")[2] for word in sys.argv if word.startswith("--workdir=")]
assert "--config.log_every_steps=1" in sys.argv
pathlib.Path(workdir).mkdir()
pathlib.Path(workdir, "metrics.jsonl").write_text("{}")
time.sleep(600)
"""


def test_a_start_ends_with_the_first_step(tmp_path, monkeypatch, capsys):
    """Of a program that waits for what is not in its cache, and would go on after its first step."""
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.setattr(timing, "SCRIPTS", tmp_path)
    timing.report_startup(["--config=x"], 1, str(tmp_path / "startup.json"))
    (empty,), (warm,) = json.loads((tmp_path / "startup.json").read_text())["first_step_s"].values()
    assert empty > 3
    assert warm > 0
    out = capsys.readouterr().out
    assert [f"{seconds:.1f} s after the command" in out for seconds in (empty, warm)] == [True, True]
    (tmp_path / "train.py").write_text("import sys; sys.exit('error: no')")
    with pytest.raises(UserError, match=r"train\.py --config=x .*failed: error: no$"):
        timing.report_startup(["--config=x"], 1, "")


@pytest.mark.slow
def test_start_up_is_timed_with_empty_and_with_warm_caches(script, tmp_path):
    out = tmp_path / "startup.json"
    done = script("benchmark.py", "--config=configs/quickstart.py", "--startup", "--rounds=1", f"--out={out}")
    assert done.code == 0, done.err
    (empty,), (warm,) = json.loads(out.read_text())["first_step_s"].values()
    assert empty > warm > 1
    assert [f"{seconds:.1f} s after the command" in done.out for seconds in (empty, warm)] == [True, True]


@pytest.mark.slow
def test_trials_together_and_apart(tmp_path):
    out = tmp_path / "trials.json"
    done = subprocess.run([sys.executable, "scripts/benchmark.py", "--config=configs/quickstart.py", "--trials=2",
                           "--config.max_steps=10", f"--out={out}"], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    content = json.loads(out.read_text())
    assert content["trials"] == 2
    assert list(content["seconds"]) == ["together", "one after the other", "train.py"]
    assert min(content["seconds"].values()) > 1
    ratio = content["seconds"]["train.py"] / content["seconds"]["together"]
    assert f"{ratio:.2f} times as long as together" in done.stdout


@pytest.mark.parametrize(("arguments", "words"), [
    (["--seeds=2"], "--seeds, --startup, --trials and --loading need a --config"),
    (["--config=configs/quickstart.py", "--startup", "--config.data.batch_size=5000"], "is more than the 1437"),
    (["--operations", "--models=mlp", "--out=x.json"], "--operations prints its tables and writes no file"),
    (["--config=configs/quickstart.py", "--dtype=bfloat16"], "leave out --dtype"),
    (["--config=configs/quickstart.py", "--loading"], "--loading times random crops of a streamed folder"),
    pytest.param(["--config=configs/quickstart.py", "--seeds=1", "--config.data.batch_size=5000"],
                 "is more than the 1437", marks=pytest.mark.slow),
])
def test_runs_that_cannot_be(script, arguments, words):
    done = script("benchmark.py", *arguments)
    assert done.code == 1
    *said, error = done.err.splitlines()
    assert error.startswith("error: ")
    assert words in error
    assert said in ([], ["rounds: 1 of 7"], ["seeds: 1 of 1"])
