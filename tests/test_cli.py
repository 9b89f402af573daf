"""Bad input to the scripts: one line on stderr, an exit code above 0, and no new directory."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modern_cnn import settings
from tests.forked import Result

ROOT = Path(__file__).resolve().parents[1]
CONFIG = f"--config={ROOT}/configs/lenet.py"
DIGITS = ("--config.data.source=digits", "--config.data.image_size=28")


def refused(result, code, *words):
    """Assert the exit code, and an error of one line that holds all the `words`."""
    assert result.code == code, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    assert len(result.err) < 610
    assert "Traceback" not in result.out + result.err
    for word in words:
        assert str(word) in result.err


BAD_FLAGS = {
    "misspelt field": ([CONFIG, "--config.data.batchsize=3"], ["config.data has no field 'batchsize'", "'batch_size'"]),
    "misspelt section": ([CONFIG, "--config.optimiser.name=sgd"], ["no field 'optimiser'", "did you mean 'optimizer'"]),
    "unknown option": ([CONFIG, "--config.model.nrom=batch"], ["config.model has no field 'nrom'", "mean 'norm'"]),
    "field of a value": ([CONFIG, "--config.epochs.foo=3"], ["config.epochs has no field 'foo'"]),
    "wrong type": ([CONFIG, "--config.epochs=many"], ["config.epochs=many", "int"]),
    "fraction for an integer": ([CONFIG, "--config.epochs=1.5"], ["config.epochs=1.5", "int"]),
    "text for a fraction": ([CONFIG, "--config.data.validation=half"], ["config.data.validation=half", "float"]),
    "value for a section": ([CONFIG, "--config.data=digits"], ["config.data is a section", "--config.data.FIELD"]),
    "field without value": ([CONFIG, "--config.epochs"], ["--config.epochs"]),
    "no config": ([], ["--config is missing"]),
    "missing config file": (["--config=configs/lent.py"], ["no config file", "configs/lent.py"]),
    "empty config name": (["--config="], ["empty"]),
    "config is a folder": ([f"--config={ROOT}/configs"], [f"{ROOT}/configs"]),
    "unknown variant": ([f"{CONFIG}:lenet_nb"], ["no variant 'lenet_nb'", "'lenet_bn'", "lenet_relu_bn"]),
    "variant of none": ([f"--config={ROOT}/configs/mlp.py:big"], ["no variants"]),
    "unknown flag": ([CONFIG, "--wrokdir=x"], ["'wrokdir'", "workdir"]),
    "extra argument": ([CONFIG, "lenet_bn"], ["unexpected argument 'lenet_bn'"]),
}


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_bad_flags(script, tmp_path, flags, words):
    refused(script("train.py", *flags), 2, *words)
    assert not any(tmp_path.iterdir())


BAD_CONFIGS = {
    "network": (["--config.model.name=lent", *DIGITS], ["no network 'lent'", "did you mean 'lenet'"]),
    "initializer": (["--config.model.initializer=xavier", *DIGITS], ["xavier", "xavier_uniform"]),
    "norm": (["--config.model.norm=bach", *DIGITS], ["bach", "batch"]),
    "optimizer": (["--config.optimizer.name=adma", *DIGITS], ["config.optimizer.name='adma'", "did you mean 'adam'"]),
    "schedule": (["--config.schedule.name=cosin", *DIGITS], ["config.schedule.name='cosin'", "did you mean 'cosine'"]),
    "normalize": (["--config.data.normalize=units", *DIGITS], ["'units'", "did you mean 'unit'"]),
    "source": (["--config.data.source=foldr:/tmp"], ["'foldr'", "did you mean 'folder'"]),
    "empty source": (["--config.data.source="], ["config.data.source=''", "digits", "folder:DIR"]),
    "directory": (["--config.data.source=idx:/no/such"], ["no directory /no/such"]),
    "directory of something else": ([f"--config.data.source=idx:{ROOT}"], [ROOT, "train-images-idx3-ubyte"]),
    "batch larger than the set": (["--config.data.batch_size=5000", *DIGITS], ["5000", "1437", "digits"]),
    "no batch": (["--config.data.batch_size=0", *DIGITS], ["config.data.batch_size=0"]),
    "no epochs": (["--config.epochs=0", *DIGITS], ["config.epochs"]),
    "image too small": (["--config.data.source=digits"], ["'lenet'", "8x8x1", "--config.data.image_size"]),
    "image size": (["--config.data.source=digits", "--config.data.image_size=-1"], ["config.data.image_size=-1"]),
    "validation": (["--config.data.validation=1.5", *DIGITS], ["config.data.validation=1.5", "between 0 and 1"]),
    "classes": (["--config.data.num_classes=3", *DIGITS], ["outside the 3 classes", "digits"]),
}


@pytest.mark.parametrize(("flags", "words"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_config(script, tmp_path, flags, words):
    refused(script("train.py", CONFIG, *flags, f"--workdir={tmp_path}/run"), 1, *words)
    assert not any(tmp_path.iterdir())


def test_unknown_data_set(script, tmp_path):
    result = script("train.py", CONFIG, "--config.data.source=fasion_mnist", f"--workdir={tmp_path}/run")
    refused(result, 1, "'fasion_mnist'", "did you mean 'fashion_mnist'", "sources that work offline")
    assert not any(tmp_path.iterdir())


def test_undecodable_image_is_named(script, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").write_text("no image")
    result = script("train.py", CONFIG, f"--config.data.source=folder:{tmp_path}/images", f"--workdir={tmp_path}/run")
    assert result.code == 1
    *warnings, error = result.err.splitlines()
    assert f"{tmp_path}/images/cat/1.png does not decode" in warnings[0]
    assert re.match(r"error: .*do not decode: cat/1\.png, dog/1\.png", error)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_unwritable_workdir(script, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        refused(script("train.py", CONFIG, *DIGITS, f"--workdir={workdir}"), 1, f"cannot write the workdir {workdir}")


@pytest.mark.parametrize(("kind", "workdir"), [("folder", "set/runs/a"), ("idx", "set"), ("cifar", "there/../set/run")])
def test_a_workdir_in_the_folder_of_the_data(script, tmp_path, kind, workdir):
    """Its pictures would be images of the set; nothing is written there."""
    (tmp_path / "set").mkdir()
    result = script("train.py", CONFIG, f"--config.data.source={kind}:{tmp_path}/set", f"--workdir={workdir}")
    refused(result, 1, f"the workdir {workdir} lies in the folder of the data, {tmp_path}/set")
    assert [*tmp_path.rglob("*")] == [tmp_path / "set"]


def test_config_file_that_raises(script, tmp_path):
    for text, words in {"def get_config(": ["own.py", "line 1"], "import nothing": ["No module named 'nothing'"],
                        "def get_config():\n    return nothing": ["NameError", "nothing"],
                        "def get_config():\n    return {}['x']": ["KeyError: 'x'"], "": ["get_config"]}.items():
        (tmp_path / "own.py").write_text(text)
        refused(script("train.py", f"--config={tmp_path}/own.py"), 2, *words)


@pytest.mark.parametrize("lack", [
    "jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 32824642624 bytes.')", "MemoryError()"])
def test_too_little_memory(lack):
    code = f"import jax\nfrom modern_cnn import cli\ndef main():\n    raise {lack}\ncli.run(main)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    said = "32824642624 bytes" if "jax" in lack else "MemoryError"
    refused(Result(result.returncode, result.stdout, result.stderr), 1, "out of memory", said, "config.accumulate")


def test_evaluate_without_a_run(script, tmp_path):
    refused(script("evaluate.py"), 2, "--workdir is missing")
    refused(script("evaluate.py", "--workdir=nowhere"), 1, "nowhere is not a run's workdir", "config.json")
    refused(script("evaluate.py", f"--workdir={tmp_path}"), 1, f"{tmp_path} is not a run's workdir")
    refused(script("evaluate.py", "--workdir=x", "--splitt=test"), 2, "'splitt'", "split")
    (tmp_path / "config.json").write_text("{")
    refused(script("evaluate.py", f"--workdir={tmp_path}"), 1, f"cannot read {tmp_path}/config.json")


def test_evaluate_on_splits_and_sources_that_do_not_exist(script, tmp_path):
    run = f"--workdir={tmp_path}/run"
    trained = script("train.py", f"--config={ROOT}/configs/mlp.py", "--config.data.source=digits",
                     "--config.max_steps=1", "--config.test_every_epoch=False", run)
    assert trained.code == 0, trained.err
    for flags in ([], ["--report=report"]):
        scored = script("evaluate.py", run, *flags)
        assert json.loads(scored.out.splitlines()[-1])["count"] == 360
        assert (tmp_path / "report" / "report.html").exists() == bool(flags)
    refused(script("evaluate.py", run, "--split=tset"), 1, "no split 'tset'", "train, test")
    refused(script("evaluate.py", run, "--source=idx:/no/such"), 1, "no directory /no/such")
    for flag in ("--layout=classes", "--skip_damaged"):
        refused(script("evaluate.py", run, flag), 1, "--source, which is missing")


@pytest.mark.parametrize(("name", "flags"), [
    ("train.py", ["--config", "--workdir", "--profile", "--debug_nans"]),
    ("evaluate.py", ["--workdir", "--weights", "--split", "--source", "--report"]),
    ("summarize.py", ["--model", "--image_size", "--option", "--json", "--list"]),
    ("import_weights.py", ["--model", "--weights", "--workdir", "--export", "--classes"]),
    ("export.py", ["--workdir", "--out", "--format", "--platforms"]),
    ("predict.py", ["--workdir", "--top_k", "--format", "--out", "--embeddings"])])
def test_help(script, name, flags):
    result = script(name, "--help")
    text = result.out + result.err
    assert "Traceback" not in text
    assert f"python scripts/{name} --" in text
    for flag in flags:
        assert re.search(rf"^  --(\[no\])?{flag.removeprefix('--')}: ", text, re.MULTILINE), flag


def test_help_lists_the_fields_of_a_config(script):
    """Each with its value in that config and its meaning; without a config it says where they are."""
    text = script("train.py", f"{CONFIG}:lenet_bn", "--help").out
    lines = dict(line.split(None, 1) for line in text.splitlines() if line.startswith("--config."))
    assert {name.removeprefix("--config.") for name in lines} >= {
        name for name, field in settings.FIELDS.items() if field.default is not None}
    assert lines["--config.optimizer.learning_rate"].split() == ["1.0", "learning", "rate", "after", "the", "warm-up"]
    assert "an option of the network" in lines["--config.model.activation"]
    assert "docs/config.md" in script("train.py", "--help").out
    assert "docs/config.md" not in script("predict.py", "--help").out


def test_a_new_process_reports_the_same_error(script, tmp_path):
    """The other tests rely on this: a forked process behaves as a new one does."""
    flags = ["train.py", CONFIG, "--config.data.batch_size=5000", *DIGITS, f"--workdir={tmp_path}/run"]
    result = subprocess.run([sys.executable, ROOT / "scripts" / flags[0], *flags[1:]], cwd=tmp_path,
                            capture_output=True, text=True, check=False)
    refused(Result(result.returncode, result.stdout, result.stderr), 1, "5000", "1437")
    assert script(*flags).err == result.stderr
    assert not any(tmp_path.iterdir())


def test_predict_and_export_without_a_run(script, tmp_path):
    refused(script("predict.py", "cat.png"), 2, "--workdir is missing")
    refused(script("predict.py", "--workdir=nowhere"), 1, "no files")
    refused(script("predict.py", "--workdir=nowhere", "cat.png"), 1, "there is no file or folder cat.png")
    refused(script("predict.py", "--workdir=nowhere", ROOT / "docs"), 1, "nowhere is not a run's workdir")
    refused(script("export.py", "--workdir=nowhere"), 2, "--out is missing")
    refused(script("export.py", "--workdir=nowhere", "--out=x"), 1, "nowhere is not a run's workdir")
    refused(script("export.py", "--workdir=x", "--out=x", "--format=tflite"), 2, "stablehlo", "onnx")
    assert not any(tmp_path.iterdir())


def test_commands_of_the_same_second_get_directories_of_their_own(tmp_path):
    code = ("import time\nfrom modern_cnn import cli\ntime.strftime = lambda form: 'NOW'\n"
            "for _ in range(3):\n    print(cli.new_workdir('sweep', 'configs/lenet.py:lenet_bn'))\n"
            "open('runs/sweep-lenet-lenet_bn-NOW-2/kept', 'w').close()")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
                            capture_output=True, text=True, check=True)
    name = "runs/sweep-lenet-lenet_bn-NOW"
    assert result.stdout.split() == [name, f"{name}-2", f"{name}-3"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{Path(name).name}-2"], "empty ones are removed"


def test_runs_may_be_a_link_to_nothing(script, tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "nowhere" / "scratch")
    refused(script("train.py", CONFIG, *DIGITS), 1, "cannot make runs/lenet-")


def test_a_run_that_is_refused_leaves_no_directory(script, tmp_path):
    refused(script("train.py", CONFIG, "--config.data.source=nothing"), 1, "nothing")
    assert not [*tmp_path.glob("runs/*")]
    (tmp_path / "runs").rmdir()
    (tmp_path / "runs").write_text("in the way")
    refused(script("train.py", CONFIG, *DIGITS), 1, "cannot make runs/lenet-", "choose a --workdir")
