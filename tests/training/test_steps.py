"""The train step against the same network, loss and optimiser in PyTorch, step by step."""
import collections
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from modern_cnn import models
from modern_cnn.layers import BatchNorm, Dropout
from modern_cnn.training import steps
from modern_cnn.training.metrics import Metrics, cross_entropy
from modern_cnn.training.state import TrainState

KEY = jax.random.key(0)


def torch_twin(params):
    """Return the batch-norm LeNet in PyTorch with the same parameters (the running variance is not compared)."""
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(256, 120), nn.BatchNorm1d(120), nn.Sigmoid(),
        nn.Linear(120, 84), nn.BatchNorm1d(84), nn.Sigmoid(), nn.Linear(84, 10))
    names = {"conv1": 0, "norm1": 1, "conv2": 4, "norm2": 5, "dense1": 9, "norm3": 10, "dense2": 12, "norm4": 13,
             "dense3": 15}
    with torch.no_grad():
        for name, index in names.items():
            for field, value in to_torch(name, params[name]).items():
                getattr(net[index], field).copy_(torch.tensor(value))
    return net, names


def to_torch(name, leaves):
    kernel = np.array(leaves.get("kernel", leaves.get("scale")))
    if kernel.ndim == 4:
        kernel = kernel.transpose(3, 2, 0, 1)
    elif name == "dense1":  # our rows are in the order height, width, channels; in torch channels come first
        kernel = kernel.reshape(4, 4, 16, 120).transpose(2, 0, 1, 3).reshape(256, 120)
    return {"weight": np.ascontiguousarray(kernel.T if kernel.ndim == 2 else kernel), "bias": np.array(leaves["bias"])}


def test_ten_steps_equal_torch():
    rng = np.random.default_rng(0)
    state = TrainState.create(KEY, models.build("lenet_bn"), optax.sgd(0.1, momentum=0.9), (28, 28, 1))
    net, names = torch_twin(state.params)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step = jax.jit(steps.train_step)
    for _ in range(10):
        images, labels = rng.random((32, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, 32)
        state, metrics = step(state, {"image": images, "label": jnp.asarray(labels)}, KEY)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.tensor(images.transpose(0, 3, 1, 2))), torch.tensor(labels))
        loss.backward()
        optimizer.step()
        assert np.isclose(metrics.loss / 32, loss.item(), rtol=1e-4)
    assert int(state.step) == 10
    for name, index in names.items():
        for field, value in to_torch(name, state.params[name]).items():
            np.testing.assert_allclose(value, getattr(net[index], field).detach().numpy(), atol=2e-4, err_msg=name)
    for name in ("norm1", "norm4"):
        ours, theirs = state.collections["batch_stats"][name]["mean"], net[names[name]].running_mean
        np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=name)


def test_dropout_differs_from_step_to_step_and_repeats_with_the_step():
    state = TrainState.create(KEY, models.build("mlp", dropout_rate=0.5), optax.sgd(0.0), (8, 8, 1))
    batch = {"image": jnp.ones((16, 8, 8, 1)), "label": jnp.zeros(16, jnp.int32)}
    first, a = steps.train_step(state, batch, KEY)
    _, again = steps.train_step(state, batch, KEY)
    _, b = steps.train_step(first, batch, KEY)
    _, other_key = steps.train_step(state, batch, jax.random.key(1))
    assert a.loss == again.loss
    assert len({float(a.loss), float(b.loss), float(other_key.loss)}) == 3


def test_batch_stats_come_back_in_the_state_and_evaluation_uses_them():
    state = TrainState.create(KEY, models.build("lenet_bn"), optax.sgd(0.1), (28, 28, 1))
    batch = {"image": jax.random.normal(KEY, (8, 28, 28, 1)), "label": jnp.arange(8) % 10}
    after, _ = steps.train_step(state, batch, KEY)
    old, new = (s.collections["batch_stats"]["norm1"]["mean"] for s in (state, after))
    assert jnp.all(old == 0)
    assert jnp.all(new != 0)
    metrics = steps.eval_step(after, batch | {"mask": jnp.ones(8, bool)})
    logits = after.module.apply(after.variables, batch["image"], train=False)
    assert int(metrics.correct) == int(jnp.sum(jnp.argmax(logits, 1) == batch["label"]))


def test_state_without_other_collections():
    state = TrainState.create(KEY, models.build("mlp"), optax.adam(0.1), (8, 8, 1))
    assert state.collections == {}
    after, _ = steps.train_step(state, {"image": jnp.ones((4, 8, 8, 1)), "label": jnp.zeros(4, jnp.int32)}, KEY)
    assert after.collections == {}
    assert set(after.variables) == {"params"}


def test_pmap_compiles_the_same_function():
    state = TrainState.create(KEY, models.build("mlp"), optax.sgd(0.1), (8, 8, 1))
    batch = {"image": jax.random.normal(KEY, (4, 8, 8, 1)), "label": jnp.arange(4)}
    plain, _ = jax.jit(steps.train_step)(state, batch, KEY)
    stacked = jax.tree.map(lambda x: x[None], (state, batch))
    mapped, _ = jax.pmap(steps.train_step, in_axes=(0, 0, None))(*stacked, KEY)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(mapped), strict=True):
        np.testing.assert_allclose(a, b[0], rtol=1e-6, atol=1e-7)


class Biased(nn.Module):
    """A network whose logits are a bias, main and auxiliary ones, the same for every image."""

    @nn.compact
    def __call__(self, x, train):
        bias = self.param("bias", lambda key, shape: jnp.linspace(-1, 1, shape[0]), (12,))
        logits = jnp.broadcast_to(bias, (len(x), 12))
        if train:
            self.sow("aux_logits", "head", logits)
        return logits


def test_losses_and_gradients_of_mixed_and_smoothed_labels_are_torchs():
    """Main and auxiliary logits count in the loss; accuracy counts the label with the larger share."""
    rng = np.random.default_rng(0)
    batch = {"image": jnp.zeros((64, 2, 2, 1)), "label": rng.integers(0, 12, 64), "other": rng.integers(0, 12, 64),
             "share": rng.uniform(0, 0.5, 64).astype(np.float32)}
    state = TrainState.create(KEY, Biased(), optax.sgd(1.0), (2, 2, 1))
    for smoothing in (0.0, 0.1):
        bias = torch.linspace(-1, 1, 12, dtype=torch.float64, requires_grad=True)
        wanted = torch.tensor((1 - batch["share"])[:, None] * np.eye(12)[batch["label"]]
                              + batch["share"][:, None] * np.eye(12)[batch["other"]])
        loss = torch.nn.functional.cross_entropy(bias.expand(64, 12), wanted, label_smoothing=smoothing)
        (1.3 * loss).backward()
        for traced in (False, True):
            step = jax.jit(steps.train_step) if traced else steps.train_step
            after, metrics = step(state, batch, KEY, label_smoothing=smoothing)
            assert np.isclose(metrics.loss / 64, loss.item(), rtol=1e-6)
            assert int(metrics.correct) == (batch["label"] == 11).sum()
            np.testing.assert_allclose(after.params["bias"], (bias - bias.grad).detach(), atol=1e-6)


def test_mixed_batches_in_parts_are_the_same_step():
    state = TrainState.create(KEY, models.build("mlp"), optax.sgd(0.1), (8, 8, 1))
    batch = {"image": jax.random.normal(KEY, (16, 8, 8, 1)), "label": jnp.arange(16) % 10,
             "other": jnp.arange(16) // 2, "share": jnp.linspace(0, 0.5, 16)}
    whole, metrics = steps.train_step(state, batch, KEY, label_smoothing=0.1)
    parts, sums = steps.train_step(state, batch, KEY, label_smoothing=0.1, accumulate=4)
    assert np.isclose(metrics.loss, sums.loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class Normed(nn.Module):
    """Batch norm of the pixels, then one dense layer."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10)(BatchNorm(train=train, name="norm")(x).reshape(len(x), -1))


class Dropped(nn.Module):
    """Logits that are 1024 parameters, half of them dropped; one that is never kept has a gradient of 0."""

    @nn.compact
    def __call__(self, x, train):
        kept = self.param("kept", nn.initializers.ones, (1024,))
        return Dropout(0.5, train)(jnp.broadcast_to(kept, (len(x), 1024)))


@jax.jit
def step_in_parts(state, batch):
    return steps.train_step(state, batch, KEY, accumulate=4)


@jax.jit
def step_in_shares(state, batch):
    """Return what every one of four devices has after a step; `vmap` gives each its share, as `pmap` does."""
    divided = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)
    return jax.vmap(partial(steps.train_step, axis_name="batch"), (None, 0, None), axis_name="batch")(
        state, divided, KEY)


def test_running_statistics_of_parts_and_of_shares_are_numpys():
    """Parts, each every fourth image, move them one after the other; shares move them once, by their mean."""
    images = np.random.default_rng(0).normal((1, 2), (3, 4), (16, 3, 3, 2)).astype(np.float32)
    images *= 1 + np.arange(16).reshape(-1, 1, 1, 1)
    batch = {"image": images, "label": np.arange(16) % 10}
    state = TrainState.create(KEY, Normed(), optax.sgd(0.1), (3, 3, 2))

    def moments(pixels):
        return np.stack([pixels.mean((0, 1, 2), np.float64), pixels.var((0, 1, 2), np.float64)])

    def running(state):
        return np.stack([state.collections["batch_stats"]["norm"][name] for name in ("mean", "var")], axis=-2)

    wanted = np.array([[0, 0], [1, 1]])
    for part in range(4):
        wanted = 0.9 * wanted + 0.1 * moments(images[part::4])
    np.testing.assert_allclose(running(step_in_parts(state, batch)[0]), wanted, rtol=1e-4)
    mean = np.mean([moments(share) for share in np.split(images, 4)], axis=0)
    wanted = 0.9 * np.array([[0, 0], [1, 1]]) + 0.1 * mean
    after, metrics = step_in_shares(state, batch)
    np.testing.assert_allclose(running(after), np.broadcast_to(wanted, (4, 2, 2)), rtol=1e-4)
    assert metrics.count.tolist() == [16] * 4


@pytest.mark.parametrize("divide", [step_in_parts, step_in_shares])
def test_parts_and_shares_draw_a_dropout_of_their_own(divide):
    """All of four images, each alone, drop a logit with a chance of 1 in 16; with one key it would be 1 in 2."""
    state = TrainState.create(KEY, Dropped(), optax.sgd(1.0), (1, 1, 1))
    after, _ = divide(state, {"image": jnp.zeros((4, 1, 1, 1)), "label": jnp.zeros(4, jnp.int32)})
    never = np.sum(np.ravel(after.params["kept"])[:1024] == 1)
    assert 32 < never < 96  # 64, with a deviation of 7.7


def operations(function, *args):
    """Return the number of each operation in a program and in the programs that it calls."""
    return collections.Counter(re.findall(r" = (\w+)", str(jax.make_jaxpr(function)(*args))))


def test_what_is_off_costs_no_operation():
    """A plain step has the operations of the loss, its gradient and the optimiser, and no other."""
    def plain(state, batch, key):
        key = jax.random.fold_in(key, state.step)

        def loss_of(params):
            logits, others = state.module.apply({"params": params, **state.collections}, batch["image"], train=True,
                                                mutable=["batch_stats", "aux_logits"], rngs={"dropout": key})
            losses = cross_entropy(logits, batch["label"])
            metrics = Metrics.from_batch(logits, batch["label"], step=state.step + 1, losses=losses)
            return losses.mean(), (others, metrics)

        gradients, (collections, metrics) = jax.grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = state.optimizer.update(gradients, state.opt_state, state.params)
        return (state.step + 1, jax.tree.map(lambda p, u: p + u.astype(p.dtype), state.params, updates), collections,
                opt_state, metrics)

    state = TrainState.create(KEY, models.build("lenet_bn", dropout_rate=0.0), optax.sgd(0.1, 0.9), (28, 28, 1))
    batch = {"image": jnp.zeros((4, 28, 28, 1)), "label": jnp.arange(4)}
    assert operations(steps.train_step, state, batch, KEY) == operations(plain, state, batch, KEY)
    averaged = state.replace(ema=state.variables)
    for changed, options in ((state, {"label_smoothing": 0.1}), (averaged, {"ema_decay": 0.9})):
        more = operations(lambda *args, options=options: steps.train_step(*args, **options), changed, batch, KEY)
        assert more.total() > operations(plain, state, batch, KEY).total()


def test_averages_of_weights_and_batch_statistics_by_hand():
    """Five steps against numpy; evaluation scores the averages, and training does not use them."""
    rng = np.random.default_rng(0)
    module, optimizer = models.build("lenet_bn"), optax.sgd(0.5)
    state = TrainState.create(KEY, module, optimizer, (28, 28, 1), ema=True)
    plain = TrainState.create(KEY, module, optimizer, (28, 28, 1))
    assert plain.ema is None
    averages = jax.tree.map(np.array, state.variables)
    step = jax.jit(steps.train_step)
    for number in range(5):
        batch = {"image": rng.random((8, 28, 28, 1), dtype=np.float32), "label": np.arange(8)}
        state, _ = step(state, batch, KEY, ema_decay=0.3)
        plain, _ = step(plain, batch, KEY)
        decay = min(0.3, (2 + number) / (11 + number))
        averages = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * np.array(new, np.float64), averages,
                                state.variables)
    assert decay == 0.3
    for ours, theirs, raw, other in zip(*map(jax.tree.leaves, (state.ema, averages, state.variables, plain.variables)),
                                        strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        np.testing.assert_array_equal(raw, other)
    assert set(state.ema) == {"params", "batch_stats"}
    batch |= {"mask": np.ones(8, bool)}
    logits, raw = (module.apply(variables, batch["image"], train=False) for variables in (state.ema, state.variables))
    wanted, unwanted = (float(cross_entropy(each, batch["label"]).sum()) for each in (logits, raw))
    loss = float(steps.eval_step(state, batch).loss)
    assert np.isclose(loss, wanted, rtol=1e-5)
    assert abs(loss - unwanted) > 1e-3


def test_flipped_scoring_is_the_mean_of_two_logits():
    state = TrainState.create(KEY, models.build("lenet_bn"), optax.sgd(0.1), (28, 28, 1))
    batch = {"image": jax.random.normal(KEY, (6, 28, 28, 1)), "label": jnp.arange(6), "mask": jnp.arange(6) < 5}
    logits = sum(state.module.apply(state.variables, images, train=False)
                 for images in (batch["image"], batch["image"][:, :, ::-1])) / 2
    wanted, got = Metrics.from_batch(logits, batch["label"], batch["mask"]), steps.eval_step(state, batch, flip=True)
    assert np.isclose(got.loss, wanted.loss, rtol=1e-5)
    assert abs(got.loss - steps.eval_step(state, batch).loss) > 1e-4
    assert int(got.count) == 5


def test_a_dropout_rate_may_be_traced_as_the_other_numbers_may():
    batch = {"image": jnp.ones((16, 8, 8, 1)), "label": jnp.arange(16) % 10}
    start = TrainState.create(KEY, models.build("mlp"), optax.sgd(0.1), (8, 8, 1), ema=True)

    def step(rate, smoothing, decay):
        state = start.replace(module=models.build("mlp", dropout_rate=rate))
        state, metrics = steps.train_step(state, batch, KEY, label_smoothing=smoothing, ema_decay=decay)
        return state.variables, state.ema, metrics

    for numbers in ((0.5, 0.1, 0.9), (0.0, 0.0, 0.0)):
        for a, b in zip(*map(jax.tree.leaves, (jax.jit(step)(*numbers), step(*numbers))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    x = jnp.ones((50, 4))
    dropped = jax.jit(lambda rate: Dropout(rate, train=True).apply({}, x, rngs={"dropout": KEY}))(0.25)
    np.testing.assert_array_equal(dropped, Dropout(0.25, train=True).apply({}, x, rngs={"dropout": KEY}))
