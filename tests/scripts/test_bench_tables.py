"""A table has a row for each program, and wrong input is reported before anything is timed."""
import json
import sys
from functools import partial

import pytest

from modern_cnn import runtime
from modern_cnn.errors import UserError
from modern_cnn.runs import workdir
from scripts.bench import steps, timing
from scripts.publish import speed


def test_the_script_writes_table_and_json(script, tmp_path):
    done = script("benchmark.py", "--models=mlp", "--peer=library", "--rounds=1", f"--out={tmp_path / 'steps.json'}")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "steps.json").read_text())
    assert [record["who"] for record in content["results"]] == ["ours", "library"]
    assert {"versions", "commit", "machine", "device", "allocator"} <= content.keys()
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["network", "mlp", "mlp"]


@pytest.mark.parametrize(("change", "words"), [
    ({"names": ["lenett"]}, "no network 'lenett'; did you mean 'lenet'"),
    ({"peers": ["troch"]}, "no peer 'troch'; did you mean 'torch'"),
    ({"out": "/no/such/folder/x.json"}, "there is no folder /no/such/folder"),
])
def test_wrong_input_is_reported_before_anything_is_timed(change, words, monkeypatch):
    given = {"names": ["mlp"], "peers": [], "out": ""} | change
    monkeypatch.setitem(steps.PROGRAMS["step"], "ours", lambda case: pytest.fail("compiled"))
    with pytest.raises(UserError, match=words):
        timing.report("ms a step", "float32", 1, given["out"],
                      partial(steps.compare_steps, peers=given["peers"], rounds=1), steps.make_cases(given["names"]))


def test_the_version_of_a_peer_is_written(tmp_path, monkeypatch):
    """The peer runs in another process, so this one need not have imported it."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for who in ("library", "torch_kept"):
        timing.write_measurements(str(tmp_path / "x.json"), results=[{"who": "ours"}, {"who": who}])
        assert ("torch" in json.loads((tmp_path / "x.json").read_text())["versions"]) == (who == "torch_kept")


def test_a_setting_of_the_allocator_is_named(monkeypatch):
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_ARENA_MAX"):
        monkeypatch.delenv(name, raising=False)
    assert runtime.allocator() == ""
    for kept, said in ((False, "the system's"), (True, "the system's; ours keep their memory")):
        monkeypatch.setattr(runtime, "keep_memory", lambda kept=kept: kept)
        assert timing.allocator("ours") == said
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("LD_PRELOAD", "jemalloc.so")
    assert timing.allocator("ours") == "LD_PRELOAD=jemalloc.so MALLOC_ARENA_MAX=1"


@pytest.mark.parametrize(("info", "words"), [
    ({"model name": "AMD EPYC", "cpu family": "26", "flags": "avx2 avx512f"}, "2 cores of AMD EPYC family 26, AVX-512"),
    ({"model name": "AMD EPYC 9B14", "cpu family": "25", "flags": "avx2"}, "2 cores of AMD EPYC 9B14, AVX2"),
    ({"model name": "Neoverse-N1"}, "2 cores of Neoverse-N1"), ({"model name": "Neoverse"}, "2 cores of Neoverse"),
], ids=str)
def test_a_processor_is_named_so_that_it_is_told_from_others(info, words, monkeypatch):
    monkeypatch.setattr(workdir.runtime, "cpu_info", lambda: info)
    monkeypatch.setattr(workdir.runtime, "cores", lambda: 2)
    assert workdir.describe_machine()["machine"].endswith(f", {words}")


def test_an_evaluation_is_of_networks(script):
    done = script("benchmark.py", "--evaluation", "--operations", "--models=mlp")
    assert (done.code, done.out) == (1, "")
    assert "leave out --operations" in done.err


def measured(path, phase, machine, **ratios):
    records = [{"phase": phase, "model": "lenet", "batch_size": 8, "image_shape": [28, 28, 1], "dtype": "float32",
                "who": who, "median_ms": 2000.0 * ratio, "images_per_second": 4.0, "rounds": 5,
                "ours_is_faster": ratio, "ours_is_faster_range": [ratio - 0.1, ratio + 0.1]}
               for who, ratio in ({"ours": 1.0} | ratios).items()]
    path.write_text(json.dumps({"machine": f"Linux x86_64, {machine}", "versions": {"jax": "1", "torch": "2"},
                                "platform": "cpu", "commit": "abc", "allocator": "the system's", "results": records}))
    return path


def test_pages_keep_one_file_for_each_processor_and_phase(tmp_path):
    folder = tmp_path / "speed"
    first = measured(tmp_path / "a.json", "step", "2 cores of X, AVX2", torch=0.5)
    second = measured(tmp_path / "b.json", "step", "2 cores of X, AVX2", torch=0.9, torch_kept=0.7, library=2.0)
    other = measured(tmp_path / "c.json", "step", "2 cores of Y, AVX-512", torch=1.3)
    forward = measured(tmp_path / "d.json", "evaluation", "2 cores of X, AVX2", torch_compile=0.8)
    speed.keep([first], folder)
    speed.keep([second, other, forward], folder)
    assert len([*folder.iterdir()]) == 3
    text = speed.tables(folder, "step")
    assert text.count("**2 cores of") == 2
    assert ("| `lenet`, batch 8, 28x28x1 | 2,000.0 | 4 | 1,800.0 | 0.90x (0.80 to 1.00) "
            "| 1,400.0 | 0.70x (0.60 to 0.80) | 4,000.0 "
            "| 2.00x (1.90 to 2.10) |") in text
    assert "0.80x (0.70 to 0.90)" in speed.tables(folder, "evaluation")
    assert "0.80x" not in text
    assert " ".join(speed.sentence(folder).split()) == (
        "On 2 cores of X, AVX2, a training step is 0.90 to 0.90 times as fast as PyTorch's, 0.70 to 0.70 times as fast "
        "as PyTorch's with its memory kept and 2.00 to 2.00 times as fast as stock Flax's (1 "
        "network). "
        "On 2 cores of Y, AVX-512, a training step is 1.30 to 1.30 times as fast as PyTorch's (1 network).")
    speed.keep([measured(tmp_path / "f.json", "step", "2 cores of Y, AVX-512", ours_system=1.2)], folder)
    assert "cores of Y" not in speed.sentence(folder), "compared with nobody else"
    assert "ours, memory not kept, ms" in speed.tables(folder, "step")
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(UserError, match=r"e\.json holds no times of steps or evaluations"):
        speed.keep([tmp_path / "e.json"], folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for old, new, words in (('"cpu"', '"gpu", "device": "X9"', "was measured on X9: --speed is for CPUs"),
                            ("float32", "bfloat16", "times in bfloat16: the tables are of float32")):
        (tmp_path / "g.json").write_text(first.read_text().replace(old, new))
        with pytest.raises(UserError, match=words):
            speed.keep([tmp_path / "g.json"], folder)
    (tmp_path / "g.json").write_text("[]")
    with pytest.raises(UserError, match=r"g\.json"):
        speed.keep([tmp_path / "g.json"], folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
