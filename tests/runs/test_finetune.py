"""Runs that start from other runs: what is frozen keeps every bit, the head learns at its own rate."""
import dataclasses
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import modern_cnn
from configs import base
from configs import finetune as photographs
from modern_cnn import models, settings, zoo
from modern_cnn.data import sources
from modern_cnn.errors import UserError
from modern_cnn.runs import imported, load, loop, workdir
from modern_cnn.runs.checkpoints import Checkpoints, saved_steps
from modern_cnn.training import finetune, optim, program, steps
from modern_cnn.training.state import TrainState
from tests.data import files

KEY = jax.random.key(0)


def section(**fields):
    config = base.get_config()
    config.finetune.update({"workdir": "somewhere"} | fields)
    return config.finetune


def batch(shape, classes=3, seed=0):
    random = np.random.default_rng(seed)
    return {"image": random.normal(size=shape).astype(np.float32), "label": random.integers(0, classes, shape[0])}


def optimizer(**fields):
    config = base.get_config()
    config.optimizer.update(fields)
    return optim.make_optimizer(config.optimizer, lambda step: fields["learning_rate"])


def create(*args):
    return jax.jit(lambda: TrainState.create(KEY, *args))()


def test_two_steps_by_hand():
    """A hidden layer of four and a head, SGD with momentum and weight decay: numpy's own gradients."""
    rate, momentum, decay, multiplier = 0.1, 0.9, 0.05, 7.0
    module = models.build("mlp", 3, hidden_sizes=(4,))
    module, adapted = finetune.adapt(
        section(head_multiplier=multiplier, freeze="dense1/bias"), module,
        optimizer(learning_rate=rate, momentum=momentum, weight_decay=decay), (2, 2, 1))
    state = create(module, adapted, (2, 2, 1))
    hand = {path: np.asarray(leaf, np.float64) for path, leaf in flatten_dict(state.params, sep="/").items()}
    velocity = dict.fromkeys(hand, 0.0)
    for seed in range(2):
        examples = batch((5, 2, 2, 1), seed=seed)
        state, _ = jax.jit(steps.train_step)(state, examples, KEY)
        x = examples["image"].reshape(5, 4).astype(np.float64)
        hidden = np.maximum(x @ hand["dense1/kernel"] + hand["dense1/bias"], 0)
        logits = hidden @ hand["dense2/kernel"] + hand["dense2/bias"]
        error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[examples["label"]]
        below = (error @ hand["dense2/kernel"].T) * (hidden > 0)
        gradients = {"dense2/kernel": hidden.T @ error / 5, "dense2/bias": error.mean(0),
                     "dense1/kernel": x.T @ below / 5}
        for path, gradient in gradients.items():
            gradient = gradient + decay * hand[path] * path.endswith("kernel")
            velocity[path] = momentum * velocity[path] + gradient
            hand[path] = hand[path] - rate * (multiplier if path.startswith("dense2") else 1) * velocity[path]
    for path, leaf in flatten_dict(state.params, sep="/").items():
        np.testing.assert_allclose(leaf, hand[path], atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", [pytest.param("sgd", marks=pytest.mark.slow), "adam"])
def test_frozen_parameters_keep_every_bit(name):
    module, adapted = finetune.adapt(
        section(freeze="conv*,norm1/scale"), models.build("lenet_bn", 3),
        optimizer(name=name, learning_rate=0.3, momentum=0.9, weight_decay=0.1), (28, 28, 1))
    state = create(module, adapted, (28, 28, 1))
    state.params["conv1"]["kernel"] = state.params["conv1"]["kernel"].at[0].set(-0.0).at[1].set(1e-40)
    before = flatten_dict(jax.tree.map(np.asarray, state.params), sep="/")
    step = jax.jit(steps.train_step)
    for seed in range(3):
        state, _ = step(state, batch((4, 28, 28, 1), seed=seed), KEY)
    for path, leaf in flatten_dict(state.params, sep="/").items():
        frozen = path.startswith("conv") or path == "norm1/scale"
        assert (np.asarray(leaf).tobytes() == before[path].tobytes()) == frozen, path
    held = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 4]
    assert held == []  # nothing is kept for them either


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_statistics(frozen):
    """Frozen: the loss of a training step is that of evaluation mode, scales still learn, statistics stay."""
    module, adapted = finetune.adapt(section(freeze_statistics=frozen), models.build("lenet_bn", 3),
                                     optimizer(learning_rate=0.1), (28, 28, 1))
    state = create(module, adapted, (28, 28, 1))
    examples = batch((4, 28, 28, 1))
    network = models.build("lenet_bn", 3)
    logits = jax.jit(partial(network.apply, train=False))(state.variables, examples["image"])
    log_shares = np.asarray(jax.nn.log_softmax(logits))
    new, metrics = jax.jit(steps.train_step)(state, examples, KEY)
    in_evaluation_mode = np.isclose(metrics.loss, -log_shares[np.arange(4), examples["label"]].sum(), rtol=1e-5)
    assert in_evaluation_mode == frozen
    for old, now in zip(jax.tree.leaves(state.collections), jax.tree.leaves(new.collections), strict=True):
        assert np.array_equal(old, now) == frozen
    assert not np.array_equal(state.params["norm1"]["scale"], new.params["norm1"]["scale"])


@pytest.mark.parametrize(("name", "shape", "head"), [
    ("lenet", (28, 28, 1), {"dense3"}), ("resnet20", (32, 32, 3), {"dense"}),
    ("googlenet", (224, 224, 3), {"dense", "aux1/dense2", "aux2/dense2"}), ("densenet_d2l", (32, 32, 1), {"dense"})])
def test_the_head(name, shape, head):
    found = finetune.head_paths(models.build(name), shape)
    assert found == {f"{layer}/{leaf}" for layer in head for leaf in ("kernel", "bias")}


def test_patterns():
    paths, head = ["conv1/kernel", "conv2/kernel", "stage1/conv1/kernel", "dense/kernel"], {"dense/kernel"}
    assert finetune.frozen_paths("", paths, head) == set()
    assert finetune.frozen_paths("conv1/*", paths, head) == {"conv1/kernel"}
    assert finetune.frozen_paths("conv1/*, stage*", paths, head) == {"conv1/kernel", "stage1/conv1/kernel"}
    assert finetune.frozen_paths("backbone", paths, head) == {*paths} - head
    with pytest.raises(UserError, match=r"'cov2/\*' matches no parameter; the closest are conv2/kernel, "):
        finetune.frozen_paths("conv1/*,cov2/*", paths, head)
    with pytest.raises(UserError, match="nothing to learn"):
        finetune.frozen_paths("*", paths, head)
    assert finetune.frozen_paths("backbone,", paths, head) == {*paths} - head
    for empty in (" , ", ","):
        with pytest.raises(UserError, match="names no parameter"):
            finetune.frozen_paths(empty, paths, head)


def test_settings():
    config = base.get_config()
    settings.read(config)
    config.finetune.freeze = "conv1/*"
    with pytest.raises(UserError, match=r"freeze=.conv1/\*. does nothing without config.finetune.workdir"):
        settings.read(config)
    config.finetune.update(workdir="x", head_multiplier=-1.0)
    with pytest.raises(UserError, match=r"config\.finetune\.head_multiplier=-1\.0"):
        settings.read(config)


@pytest.fixture
def source(tmp_path, config):
    """Weights for the digits' 8x8 images and three classes with names."""
    config.finetune.workdir = str(tmp_path / "source")
    module = models.build(num_classes=3, **config.model)
    variables = module.init(KEY, jnp.zeros((1, 8, 8, 1)), train=False)
    imported.write_run(tmp_path / "source", settings.read(config), module, dict(variables), (8, 8, 1),
                       ("cat", "dog", "emu"), {})
    return dict(variables)


def weights(directory, template):
    return flatten_dict(Checkpoints(directory, read_only=True).result(template)[1], sep="/")


def test_a_probe_and_going_on_without_the_source(config, source, tmp_path):
    """Only the head learns; a run that is resumed after its source is gone is the run that was never stopped."""
    config.finetune.freeze = "backbone"
    config.optimizer.weight_decay = 0.01
    loop.train_and_evaluate(config, tmp_path / "whole")
    config.epochs = 1
    loop.train_and_evaluate(config, tmp_path / "stopped")
    before = json.loads((tmp_path / "stopped" / "run.json").read_text())["finetuned_from"]
    assert before["workdir"] == str(tmp_path / "source")
    assert (before["step"], before["head"]) == (0, "new")
    shutil.rmtree(tmp_path / "source")
    config.epochs = 3
    result = loop.train_and_evaluate(config, tmp_path / "stopped")
    assert saved_steps(tmp_path / "stopped")[-1] == saved_steps(tmp_path / "whole")[-1] == 33
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["finetuned_from"] == before
    template = dict(models.build(**config.model).init(KEY, jnp.zeros((1, 8, 8, 1)), train=False))
    whole, stopped = (weights(tmp_path / name, template) for name in ("whole", "stopped"))
    assert {path: leaf.tobytes() for path, leaf in jax.tree.map(np.asarray, whole).items()} == {
        path: leaf.tobytes() for path, leaf in jax.tree.map(np.asarray, stopped).items()}
    np.testing.assert_array_equal(stopped["params/dense1/kernel"], source["params"]["dense1"]["kernel"])
    assert stopped["params/dense2/kernel"].shape == (16, 10)
    assert result["test"]["accuracy"] > 0.2
    with pytest.raises(UserError, match="is not a run's workdir"):
        loop.train_and_evaluate(config, tmp_path / "another")


def pretrained(config, **fields):
    """Return `load.pretrained` of a config for its data, with other fields of their Spec."""
    dataset = sources.load(config.data)
    dataset = dataclasses.replace(dataset, spec=dataclasses.replace(dataset.spec, **fields))
    network = program.build_network(config.model.to_dict(), dataset.spec)
    return load.pretrained(settings.read(config), network, dataset)


def test_the_head_is_kept_for_the_same_classes(config, source):
    same = {"num_classes": 3, "class_names": ("cat", "dog", "emu")}
    kept, origin = pretrained(config, **same)
    assert origin["finetuned_from"]["head"] == "kept"
    np.testing.assert_array_equal(kept["params"]["dense2"]["kernel"], source["params"]["dense2"]["kernel"])
    for fields in (same | {"class_names": ("dog", "cat", "emu")}, {"num_classes": 3, "class_names": ("0", "1", "2")}):
        new, origin = pretrained(config, **fields)
        assert origin["finetuned_from"]["head"] == "new"
        assert set(new["params"]) == {"dense1"}


def test_what_does_not_fit(config, source, caplog):
    with pytest.raises(UserError, match=r"of 8x8x1 images.*its 9x9x1 images: params/dense1/kernel is \(64, 16\) there"):
        pretrained(config, image_shape=(9, 9, 1))
    with pytest.raises(UserError, match=r"its 8x8x3 images.*channels"):
        pretrained(config, image_shape=(8, 8, 3))
    config.data.normalize = "symmetric"
    pretrained(config)
    assert "--config.data.normalize=unit would keep them equal" in caplog.text
    config.model.name = "lenet"
    with pytest.raises(UserError, match=r"holds the network 'mlp', .* config\.model\.name='lenet'"):
        load.pretrained(settings.from_json(config.to_dict()), None, sources.load(config.data))


def test_standard_pixels_are_those_of_the_weights(config, source, tmp_path):
    """And a run that goes on keeps them, when the weights are gone."""
    config.data.normalize = "standard"
    config.epochs = 1
    place = tmp_path / "source"
    content = workdir.read_json(place / "run.json")
    workdir.write_json(place / "run.json", content | {"data": content["data"] | {"mean": [0.25]}})
    for stated, mean in (("unit", sources.load(config.data).spec.mean), ("standard", (0.25,))):
        content = workdir.read_json(place / "config.json")
        workdir.write_json(place / "config.json", content | {"data": content["data"] | {"normalize": stated}})
        assert load.training_data(settings.read(config)).spec.mean == mean
    loop.train_and_evaluate(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "source")
    config.epochs = 2
    loop.train_and_evaluate(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["mean"] == [0.25]


def test_images_that_the_weights_were_trained_on_do_not_test(tmp_path, caplog):
    """A folder without a test split is divided anew when images are added; its first division is not kept."""
    place = tmp_path / "photos"
    config = base.get_config()
    config.model.update(name="mlp", hidden_sizes=(2,))
    config.data.update(source=files.write_shapes(place, 30), image_size=8, batch_size=8)
    config.epochs = 1
    loop.train_and_evaluate(config, tmp_path / "first")
    config.finetune.workdir = str(tmp_path / "first")
    config.data.validation = 0.25
    loop.train_and_evaluate(config, tmp_path / "second")
    assert "trained on images that this run validates on: --config.data.validation=0.0" in caplog.text
    config.data.update(source=f"folder:{tmp_path}/./photos/", image_size=9, validation=0.0)
    files.write_shapes(place, 31)
    for size in (8, 9):
        config.data.image_size = size
        with pytest.raises(UserError, match=r"images of folder:.* have changed since the run: what is test now"):
            loop.train_and_evaluate(config, tmp_path / f"third{size}")
    for source in (config.data.source, f"folder:{place}"):
        with pytest.raises(UserError, match=r"images of folder:.* have changed"):
            load.evaluate_workdir(tmp_path / "first", data={"source": source})
        with pytest.raises(UserError, match=r"images of folder:.* have changed"):
            modern_cnn.data.load(source, like=tmp_path / "first")


def test_another_folder_of_the_same_name_is_another_set(tmp_path, monkeypatch):
    """Whose test images no weights have seen."""
    config = base.get_config()
    config.model.update(name="mlp", hidden_sizes=(2,))
    config.data.update(source="folder:photos", image_size=8, batch_size=8)
    config.epochs = 1
    for place, count in (("a", 30), ("b", 40)):
        files.write_shapes(tmp_path / place / "photos", count)
        monkeypatch.chdir(tmp_path / place)
        loop.train_and_evaluate(config, tmp_path / place / "run")
        config.finetune.workdir = str(tmp_path / "a" / "run")
    trained = load.load_run(tmp_path / "b" / "run")
    shutil.rmtree(tmp_path / "b" / "photos")
    data = load.load_data(tmp_path / "b" / "run", "test", {"source": f"folder:{tmp_path}/a/photos"})
    assert load.initial_variables(trained, data)["params"]  # which needs no images of b


@pytest.mark.parametrize(("name", "options", "shape"), [
    ("mlp", {}, (8, 8, 1)),
    ("airbench94", {"norm": "none"}, (32, 32, 3)),
    ("airbench94", {"norm": "group"}, (32, 32, 3)),
])
def test_no_statistics_to_freeze(name, options, shape):
    """A kernel that is not learned lies among the statistics too."""
    with pytest.raises(UserError, match="no batch norm"):
        finetune.adapt(section(freeze_statistics=True), models.build(name, **options), None, shape)


@pytest.mark.parametrize(("fields", "words"), [
    ({"freeze": "dense2/*", "head_multiplier": 10.0}, "head_multiplier=10.0 does nothing: .* freezes the head"),
    ({"freeze": "backbone", "head_multiplier": 0.0}, "leave nothing to learn"),
])
def test_a_multiplier_of_nothing_is_refused(fields, words):
    with pytest.raises(UserError, match=words):
        finetune.adapt(section(**fields), models.build("mlp", 3, hidden_sizes=(4,)), None, (2, 2, 1))


def test_muon_needs_kernels_and_its_steps_are_not_multiplied():
    """Its step holds the scaling of the kernel to its norm, which would grow without bound if it were multiplied."""
    def check(name, shape, multiplier=1.0, **options):
        asked = settings.Settings().replace({"optimizer.name": "muon", "finetune.workdir": "x", "model.name": name,
                                             "finetune.head_multiplier": multiplier})
        program.check_optimizer(asked, models.build(name, 3, **options), shape)

    with pytest.raises(UserError, match="the network 'mlp' has none"):
        check("mlp", (8, 8, 1))
    with pytest.raises(UserError, match=r"head_multiplier=10.0 .* where the head is a convolution"):
        check("nin_cifar", (32, 32, 3), 10.0, width=0.02)
    check("nin_cifar", (32, 32, 3), width=0.02)
    check("lenet_bn", (28, 28, 1), 10.0)


def test_the_config_for_photographs_fits_a_small_folder(tmp_path):
    """Its source is there, its weights are taken but for the head, and an epoch has several steps."""
    config = photographs.get_config()
    config.data.source = files.write_shapes(tmp_path / "photos", 60)
    asked = settings.read(config)
    dataset = load.training_data(asked)
    assert dataset.spec.std == tuple(zoo.card("airbench94_cifar10")["run"]["data"]["std"])
    assert dataset.spec.sizes == {"train": 38, "validation": 10, "test": 12}
    assert [*dataset.spec.image_shape] == zoo.card("airbench94_cifar10")["run"]["data"]["image_shape"]
    assert program.make_plan(asked, dataset.spec).steps_per_epoch == 2
    start, origin = load.pretrained(asked, program.build_network(asked.model, dataset.spec), dataset)
    assert origin["finetuned_from"] | {"digest": ""} == {
        "workdir": "zoo:airbench94_cifar10", "step": 200, "source": "cifar10", "head": "new", "digest": ""}
    assert set(start["params"]) == {"whiten", "block1", "block2", "block3"}
    assert "whiten" in start["batch_stats"]


@pytest.mark.slow
def test_the_config_for_photographs_learns(tmp_path):
    """Of 200 made-up ones, printed with pytest -s."""
    config = photographs.get_config()
    config.data.source = files.write_shapes(tmp_path / "photos")
    result = loop.train_and_evaluate(config, tmp_path / "run")
    print(f"\ntest accuracy {result['test']['accuracy']:.4f} at step {result['step']}")
    assert result["test"]["accuracy"] > 0.8  # a third of them are of a class
