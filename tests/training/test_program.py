"""A program as one uses it without a workdir: built once, compiled once for all seeds, its buffers used again."""
import jax
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import base
from modern_cnn import models, runtime, settings
from modern_cnn.data import sources
from modern_cnn.errors import UserError
from modern_cnn.runs.loop import fit
from modern_cnn.training.program import Program, make_batch, make_init
from modern_cnn.training.stacked import StackedProgram
from tests.data import files


@pytest.fixture
def dataset(config):
    config.epochs = 1
    return sources.load(config.data)


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """A function that returns the names of all programs that have been compiled."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("MODERN_CNN_CACHE", str(tmp_path))
    runtime.configure()
    compilation_cache.reset_cache()
    yield lambda: {path.name for path in (tmp_path / "xla").glob("*-cache")}
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def first_step(program):
    state, metrics = program.init(), program.empty_metrics()
    return state, metrics, program.step(state, metrics, *next(program.batches(0)))


def test_state_and_metrics_are_donated_and_the_rest_is_not(config, dataset):
    program = Program(settings.read(config), dataset)
    state, metrics, (new, counted, output) = first_step(program)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state, metrics)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, counted, output)))
    assert int(counted.count) == int(output) == config.data.batch_size
    assert int(new.step) == 1


def test_stacked_states_are_donated_too(config, dataset):
    program = StackedProgram([settings.read(config).replace({"seed": seed}) for seed in (0, 1)], dataset)
    state, metrics, (new, _, _) = first_step(program)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state, metrics)))
    assert new.step.tolist() == [1, 1]


def test_another_seed_compiles_nothing(config, dataset, compiled):
    programs = []
    for seed in (0, 1):
        config.seed = seed
        program = Program(settings.read(config), dataset)
        _, _, (state, _, _) = first_step(program)
        program.evaluate(state, "test")
        programs.append(compiled())
    assert any("step" in name or "lambda" in name for name in programs[0])
    assert programs[0] == programs[1]
    config.optimizer.momentum = 0.5  # to see that a program that is compiled is noticed
    first_step(Program(settings.read(config), dataset))
    assert compiled() > programs[1]


def test_the_first_state_is_compiled_quickly_to_the_same_bits(config, dataset):
    program = Program(settings.read(config), dataset)
    create = make_init(program._parts, program.spec)
    want = jax.jit(create)(program._init_key)
    assert jax.tree.leaves(want)
    jax.tree.map(np.testing.assert_array_equal, program.init(), want)


def test_the_network_is_built_once(config, dataset, monkeypatch):
    built, build = [], models.build
    monkeypatch.setattr(models, "build", lambda *args, **options: built.append(1) or build(*args, **options))
    asked = settings.read(config)
    for make in (lambda: Program(asked, dataset), lambda: StackedProgram([asked, asked.replace({"seed": 1})], dataset)):
        built.clear()
        program = make()
        _, _, (state, _, _) = first_step(program)
        program.evaluate(state, "test")
        assert len(built) == 1


def test_a_loop_by_hand_is_fit(config, dataset):
    asked = settings.read(config)
    program = Program(asked, dataset)
    state, metrics = program.init(), program.empty_metrics()
    for batch in program.batches(0):
        state, metrics, _ = program.step(state, metrics, *batch)
    trained = fit(Program(asked, dataset))
    assert trained.step == int(state.step) == program.plan.total_steps == 11
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(trained.state.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert program.evaluate(state, "test").means(10)["accuracy"] > 0.3


def test_every_split_is_scored_on_its_own_images(config):
    config.data.validation, config.data.normalize = 0.1, "symmetric"
    dataset = sources.load(config.data)
    program = Program(settings.read(config), dataset)
    state = program.init()
    for split, (images, labels) in dataset.splits.items():
        logits = program.module.apply(state.variables, (images / 255 - 0.5) / 0.5, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        metrics = program.evaluate(state, split)
        assert int(metrics.count) == len(labels)
        np.testing.assert_allclose(metrics.loss, losses.sum(), rtol=1e-5, err_msg=split)


def test_fit_ends_where_it_is_told_and_goes_on(config, dataset):
    program = Program(settings.read(config), dataset)
    part = fit(program, until=4)
    assert (part.step, part.signal, int(part.metrics.count)) == (4, 0, 4 * 128)
    stopped = fit(program, (), lambda step: 15 if step == 6 else 0, state=part.state, metrics=part.metrics)
    assert (stopped.step, stopped.signal) == (6, 15)
    rest = fit(program, state=stopped.state)
    whole = fit(program)
    for ours, theirs in zip(jax.tree.leaves(rest.state.params), jax.tree.leaves(whole.state.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("stream", [False, True])
def test_class_weights_come_from_the_training_labels(config, tmp_path, stream):
    """Of a set with three dogs to a cat; both kinds of feed."""
    files.write_images(tmp_path, ["cat"], 10, size=(8, 8))
    files.write_images(tmp_path, ["dog"], 30, size=(8, 8))
    config.data.update(source=f"folder:{tmp_path}", batch_size=32, stream=stream, image_size=8)
    config.augment.mixup = 0.5
    config.loss.class_weights = "balanced"
    made = Program(settings.read(config), sources.load(config.data))
    batch = make_batch(made._parts, made.spec, made.devices, made._feed, jax.random.key(0))(0, *next(made.batches(0)))
    for label in ("label", "other"):
        np.testing.assert_allclose(batch[f"{label}_weight"], np.array([2, 2 / 3])[batch[label]], rtol=1e-6)
    config.loss.class_weights = "none"
    made = Program(settings.read(config), sources.load(config.data))
    plain = make_batch(made._parts, made.spec, made.devices, made._feed, jax.random.key(0))(0, *next(made.batches(0)))
    assert set(batch) - set(plain) == {"label_weight", "other_weight"}


@pytest.mark.parametrize("name", ["muon", "lars"])
def test_what_treats_each_kernel_for_itself_is_not_for_stacked_blocks(name, dataset):
    config = base.get_config()
    config.model.update(name="resnet20", scan=True)
    config.optimizer.name = name
    with pytest.raises(UserError, match="scan=True makes one array of those of a stage"):
        Program(settings.read(config), dataset)
