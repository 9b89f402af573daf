"""Checkpoints that are whole or are not used, on every kind of damage that a disk or a person does."""
import contextlib
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import modern_cnn
from modern_cnn import models
from modern_cnn.errors import UserError
from modern_cnn.runs import loop, workdir
from modern_cnn.runs.checkpoints import Checkpoints, _digest, saved_steps
from modern_cnn.runs.load import load_run
from modern_cnn.runs.record import Record
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.state import TrainState
from tests.forked import run_script

ROOT = Path(__file__).resolve().parents[2]
# TensorStore leaves futures of a failed read or write to the garbage collector, after Orbax closed their event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def truncate_largest(step):
    file = max((f for f in step.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def zero_all(step):
    for file in step.rglob("*"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))


def flip_a_bit(step):
    file = max((f for f in step.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def delete_half_of_the_files(step):
    for file in sorted(f for f in step.rglob("*") if f.is_file())[::2]:
        file.unlink()


def delete_variables(step):
    shutil.rmtree(step / "variables")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return trained: trained(config) is the workdir of its finished run; that of each validation share runs once."""
    directory = tmp_path_factory.mktemp("trained")

    def trained(config):
        workdir = directory / str(config.data.validation)
        if not workdir.exists():
            loop.train_and_evaluate(config, workdir)
        return workdir

    return trained


@pytest.fixture
def finished(request, config, tmp_path, trained):
    """A run of three epochs with a checkpoint after each (the newest two are kept), and its parameters."""
    config.data.validation = getattr(request, "param", 0.0)
    config.data.batch_size = 128 if not config.data.validation else 90  # eleven steps an epoch either way
    shutil.copytree(trained(config), tmp_path / "run")
    _, variables = modern_cnn.load(tmp_path / "run")
    return tmp_path / "run", variables


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


DAMAGES = (truncate_largest, zero_all, flip_a_bit, delete_half_of_the_files, delete_variables)


@pytest.mark.parametrize(("damage", "finished"), [
    pytest.param(damage, share, marks=pytest.mark.slow if share and i > 1 else (), id=f"{damage.__name__}-{share}")
    for i, damage in enumerate(DAMAGES) for share in (0.0, 0.3)], indirect=["finished"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(damage, config, finished, caplog):
    workdir, variables = finished
    assert saved_steps(workdir) == [22, 33]
    damage(workdir / "checkpoints" / "33")
    loop.train_and_evaluate(config, workdir)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and r.name.startswith("modern_cnn")]
    assert any("the checkpoint of step 33 is damaged" in warning for warning in warnings)
    assert len(warnings) <= 3  # and that it was validated otherwise, and where the run goes on
    assert (workdir / "checkpoints_damaged" / "33").is_dir()
    assert saved_steps(workdir) == [22, 33]
    assert same(modern_cnn.load(workdir)[1], variables)  # trained again from 22, to the same bits


def test_all_checkpoints_damaged_is_said_and_nothing_is_touched(config, finished):
    workdir, _ = finished
    for step in (22, 33):
        zero_all(workdir / "checkpoints" / str(step))
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read \(step 33: .*move that directory away"):
        loop.train_and_evaluate(config, workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["22", "33"]
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        modern_cnn.load(workdir)


@pytest.mark.usefixtures("first_of_four_is_best")
def test_a_damaged_best_checkpoint_is_passed_over_for_the_next_best(config, tmp_path, caplog):
    assert loop.train_and_evaluate(config, tmp_path / "run")["step"] == 8
    zero_all(tmp_path / "run" / "checkpoints" / "8" / "variables")
    assert load_run(tmp_path / "run").step == 24
    assert "the checkpoint of step 8 is damaged" in caplog.text


def test_all_that_was_saved_comes_back(tmp_path):
    """Each leaf is other random numbers: weights, their averages, momentum, step and metrics are not mixed up."""
    module, optimizer = models.build("lenet_bn"), optax.sgd(0.1, 0.9)
    start = jax.jit(lambda: TrainState.create(jax.random.key(0), module, optimizer, (28, 28, 1), ema=True))()
    random = np.random.RandomState(0)
    saved = jax.tree.map(lambda leaf: jax.numpy.asarray(100 * random.rand(*leaf.shape), leaf.dtype),
                         (start, Metrics.empty()))
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.save(*saved)
        checkpoints.wait()
        restored = checkpoints.restore(start, Metrics.empty())
    jax.tree.map(np.testing.assert_array_equal, restored, saved)


def test_among_equal_accuracies_the_smaller_loss_is_the_best(tmp_path):
    state = TrainState.create(jax.random.key(0), models.build("mlp"), optax.sgd(0.1), (8, 8, 1))
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        for step, (accuracy, loss) in enumerate([(0.5, 1.0), (0.5, 2.0), (0.4, 0.1), (0.5, 1.5)], start=1):
            checkpoints.save(state.replace(step=jax.numpy.int32(step)), Metrics.empty(),
                             {"accuracy": accuracy, "loss": loss})
        checkpoints.wait()
        assert saved_steps(tmp_path) == [1, 3, 4]
        assert checkpoints.result(state.variables)[0] == 1


def test_digest_changes_with_every_single_value_and_with_order():
    tree = {"a": jax.numpy.arange(40, dtype=jax.numpy.float32), "b": jax.numpy.ones((3,), jax.numpy.bfloat16)}
    before = _digest(tree)
    for i in range(40):
        changed = tree["a"].at[i].set(np.nextafter(np.float32(i), np.float32(99)))
        assert _digest({"a": changed, "b": tree["b"]})[0] != before[0]
    assert _digest({"a": tree["a"][::-1], "b": tree["b"]})[0] != before[0]


@pytest.fixture
def first_of_four_is_best(config, monkeypatch):
    """Four epochs, and what validation shall say of them."""
    scores = iter([0.9, 0.1, 0.3, 0.2])
    config.epochs, config.data.validation = 4, 0.2
    write = Record.write_scores

    def scripted(self, step, split, means):
        write(self, step, split, {"accuracy": next(scores), "loss": 1.0} if split == "validation" else means)

    monkeypatch.setattr(Record, "write_scores", scripted)


@pytest.mark.usefixtures("first_of_four_is_best")
def test_best_and_newest_are_kept(config, tmp_path):
    """The best must outlive the newest two."""
    result = loop.train_and_evaluate(config, tmp_path / "run")
    first = result["step"]
    assert first == 1437 * 4 // 5 // 128
    assert saved_steps(tmp_path / "run") == [first, 3 * first, 4 * first]
    assert load_run(tmp_path / "run").step == first


@pytest.mark.parametrize(("field", "value", "named"), [
    ("model.hidden_sizes", (8,), r"config.model.hidden_sizes was \[16\], is \[8\]"),
    ("data.image_size", 12, "image_shape"),
    ("seed", 1, "config.seed was 0, is 1"),
    ("optimizer.learning_rate", 0.2, "config.optimizer.learning_rate was 0.1, is 0.2"),
])
def test_resuming_another_run_is_refused_with_the_difference(field, value, named, config, finished):
    workdir, _ = finished
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=named):
        loop.train_and_evaluate(config, workdir)


@pytest.mark.parametrize("image_size", [0, 12, 5])
def test_resuming_on_changed_images_is_refused(image_size, config, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    write_idx(tmp_path / "data", rng.integers(0, 256, (300, 8, 8)))
    config.data.source, config.epochs, config.data.image_size = f"idx:{tmp_path / 'data'}", 1, image_size
    loop.train_and_evaluate(config, tmp_path / "run")
    write_idx(tmp_path / "data", rng.integers(0, 256, (300, 8, 8)))
    with pytest.raises(UserError, match=r"holds a different run: the data set's digest was"):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_the_same_images_from_another_place_are_the_same_run(config, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8))
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write_idx(tmp_path / place, images)
    config.data.source, config.epochs = f"idx:{tmp_path / 'here'}", 1
    loop.train_and_evaluate(config, tmp_path / "run")
    config.data.source, config.epochs = f"idx:{tmp_path / 'there'}", 2
    assert loop.train_and_evaluate(config, tmp_path / "run")["step"] == 4


def write_idx(directory, images):
    for split in ("train", "t10k"):
        for name, array in (("images-idx3", images), ("labels-idx1", np.arange(len(images)) % 10)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (directory / f"{split}-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())


def test_more_epochs_are_refused_where_the_learning_rate_follows_their_number(config, tmp_path):
    config.schedule.name = "cosine"
    loop.train_and_evaluate(config, tmp_path / "run")
    config.epochs = 5
    with pytest.raises(UserError, match=r"config\.epochs was 3, is 5"):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_fewer_steps_than_done_are_refused(config, finished):
    config.epochs = 1
    with pytest.raises(UserError, match="is at step 33 already, beyond the 11 steps"):
        loop.train_and_evaluate(config, finished[0])


def test_a_run_refused_before_its_first_checkpoint_can_be_corrected(config, tmp_path):
    config.optimizer.learning_rate = 1e30
    with pytest.raises(UserError, match="not finite"):
        loop.train_and_evaluate(config, tmp_path / "run")
    config.optimizer.learning_rate = 0.1
    assert loop.train_and_evaluate(config, tmp_path / "run")["step"] == 33


def test_more_epochs_go_on_with_the_run(config, finished):
    workdir, _ = finished
    config.epochs = 4
    loop.train_and_evaluate(config, workdir)
    assert saved_steps(workdir) == [33, 44]


def test_a_workdir_of_an_earlier_version_goes_on_where_newer_fields_have_their_defaults(config, finished):
    workdir, _ = finished
    before = json.loads((workdir / "config.json").read_text())
    del before["crc"], before["accumulate"], before["augment"]["lighting"], before["finetune"]
    (workdir / "config.json").write_text(json.dumps(before))
    assert load_run(workdir).settings.augment.lighting == 0
    config.epochs = 4
    assert loop.train_and_evaluate(config, workdir)["step"] == 44
    (workdir / "config.json").write_text(json.dumps(before))
    config.augment.lighting = 0.1
    with pytest.raises(UserError, match=r"config\.augment\.lighting was 0\.0, is 0\.1"):
        loop.train_and_evaluate(config, workdir)


def test_a_directory_is_held_by_one_alone(tmp_path):
    refused = pytest.raises(UserError, match=f"another process .pid {os.getpid()}. is training")
    for _ in range(2):  # it is free when that one has left
        with workdir.lock(tmp_path), refused, workdir.lock(tmp_path):
            pass


def test_checkpoints_without_a_config_are_refused(config, tmp_path):
    (tmp_path / "run" / "checkpoints" / "22").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has checkpoints but no config\.json"):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_a_full_disk_at_a_checkpoint_is_one_clear_error_and_the_last_good_one_stays(config, finished):
    """The kernel refuses files above a size, as it does on a full disk; then space is there again."""
    workdir, _ = finished
    config.epochs = 6
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(UserError, match=r"could not be written|cannot write"):
            loop.train_and_evaluate(config, workdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert saved_steps(workdir)[-1] == 33
    loop.train_and_evaluate(config, workdir)
    assert saved_steps(workdir) == [55, 66]


def _with_limit(limit, *script):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run_script(*script)


@pytest.mark.parametrize("limit", [
    700, pytest.param(3000, marks=pytest.mark.slow), 20000], ids=lambda limit: f"{limit} bytes a file")
def test_a_full_disk_is_one_line_and_a_code(limit, server, tmp_path):
    """Wherever it strikes first: the run's files, the log, or a checkpoint."""
    (tmp_path / "out").symlink_to(os.devnull)
    process = server.Process(target=_with_limit, args=(
        limit, [str(ROOT / "scripts/train.py"), f"--config={ROOT / 'configs/mlp.py'}", "--config.epochs=2",
                "--config.data.source=digits", "--config.data.batch_size=64", "--config.log_every_steps=1",
                f"--workdir={tmp_path / 'run'}"], str(tmp_path), {"MODERN_CNN_CACHE": str(tmp_path / "cache")}))
    process.start()
    process.join(600)
    err = (tmp_path / "err").read_text()
    assert process.exitcode == 1, err
    assert err.splitlines()[-1].startswith("error: ")
    assert "written" in err or "cannot write" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2  # a warning that the data could not be cached may come first
