"""Damage to the files of a run: the same answer, a warning or a refusal, but never another answer in silence."""
import errno
import fcntl
import json
import os
import shutil
import threading

import jax
import numpy as np
import pytest

from modern_cnn.errors import UserError, parse_json, sealed
from modern_cnn.runs import loop, workdir
from modern_cnn.runs.checkpoints import Checkpoints, saved_steps
from modern_cnn.runs.load import load_run
from modern_cnn.runs.log import read_metrics
from modern_cnn.runs.record import Record

# TensorStore leaves futures of a failed read to the garbage collector, after Orbax closed their event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
BEST, STEPS = 8, [8, 24, 32]  # of the four epochs below


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four epochs of which the first is the best on validation."""
    from configs import base

    config, scores, write = base.get_config(), iter([0.9, 0.1, 0.3, 0.2]), Record.write_scores
    config.update_from_flattened_dict({
        "epochs": 4, "log_every_steps": 0, "model.name": "mlp", "data.source": "digits", "data.batch_size": 128,
        "data.validation": 0.2})
    config.model.hidden_sizes = (16,)

    def scripted(self, step, split, means):
        write(self, step, split, {"accuracy": next(scores), "loss": 1.0} if split == "validation" else means)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "write_scores", scripted)
        loop.train_and_evaluate(config, tmp_path_factory.mktemp("damage") / "run")
    return config, tmp_path_factory.getbasetemp() / "damage0" / "run"


@pytest.fixture
def run(finished, tmp_path):
    """(Its config, a copy of it to damage)."""
    shutil.copytree(finished[1], tmp_path / "run")
    return finished[0], tmp_path / "run"


def flip(path):
    """Change one digit in the middle of a text."""
    data = bytearray(path.read_bytes())
    place = next(i for i in range(len(data) // 2, len(data)) if chr(data[i]).isdigit())
    data[place] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


def unreadable(path):
    """Put a link to itself there: nobody can open it, not even root."""
    path.unlink()
    path.symlink_to(path.name)


DAMAGES = [flip, empty, delete, unreadable]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_validation_result_of_the_best_checkpoint_changes_no_answer(run, damage, caplog):
    config, directory = run
    damage(directory / "checkpoints" / str(BEST) / "metrics" / "metrics")
    assert load_run(directory).step == BEST
    assert f"checkpoints/{BEST}/metrics/metrics" in caplog.text
    assert "metrics.jsonl has it too" in caplog.text
    config = config.copy_and_resolve_references()
    config.epochs = 5
    assert loop.train_and_evaluate(config, directory)["step"] == BEST  # nothing beats 0.9 but 0.9 itself
    assert saved_steps(directory) == [BEST, 32, 40]


def test_a_lost_line_of_the_best_checkpoint_changes_no_answer(run, caplog):
    _, directory = run
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert f'{{"step": {BEST}, "epoch": 1.0, "split": "validation"' in lines[1]
    (directory / "metrics.jsonl").write_text("".join([lines[0], lines[1].replace("0.9", "0.0"), *lines[2:]]))
    assert load_run(directory).step == BEST
    assert "line 2 of" in caplog.text


def test_a_validation_result_that_is_lost_twice_is_said(run, caplog):
    _, directory = run
    delete(directory / "metrics.jsonl")
    empty(directory / "checkpoints" / str(BEST) / "metrics" / "metrics")
    assert load_run(directory).step == 24
    assert f"the checkpoint of step {BEST} counts as not validated" in caplog.text


@pytest.mark.parametrize("step", [32, BEST])
def test_a_checkpoint_that_is_gone_is_missed(run, step, caplog):
    config, directory = run
    shutil.rmtree(directory / "checkpoints" / str(step))
    load_run(directory)
    assert f"checkpoints of {directory} are gone (step {step})" in caplog.text
    caplog.clear()
    loop.train_and_evaluate(config, directory)
    assert f"are gone (step {step})" in caplog.text


def test_a_workdir_of_an_earlier_version_has_no_digests(run, caplog):
    config, directory = run
    delete(directory / "checkpoints.json")
    for name in ("config.json", "run.json"):
        (directory / name).write_text(json.dumps(parse_json((directory / name).read_text())))
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(parse_json(line)) + "\n" for line in lines))
    assert load_run(directory).step == BEST
    assert loop.train_and_evaluate(config, directory)["step"] == BEST
    assert not [each for each in caplog.records if "checkpoints" in each.name or "log" in each.name.split(".")]
    assert (directory / "metrics.jsonl").read_text().splitlines() == lines


@pytest.mark.parametrize("name", ["config.json", "run.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_file_is_refused(run, name, damage):
    config, directory = run
    damage(directory / name)
    for use in (load_run, lambda directory: loop.train_and_evaluate(config, directory)):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            use(directory)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", [
    "_CHECKPOINT_METADATA", "training/_METADATA", pytest.param("variables/_METADATA", marks=pytest.mark.slow)])
def test_damaged_metadata_of_the_newest_checkpoint(run, file, damage, caplog):
    """Take the checkpoint before, or read the arrays all the same."""
    config, directory = run
    variables = load_run(directory).variables
    damage(directory / "checkpoints" / "32" / file)
    assert loop.train_and_evaluate(config, directory)["step"] == BEST
    assert saved_steps(directory) == STEPS
    assert same(load_run(directory).variables, variables)
    assert "the checkpoint of step 32 is damaged" in caplog.text or not (directory / "checkpoints_damaged").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_metadata_of_the_best_checkpoint_is_no_traceback(run, damage, caplog):
    _, directory = run
    damage(directory / "checkpoints" / str(BEST) / "variables" / "_METADATA")
    assert load_run(directory).step == BEST or f"the checkpoint of step {BEST} is damaged" in caplog.text


def test_a_folder_of_checkpoints_that_cannot_be_read_is_one_line(run):
    config, directory = run
    shutil.rmtree(directory / "checkpoints" / "24")
    (directory / "checkpoints" / "24").symlink_to("24")
    assert load_run(directory).step == BEST
    shutil.rmtree(directory / "checkpoints")
    (directory / "checkpoints").symlink_to("checkpoints")
    for use in (load_run, lambda directory: loop.train_and_evaluate(config, directory)):
        with pytest.raises(UserError, match=r"cannot read .*/checkpoints: "):
            use(directory)


@pytest.mark.parametrize(("name", "key", "value"), [
    ("config.json", "data.batch_size", "64"), ("config.json", "model.name", 3), ("config.json", "augment.flip", {}),
    ("config.json", "model.hidden_sizes", 7), ("config.json", "schedule.milestones", "soon"),
    ("run.json", "data.mean", "x"), ("run.json", "data.image_shape", [8]), ("run.json", "data.sizes", {"train": "all"}),
    ("run.json", "data.class_names", 10), ("run.json", "data.num_classes", None), ("run.json", "data", [])])
def test_values_of_another_type_are_refused(run, name, key, value):
    _, directory = run
    content = parse_json((directory / name).read_text())
    section, _, last = key.rpartition(".")
    (content[section] if section else content)[last] = value
    (directory / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load_run(directory)


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_brackets_without_end_are_refused(run, name):
    _, directory = run
    (directory / name).write_text("[" * 200_000)
    with pytest.raises(UserError, match="nested too deep"):
        load_run(directory)


def test_lines_of_metrics_with_values_of_another_type_are_left_out(tmp_path, caplog):
    good = {"step": 1, "epoch": 1, "split": "train", "loss": 1.0, "accuracy": 0.5}
    bad = [good | {name: value} for name, value in {
        "step": "1", "epoch": [], "split": 5, "loss": None, "accuracy": "x", "images_per_second": {}}.items()]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [good, *bad]) + "[" * 200_000 + "\n")
    assert read_metrics(path) == [good]
    assert len(caplog.records) == len(bad) + 1


def test_every_changed_digit_and_letter_of_a_line_is_noticed(tmp_path, caplog):
    line = json.dumps(sealed({"step": 12, "epoch": 1.5, "split": "test", "loss": 0.25, "accuracy": 0.5, "top5": 1.0}))
    assert parse_json(line)["top5"] == 1.0
    path = tmp_path / "metrics.jsonl"
    for i, letter in enumerate(line):
        if letter.isalnum():
            changed = line[:i] + chr(ord(letter) ^ 1) + line[i + 1:]
            path.write_text(f"{line}\n{changed}\n{line}\n")
            assert len(read_metrics(path)) == 2, changed


def test_lost_records_of_metrics_are_missed(run, caplog):
    config, directory = run
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    (directory / "metrics.jsonl").write_text("".join(lines[:-4]))
    loop.train_and_evaluate(config, directory)
    assert "metrics.jsonl has lost the record of step 32" in caplog.text


def test_a_second_error_on_the_way_out_does_not_hide_the_first(config, tmp_path, monkeypatch):
    """A disk that fills while a checkpoint is written in the background, and then cannot take the next record."""
    def full(*_):
        raise ValueError("RESOURCE_EXHAUSTED")  # as TensorStore says it

    def write(self, step, *_):
        if step > 11:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Checkpoints, "_write_list", full)
    monkeypatch.setattr(Record, "write_training", write)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        loop.train_and_evaluate(config, tmp_path / "run")
    assert [thread for thread in threading.enumerate() if thread.name == "save_finalize"] == []


def test_a_workdir_that_is_not_utf8_is_refused(tmp_path):
    directory = tmp_path / os.fsdecode(b"gr\xf6\xdfe")
    with pytest.raises(UserError, match="need a workdir whose name is UTF-8"), workdir.lock(directory):
        pass
    assert not directory.exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_no_other_process(number, tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with workdir.lock(tmp_path):
        assert f"has no locks ({os.strerror(number)})" in caplog.text
