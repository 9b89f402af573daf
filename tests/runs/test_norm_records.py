"""The record of batch normalisation's running statistics and of the gradients, against numpy, jax.grad and the run."""
import json

import jax
import numpy as np
import optax
import pytest

import modern_cnn
from modern_cnn import settings
from modern_cnn.data import augment, sources
from modern_cnn.data.resident import epoch_order
from modern_cnn.errors import UserError
from modern_cnn.inspection import views
from modern_cnn.runs import loop
from modern_cnn.runs.log import Log, read_norms
from modern_cnn.training.program import Program
from modern_cnn.training.stacked import StackedProgram


def test_a_run_records_statistics_and_gradients_that_it_had(config, tmp_path):
    config.model.name = "lenet_relu_bn"
    del config.model.hidden_sizes, config.model.dropout_rate
    config.data.image_size = 14
    config.max_steps = 4
    config.log_every_steps = 2  # and always the first step
    config.log_norms = True
    loop.train_and_evaluate(config, tmp_path / "run")
    records = read_norms(tmp_path / "run")
    assert [record["step"] for record in records] == [1, 2, 4]
    statistics = modern_cnn.load(tmp_path / "run")[1]["batch_stats"]
    assert set(records[-1]["mean"]) == set(statistics)
    for name, layer in statistics.items():
        np.testing.assert_allclose(records[-1]["mean"][name], np.percentile(layer["mean"], (15, 50, 85)), atol=1e-6)
        np.testing.assert_allclose(records[-1]["deviation"][name],
                                   np.percentile(np.sqrt(layer["var"]), (15, 50, 85)), atol=1e-6)
    assert records[0]["mean"] != records[1]["mean"]
    asked = settings.read(config)
    dataset = sources.load(asked.data)
    program = loop.Program(asked, dataset)  # the run's own, compiled
    images, labels = (values[epoch_order(0, 0, len(values))] for values in dataset.splits["train"])

    @jax.jit
    def by_hand(variables, images, labels):
        def loss(params):
            variables["params"] = params
            logits, _ = program.module.apply(variables, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(variables["params"])

    state, metrics, batches = program.init(), program.empty_metrics(), program.batches(0)
    for step in range(1, 5):
        this = slice(128 * (step - 1), 128 * step)
        pixels = augment.enlarge(images[this], 14) / np.float32(255)
        gradients = by_hand(state.variables, pixels, labels[this])
        wanted = {name: np.sqrt(np.mean(np.square(layer["kernel"]))) for name, layer in gradients.items()
                  if "kernel" in layer}
        assert set(wanted) == {"conv1", "conv2", "dense1", "dense2", "dense3"}
        for record in records:
            if record["step"] == step:
                assert record["gradient"] == pytest.approx(wanted, rel=1e-4)
        state, metrics, _ = program.step(state, metrics, *next(batches))


@pytest.mark.parametrize("fields", [{"accumulate": 4, "augment.crop": 2, "loss.label_smoothing": 0.1}, "stacked"],
                         ids=["in parts", "trials together"])
def test_the_gradients_are_those_that_the_step_takes(config, fields):
    """By plain SGD, whose step is the gradient times the rate; each of trials together has its own smoothing."""
    config.optimizer.momentum = 0.0
    asked, rates = settings.read(config), [0.25]
    if fields == "stacked":
        rates = [0.25, 0.5]
        program = StackedProgram([asked.replace({"optimizer.learning_rate": rate, "loss.label_smoothing": rate / 3})
                                  for rate in rates], sources.load(asked.data))
    else:
        program = Program(asked.replace({"optimizer.learning_rate": 0.25} | fields), sources.load(asked.data))
    state, batch = program.init(), next(program.batches(0))
    sizes, before = program.unstack(program.gradients(state, *batch)), program.unstack(jax.device_get(state.params))
    state, _, _ = program.step(state, program.empty_metrics(), *batch)
    assert len(sizes) == len(rates)
    for size, old, new, rate in zip(sizes, before, program.unstack(jax.device_get(state.params)), rates, strict=True):
        taken = {name: (old[name]["kernel"] - new[name]["kernel"]) / rate for name in ("dense1", "dense2")}
        wanted = {name: np.sqrt(np.mean(np.square(each))) for name, each in taken.items()}
        assert size == pytest.approx(wanted, rel=1e-3)


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    statistics = {"block1": {"norm1": {"mean": np.arange(3.0), "var": np.ones(3)}}}
    log = Log(tmp_path, 0)
    assert not (tmp_path / "norms.jsonl").exists()
    for step in (1, 2, 3):
        log.write_norms(step, step / 3, statistics, {"conv1": 1 / 3})
    log.close()
    with open(tmp_path / "norms.jsonl", "a") as file:
        file.write('{"step": 4, "epo')  # cut by a kill
    log = Log(tmp_path, 2)
    log.write_norms(3, 1, statistics, {})
    log.close()
    records = [json.loads(line) for line in (tmp_path / "norms.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[0]["mean"] == {"block1/norm1": [0.3, 1.0, 1.7]}
    assert [record["gradient"] for record in records] == [{"conv1": 0.333333}, {"conv1": 0.333333}, {}]
    assert [{name: record[name] for name in record if name != "crc"} for record in records] == read_norms(tmp_path)


def test_records_of_before_are_read_and_have_no_gradients_to_draw(tmp_path):
    line = {"step": 1, "epoch": 0.5, "mean": {"norm1": [0.0, 0.0, 0.0]}, "deviation": {"norm1": [1.0, 1.0, 1.0]}}
    (tmp_path / "norms.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"gradient": 3.0}) + "\n")
    assert read_norms(tmp_path) == [line]
    with pytest.raises(UserError, match=r"has no record of gradients: train with --config\.log_norms=true"):
        views.draw_gradients(views.TrainedNetwork(tmp_path), tmp_path / "out.png")
