"""Whole runs, in this process: what they write, where they end, and what stops them."""
import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import modern_cnn
from modern_cnn import settings
from modern_cnn.data import augment, decoding, resident, sources
from modern_cnn.errors import UserError
from modern_cnn.runs import load, loop, workdir
from modern_cnn.runs.checkpoints import Checkpoints, saved_steps
from modern_cnn.runs.log import duration, read_metrics
from modern_cnn.runs.record import Record
from modern_cnn.training import steps
from modern_cnn.training.devices import Devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.program import Program, make_evaluate
from modern_cnn.training.state import TrainState
from tests.data import files


def records(path, split=None):
    return [r for r in read_metrics(path / "metrics.jsonl") if split in (None, r["split"])]


@pytest.mark.usefixtures("curves")
def test_a_run_writes_all_that_design_promises(config, tmp_path, caplog):
    caplog.set_level("INFO", "modern_cnn")
    run = tmp_path / "run"
    config.schedule.name = "cosine"
    result = loop.train_and_evaluate(config, run)
    assert {"config.json", "run.json", "metrics.jsonl", "checkpoints", "tensorboard", "curves.png"} <= {
        path.name for path in run.iterdir()}
    assert json.loads((run / "config.json").read_text())["model"]["name"] == "mlp"
    described = json.loads((run / "run.json").read_text())
    assert described["data"]["sizes"] == {"train": 1437, "test": 360}
    assert {"versions", "commit", "platform", "device_count", "process_count"} <= set(described)
    assert [r["step"] for r in records(run, "train")] == [11, 22, 33]
    rates = config.optimizer.learning_rate * (1 + np.cos(np.pi * np.array([10, 21, 32]) / 33)) / 2  # of these steps
    np.testing.assert_allclose([r["learning_rate"] for r in records(run, "train")], rates, rtol=1e-5)
    assert {"step", "epoch", "split", "loss", "accuracy", "images_per_second"} <= set(records(run, "train")[0])
    assert [r["step"] for r in records(run, "test")] == [33]
    assert result["test"]["accuracy"] == records(run, "test")[0]["accuracy"]
    with Image.open(run / "curves.png") as curves:
        assert curves.size[0] > 800
    assert any((run / "tensorboard").glob("events*"))
    assert "step 33, the last" in caplog.text
    assert "images/s" in caplog.text


def test_load_and_evaluate_agree_with_the_run(config, tmp_path):
    result = loop.train_and_evaluate(config, tmp_path / "run")
    scored = load.evaluate_workdir(tmp_path / "run")
    assert scored == {"split": "test", "step": 33, "count": 360, **result["test"]}
    module, variables = modern_cnn.load(tmp_path / "run")
    data = sources.load(config.data)
    images, labels = data.splits["test"]
    logits = module.apply(variables, augment.normalize(jnp.asarray(images), data.spec.mean, data.spec.std), train=False)
    assert (np.argmax(np.asarray(logits), 1) == labels).mean() == result["test"]["accuracy"]


def test_averages_are_scored_and_kept_and_the_weights_go_on(config, tmp_path):
    """The result is the averages, in the log, in `load` and in evaluation; training goes on from the weights."""
    loop.train_and_evaluate(config, tmp_path / "plain")
    config.optimizer.ema_decay = 0.9
    config.augment.test_flip = True
    result = loop.train_and_evaluate(config, tmp_path / "run")
    losses, plain = ([r["loss"] for r in records(tmp_path / name, "train")] for name in ("run", "plain"))
    assert losses == plain
    module, averages = modern_cnn.load(tmp_path / "run")
    weights = modern_cnn.load(tmp_path / "plain")[1]
    data = sources.load(config.data)
    images, labels = jnp.asarray(data.splits["test"][0]), data.splits["test"][1]
    logits = [module.apply(averages, augment.normalize(each, data.spec.mean, data.spec.std), train=False)
              for each in (images, images[:, :, ::-1])]
    wanted = Metrics.from_batch((logits[0] + logits[1]) / 2, jnp.asarray(labels, jnp.int32)).means(10)
    scored = load.evaluate_workdir(tmp_path / "run")
    for scores in (result["test"], scored):
        assert np.isclose(scores["loss"], wanted["loss"], rtol=1e-5)
        assert scores["accuracy"] == wanted["accuracy"]
    checkpoints = Checkpoints(tmp_path / "run", read_only=True)
    kept = checkpoints._manager.restore(33)
    checkpoints.close()
    for average, weight, saved in zip(*map(jax.tree.leaves, (averages, weights, kept["training"]["tree"]["variables"])),
                                      strict=True):
        np.testing.assert_array_equal(weight, saved)
        assert (average != weight).any()


def test_images_enlarged_on_the_device_train_and_score_as_those_enlarged_in_files(config, tmp_path):
    """Before the distortions, in training, scoring and evaluation: a run on files that hold the larger images."""
    config.epochs, config.data.image_size = 1, 32
    config.augment.rotate, config.augment.shift = 10.0, 3.0
    on_device = loop.train_and_evaluate(config, tmp_path / "device")
    evaluated = load.evaluate_workdir(tmp_path / "device")
    assert {name: evaluated[name] for name in on_device["test"]} == on_device["test"]
    arrays = {}
    for split, (images, labels) in sources.load(config.data).splits.items():
        assert images.shape[1:] == (8, 8, 1)
        arrays |= {f"{split}_images": decoding.resize_array(images, 32, split)[..., 0], f"{split}_labels": labels}
    files.write_idx(tmp_path / "large", **arrays)
    config.data.source = f"idx:{tmp_path / 'large'}"
    loop.train_and_evaluate(config, tmp_path / "files")
    for ours, theirs in zip(records(tmp_path / "device"), records(tmp_path / "files"), strict=True):
        assert ours["split"] == theirs["split"]
        assert np.isclose(ours["loss"], theirs["loss"], rtol=1e-4)
        assert np.isclose(ours["accuracy"], theirs["accuracy"], atol=0.003)


def test_evaluation_counts_every_example_once_at_any_batch_size(config):
    data = sources.load(config.data)
    state = Program(settings.read(config), data).init()
    devices = Devices()
    whole = None
    for batch_size in (360, 100, 7, 1000):
        metrics = make_evaluate(data.spec, devices, data.feed(devices), batch_size)(state, "test")
        whole = whole or metrics
        assert int(metrics.count) == 360
        assert int(metrics.correct) == int(whole.correct)
        assert np.isclose(metrics.loss, whole.loss, rtol=1e-5)


def test_an_epoch_visits_every_image_once_and_no_two_steps_draw_alike(config, monkeypatch):
    """The compiled step around a train step that only notes which images came, and how they looked.

    The key of dropout is another: with it they would have looked otherwise.
    """
    def note(state, batch, key, **options):
        dropout = augment.augment(jax.random.fold_in(key, state.step), jnp.asarray(images[:3]), asked.augment)
        notes = {"looks": batch["image"][0].sum(), "others": dropout[0].sum() / 255}
        notes = {name: state.params[name].at[state.step].set(value) for name, value in notes.items()}
        notes["seen"] = state.params["seen"].at[batch["label"]].add(1)
        return state.replace(step=state.step + 1, params=notes), Metrics.empty()

    monkeypatch.setattr(steps, "train_step", note)
    config.augment.rotate, config.augment.shift = 20.0, 1.0
    config.data.batch_size = 3
    images = np.tile(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1), (13, 1, 1, 1))
    spec = dataclasses.replace(sources.load(config.data).spec, mean=(0.0,), std=(1.0,), sizes={"train": 13})
    asked = settings.read(config)
    program = Program(asked, sources.Dataset(spec, {"train": (images, np.arange(13, dtype=np.int32))}))
    state = TrainState(jnp.int32(0), {"seen": jnp.zeros(13, jnp.int32), "looks": jnp.zeros(8), "others": jnp.zeros(8)},
                       {}, (), None, None)
    counts = []
    for epoch in range(2):
        for batch in program.batches(epoch):
            state, _, _ = program.step(state, program.empty_metrics(), *batch)
        counts.append(np.array(state.params["seen"]))
    first, second = counts[0], counts[1] - counts[0]
    assert sorted(first) == sorted(second) == [0] + [1] * 12
    assert len(set(np.array(state.params["looks"]).tolist())) == 8
    assert not np.isclose(state.params["looks"], state.params["others"], rtol=1e-4).any()


def test_max_steps_ends_with_evaluation_and_checkpoint(config, tmp_path):
    config.max_steps = 13
    result = loop.train_and_evaluate(config, tmp_path / "run")
    assert result["step"] == 13
    assert [r["step"] for r in records(tmp_path / "run", "test")] == [13]
    assert load.load_run(tmp_path / "run").step == 13


def test_a_finished_run_started_again_only_reports(config, tmp_path):
    first = loop.train_and_evaluate(config, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert loop.train_and_evaluate(config, tmp_path / "run")["test"] == first["test"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_the_seed_decides_everything(config, tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config.seed = seed
        loop.train_and_evaluate(config, tmp_path / name)
        runs.append(modern_cnn.load(tmp_path / name)[1]["params"]["dense1"]["kernel"])
    assert np.array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])


def test_a_non_finite_loss_stops_the_run_at_its_step_and_keeps_the_last_good_checkpoint(config, tmp_path):
    """Epoch 1 is sound; the rate then jumps, within the same schedule, so high that the loss overflows."""
    config.schedule.name, config.schedule.milestones, config.schedule.factor = "step", (1.0,), 1e20
    every = config.copy_and_resolve_references()
    every.log_every_steps = 1
    with pytest.raises(UserError) as one_by_one:
        loop.train_and_evaluate(every, tmp_path / "every")
    with pytest.raises(UserError) as by_epoch:
        loop.train_and_evaluate(config, tmp_path / "run")
    step = len(records(tmp_path / "every", "train")) + 1  # the first that could not be logged
    assert 11 < step < 22
    for error in (one_by_one, by_epoch):
        assert f"the loss is not finite at step {step} " in str(error.value)
        assert "the last good checkpoint, step 11, is kept" in str(error.value)
    assert load.load_run(tmp_path / "run").step == 11


def test_a_score_that_is_not_finite_stops_the_run(config, tmp_path):
    """The loss of a step is that before its update: the last update is found by the evaluation alone."""
    config.max_steps, config.optimizer.learning_rate = 1, 1e25
    with pytest.raises(UserError, match="the loss on test is not finite at step 1 "):
        loop.train_and_evaluate(config, tmp_path / "run")
    assert np.isnan(records(tmp_path / "run", "test")[0]["loss"])


def test_debug_nans_stops_at_the_operation(config, tmp_path):
    config.schedule.name, config.schedule.milestones, config.schedule.factor = "step", (1.0,), 1e20
    jax.config.update("jax_debug_nans", True)
    try:
        with pytest.raises(FloatingPointError, match=r"invalid value \(nan\) encountered in \w+"):
            loop.train_and_evaluate(config, tmp_path / "run")
    finally:
        jax.config.update("jax_debug_nans", False)


def test_parameters_that_are_not_finite_are_never_saved(config, tmp_path):
    """An overflow in the very last update before a checkpoint: the loss was still finite."""
    config.max_steps, config.optimizer.learning_rate = 1, 3e38
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 1e30
    with pytest.raises(UserError, match=r"not finite at step 1 .*no checkpoint had been written yet"):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_nothing_is_fetched_from_the_device_between_logs(config, tmp_path, monkeypatch):
    fetched = []
    means = Metrics.means
    monkeypatch.setattr(Metrics, "means", lambda self, n: fetched.append(1) or means(self, n))
    real = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(2) or real(tree))
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: pytest.fail("waited for the device"))
    config.epochs = 1
    config.log_every_steps = 5
    loop.train_and_evaluate(config, tmp_path / "run")
    # training at steps 5 and 11, the two parts of the checkpoint, then the test split
    assert fetched == [1, 2] * 2 + [2, 2] + [1, 2]


def test_a_signal_before_the_first_step_of_an_epoch_changes_nothing(config, tmp_path, monkeypatch):
    order = resident.epoch_order

    def terminate_in_the_second(seed, epoch, size):
        if epoch == 1:
            signal.raise_signal(signal.SIGTERM)
        return order(seed, epoch, size)

    monkeypatch.setattr(resident, "epoch_order", terminate_in_the_second)
    config.test_every_epoch = True
    with pytest.raises(SystemExit):
        loop.train_and_evaluate(config, tmp_path / "run")
    assert [r["step"] for r in records(tmp_path / "run", "test")] == [11]
    monkeypatch.setattr(resident, "epoch_order", order)
    loop.train_and_evaluate(config, tmp_path / "run")
    assert [r["step"] for r in records(tmp_path / "run", "test")] == [11, 22, 33]


def test_checkpoints_by_steps_count_epoch_ends_too(config, tmp_path):
    config.checkpoint_every_steps, config.eval_every_epochs = 11, 100
    loop.train_and_evaluate(config, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [22, 33]


@pytest.mark.parametrize(("field", "value", "message"), [
    ("optimizer.base_batch_size", -256, "base_batch_size=-256 must be a number between 0 and"),
    ("optimizer.momentum", 1.5, r"momentum=1\.5 must be a number between 0 and 1"),
    ("schedule.warmup_epochs", -1.0, r"warmup_epochs=-1\.0 must be"),
    ("augment.zoom", 2.0, r"augment\.zoom=2\.0 must be a number between 0 and 0\.99"),
    ("augment.hue", 0.6, r"augment\.hue=0\.6 must be a number between 0 and 0\.5"),
    ("loss.label_smoothing", 1.5, r"label_smoothing=1\.5 must be"),
    ("optimizer.ema_decay", 2.0, r"ema_decay=2\.0 must be a number between 0 and 0\.999999"),
    ("optimizer.clip_norm", -1.0, r"clip_norm=-1\.0 must be a number between 0 and"),
    ("model.dropout_rate", 1.5, r"dropout_rate=1\.5 of the network 'mlp' must be a number of at least 0 and below 1"),
    ("model.hidden_sizes", (0,), r"hidden_sizes=\(0,\) .* must be whole numbers from 1 to 1,000,000"),
    ("model.num_classes", 3, r"the data say how many classes there are \(config\.data\.num_classes\)"),
    ("model.dtype", jnp.bfloat16, "write a dtype by its name"),
    ("data.batch_size", 1438, "batch_size=1438 is more than the 1437 training images of digits"),
    ("data.batch_size", 0, "config.data.batch_size=0 must be a number between 1 and"),
    ("epochs", 0, "config.epochs=0 must be a number between 1 and"),
    ("model.name", "lenet", "has no option 'hidden_sizes'"),
    ("data.normalize", "standart", "did you mean 'standard'"),
    ("data.image_size", 16_384, r"a batch of digits: 128 images of 16384x16384 decode to .* GiB, .*image_size"),
    ("data.image_size", 10 ** 6, "image_size=1000000 must be a number between 0 and 16384"),
])
def test_bad_settings_are_refused_before_anything_is_written(field, value, message, config, tmp_path):
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        loop.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_an_image_is_not_mixed_with_itself(name, config, tmp_path):
    config.data.batch_size = 1
    config.augment[name] = 0.5
    with pytest.raises(UserError, match=f"augment.{name} mixes two images of a batch, and config.data.batch_size is 1"):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_images_too_small_for_the_network(config, tmp_path):
    config.model.name = "lenet_bn"
    config.model.hidden_sizes = config.model.dropout_rate = None  # options of the MLP
    with pytest.raises(UserError, match=r"'lenet_bn' cannot be built for the 8x8x1 images of digits.*image_size=N"):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_evaluate_refuses_other_shapes_and_unknown_splits(config, tmp_path):
    config.epochs = 1
    loop.train_and_evaluate(config, tmp_path / "run")
    with pytest.raises(UserError, match="has no split 'validation', only"):
        load.evaluate_workdir(tmp_path / "run", "validation")
    with pytest.raises(UserError, match="the network was trained on"):
        load.evaluate_workdir(tmp_path / "run", data={"image_size": 9})
    with pytest.raises(UserError, match="is not a run's workdir"):
        load.evaluate_workdir(tmp_path)


@pytest.mark.parametrize("max_steps", [0, 15])
def test_a_profile_is_recorded_also_of_a_run_that_ends_early(max_steps, config, tmp_path):
    config.max_steps = max_steps
    loop.train_and_evaluate(config, tmp_path / "run", profile=True)
    assert list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_an_epoch_end_without_evaluation_is_saved_too(number, config, tmp_path, monkeypatch):
    config.eval_every_epochs = 3
    due = loop.due

    def terminate_after_the_first(settings, plan, step):
        if step == 11:
            signal.raise_signal(number)
        return due(settings, plan, step)

    monkeypatch.setattr(loop, "due", terminate_after_the_first)
    before = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    try:
        with pytest.raises(SystemExit) as stopped:
            loop.train_and_evaluate(config, tmp_path / "run")
    finally:
        signal.signal(number, before)
    assert stopped.value.code == 128 + number
    assert load.load_run(tmp_path / "run").step == 11


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_an_ignored_hangup_stays_ignored(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with loop.stop_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop(0) == (0 if handler == signal.SIG_IGN else signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lost_metrics_file_is_measured_again(config, tmp_path):
    config.data.validation = 0.1
    first = loop.train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    again = loop.train_and_evaluate(config, tmp_path / "run")
    assert (again["test"], again["validation"]) == (first["test"], first["validation"])


def test_write_json_leaves_the_old_file_where_the_new_one_fails(tmp_path):
    workdir.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        workdir.write_json(tmp_path / "a.json", {"x": object()})
    assert workdir.read_json(tmp_path / "a.json") == {"x": 1}


def test_bad_lines_of_metrics_are_left_out_and_said_but_for_a_cut_last_one(tmp_path, caplog):
    good = '{"step": %d, "epoch": 1.0, "split": "train", "loss": 1.0, "accuracy": 0.5}\n'
    text = good % 1 + '\n5\n{"step": 3}\n' + good % 2
    (tmp_path / "metrics.jsonl").write_bytes(text.encode() + b"\xff\xfe\n" + (good % 4).encode() + b'{"st')
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 4]
    assert [r.getMessage().split()[1] for r in caplog.records] == ["2", "3", "4", "6"]


def test_other_classes_or_changed_images_are_not_scored_in_silence(config, tmp_path, caplog):
    for name, classes in (("pets", ("cat", "dog")), ("insects", ("ant", "cat"))):
        for i, label in enumerate(classes):
            (tmp_path / name / label).mkdir(parents=True)
            for j in range(20):
                Image.fromarray(np.full((8, 8), 100 * i + j, np.uint8)).save(tmp_path / name / label / f"{j}.png")
    config.data.source, config.data.batch_size, config.epochs = f"folder:{tmp_path / 'pets'}", 8, 1
    loop.train_and_evaluate(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"has the classes ant, which are not among .*: cat, dog;"):
        load.evaluate_workdir(tmp_path / "run", data={"source": f"folder:{tmp_path / 'insects'}"})
    (tmp_path / "pets" / "cat" / "0.png").unlink()
    with pytest.raises(UserError, match="have changed since the run"):
        load.evaluate_workdir(tmp_path / "run", "train")
    with pytest.raises(UserError, match="have changed since the run: what is test now may have been another split"):
        load.evaluate_workdir(tmp_path / "run")  # it is held out of the images that are there
    assert "have changed since the run" not in caplog.text


def test_a_test_split_of_its_own_is_scored_when_training_images_have_changed(config, tmp_path, caplog):
    for split in ("train", "test"):
        files.write_images(tmp_path / "pets" / split, count=9)
    config.data.source, config.data.batch_size, config.epochs = f"folder:{tmp_path / 'pets'}", 8, 1
    loop.train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "pets" / "train" / "cat" / "0.png").unlink()
    assert load.evaluate_workdir(tmp_path / "run")["count"] == 18
    assert "have changed since the run" in caplog.text


def test_a_lost_key_of_the_run_files_is_named(config, tmp_path):
    loop.train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{}")
    for use in (lambda: loop.train_and_evaluate(config, tmp_path / "run"),
                lambda: load.evaluate_workdir(tmp_path / "run")):
        with pytest.raises(UserError, match=r"run\.json lacks versions, data"):
            use()


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text


SCORES = [0.5, 0.6, 0.7, 0.7, 0.6, 0.7, 0.9]  # of the evaluations that follow each other


@pytest.mark.parametrize(("patience", "epochs"), [(0, 7), (1, 4), (2, 5), (3, 6), (4, 7), (9, 7)])
def test_a_run_ends_early_when_validation_is_not_better(config, tmp_path, monkeypatch, caplog, patience, epochs):
    """A step is an epoch here. The run is over then: the same command trains no more, and more patience goes on."""
    caplog.set_level("INFO", "modern_cnn")
    config.update(epochs=7, early_stopping=patience, log_every_steps=0)
    config.data.update(train_size=128, validation=0.2)
    real = Record.write_scores

    def write(self, step, split, means):
        real(self, step, split, means | {"accuracy": SCORES[step - 1], "loss": 1.0} if split == "validation" else means)

    monkeypatch.setattr(Record, "write_scores", write)
    result = loop.train_and_evaluate(config, tmp_path / "run")
    assert [r["step"] for r in records(tmp_path / "run", "validation")] == [*range(1, epochs + 1)]
    assert saved_steps(tmp_path / "run")[-1] == epochs
    assert result["step"] == {4: 4, 5: 4, 6: 6, 7: 7}[epochs]  # of equals the last that is kept
    assert (", stopped early" in caplog.text) == (epochs < 7)
    assert f"{epochs} steps of 128 images" in caplog.text
    assert loop.train_and_evaluate(config, tmp_path / "run")["step"] == result["step"]
    assert saved_steps(tmp_path / "run")[-1] == epochs
    config.early_stopping = 9
    loop.train_and_evaluate(config, tmp_path / "run")
    assert saved_steps(tmp_path / "run")[-1] == 7


def test_early_stopping_needs_a_validation_split(config, tmp_path):
    config.early_stopping = 1
    with pytest.raises(UserError, match=r"early_stopping=1 needs a validation split, and digits has none"):
        loop.train_and_evaluate(config, tmp_path / "run")
