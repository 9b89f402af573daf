"""The train step against the same network, loss and optimiser in PyTorch, step by step."""
import collections
import re
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from modern_cnn import models
from modern_cnn.layers import BatchNorm, Dropout
from modern_cnn.models.mlp import MLP
from modern_cnn.training import steps
from modern_cnn.training.metrics import Metrics, balanced_weights, cross_entropy
from modern_cnn.training.state import TrainState

KEY = jax.random.key(0)
SGD = optax.sgd(0.1, momentum=0.9)
# Compiled once for the tests that take the same networks and batches of the same size.
step = jax.jit(steps.train_step, static_argnames="accumulate")
evaluate = jax.jit(steps.eval_step, static_argnames="flip")


@cache
def fresh(module, optimizer, shape, ema=False):
    return jax.jit(lambda key: TrainState.create(key, module, optimizer, shape, ema=ema))(KEY)


def lenet(ema=False):
    state = fresh(models.build("lenet_bn"), SGD, (28, 28, 1), ema=True)
    return state if ema else state.replace(ema=None)


def mlp(optimizer=SGD, **options):
    return fresh(models.build("mlp", **options), optimizer, (8, 8, 1))


def lenet_batch(rng):
    return {"image": rng.random((32, 28, 28, 1), dtype=np.float32), "label": rng.integers(0, 10, 32)}


@jax.jit
def logits_of(state, variables, images):
    return state.module.apply(variables, images, train=False)


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
    state = lenet()
    net, names = torch_twin(state.params)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        batch = lenet_batch(rng)
        images, labels = batch["image"], batch["label"]
        state, metrics = step(state, batch, KEY)
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


@pytest.mark.parametrize("mixed", [False, True])
def test_a_weighted_loss_is_torchs(mixed):
    """Of a linear network, in a batch and in parts; mixed images have the weights of both labels."""
    rng = np.random.default_rng(1)
    weights = balanced_weights(rng.integers(0, 10, 300), 10)
    state = fresh(MLP(num_classes=10, hidden_sizes=()), optax.sgd(0.5), (8, 8, 1))
    labels, others = rng.integers(0, 10, (2, 32))
    images, share = rng.normal(size=(32, 8, 8, 1)).astype(np.float32), rng.uniform(0, 0.5, 32).astype(np.float32)
    share = share if mixed else 0 * share
    more = {"other": others, "share": share, "other_weight": weights[others]} if mixed else {}
    kernel = torch.tensor(np.array(state.params["dense1"]["kernel"]), requires_grad=True)
    logits = torch.tensor(images).flatten(1) @ kernel + torch.tensor(np.array(state.params["dense1"]["bias"]))
    own, other = (torch.nn.functional.cross_entropy(logits, torch.tensor(each), torch.tensor(weights), reduction="none")
                  for each in (labels, others))
    loss = ((1 - torch.tensor(share)) * own + torch.tensor(share) * other).mean()
    loss.backward()
    for parts in (1, 4):
        after, counted = step(state, {"image": images, "label": labels, "label_weight": weights[labels]} | more, KEY,
                              accumulate=parts)
        np.testing.assert_allclose(counted.loss / 32, loss.item(), rtol=1e-5)
        moved = (state.params["dense1"]["kernel"] - after.params["dense1"]["kernel"]) / 0.5
        np.testing.assert_allclose(moved, kernel.grad, atol=1e-6)


def test_dropout_differs_from_step_to_step_and_repeats_with_the_step():
    state = mlp(optax.sgd(0.0), dropout_rate=0.5)
    batch = {"image": np.ones((16, 8, 8, 1)), "label": np.zeros(16, np.int32)}
    first, a = step(state, batch, KEY)
    _, again = step(state, batch, KEY)
    _, b = step(first, batch, KEY)
    _, other_key = step(state, batch, jax.random.key(1))
    assert a.loss == again.loss
    assert len({float(a.loss), float(b.loss), float(other_key.loss)}) == 3


def test_batch_stats_come_back_in_the_state_and_evaluation_uses_them():
    state, batch = lenet(), lenet_batch(np.random.default_rng(0))
    after, _ = step(state, batch, KEY)
    old, new = (s.collections["batch_stats"]["norm1"]["mean"] for s in (state, after))
    assert jnp.all(old == 0)
    assert jnp.all(new != 0)
    metrics = evaluate(after, batch | {"mask": np.ones(32, bool)})
    logits = logits_of(after, after.variables, batch["image"])
    assert int(metrics.correct) == np.sum(np.argmax(logits, 1) == batch["label"])


def test_state_without_other_collections():
    state = mlp()
    assert state.collections == {}
    after, _ = step(state, {"image": np.ones((4, 8, 8, 1)), "label": np.zeros(4, np.int32)}, KEY)
    assert after.collections == {}
    assert set(after.variables) == {"params"}


def test_pmap_compiles_the_same_function():
    state = mlp()
    batch = {"image": np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32), "label": np.arange(4)}
    plain, _ = step(state, batch, KEY)
    stacked = jax.tree.map(lambda x: np.asarray(x)[None], (state, batch))
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
    state = fresh(Biased(), optax.sgd(1.0), (2, 2, 1))
    for smoothing in (0.0, 0.1):
        bias = torch.linspace(-1, 1, 12, dtype=torch.float64, requires_grad=True)
        wanted = torch.tensor((1 - batch["share"])[:, None] * np.eye(12)[batch["label"]]
                              + batch["share"][:, None] * np.eye(12)[batch["other"]])
        loss = torch.nn.functional.cross_entropy(bias.expand(64, 12), wanted, label_smoothing=smoothing)
        (1.3 * loss).backward()
        known = jax.jit(partial(steps.train_step, label_smoothing=smoothing))
        for step_of in (known, partial(step, label_smoothing=smoothing)):  # the second has it traced
            after, metrics = step_of(state, batch, KEY)
            assert np.isclose(metrics.loss / 64, loss.item(), rtol=1e-6)
            assert int(metrics.correct) == (batch["label"] == 11).sum()
            np.testing.assert_allclose(after.params["bias"], (bias - bias.grad).detach(), atol=1e-6)


def test_mixed_batches_in_parts_are_the_same_step():
    state = mlp()
    batch = {"image": np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32),
             "label": np.arange(16) % 10, "other": np.arange(16) // 2,
             "share": np.linspace(0, 0.5, 16, dtype=np.float32)}
    whole, metrics = step(state, batch, KEY, label_smoothing=0.1)
    parts, sums = step(state, batch, KEY, label_smoothing=0.1, accumulate=4)
    assert np.isclose(metrics.loss, sums.loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_parts_take_the_memory_of_one():
    batch = {"image": jax.ShapeDtypeStruct((256, 28, 28, 1), "float32"),
             "label": jax.ShapeDtypeStruct((256,), "int32")}
    taken = [step.lower(lenet(), batch, KEY, accumulate=parts).compile().memory_analysis().temp_size_in_bytes
             for parts in (1, 4)]
    assert taken[1] < 0.4 * taken[0], taken


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
    state = fresh(Normed(), SGD, (3, 3, 2))

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
    state = fresh(Dropped(), optax.sgd(1.0), (1, 1, 1))
    after, _ = divide(state, {"image": np.zeros((4, 1, 1, 1)), "label": np.zeros(4, np.int32)})
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

    state, batch = lenet(), lenet_batch(np.random.default_rng(0))
    assert operations(steps.train_step, state, batch, KEY) == operations(plain, state, batch, KEY)
    averaged = state.replace(ema=state.variables)
    for changed, options in ((state, {"label_smoothing": 0.1}), (averaged, {"ema_decay": 0.9})):
        more = operations(lambda *args, options=options: steps.train_step(*args, **options), changed, batch, KEY)
        assert more.total() > operations(plain, state, batch, KEY).total()


def test_averages_of_what_does_not_change_keep_every_bit():
    state = lenet(ema=True)
    later = jax.jit(lambda state: state.replace(step=jnp.int32(1000)).average(0.99))(state)
    for ours, theirs in zip(*map(jax.tree.leaves, (later.ema, state.variables)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_averages_of_weights_and_batch_statistics_by_hand():
    """Five steps against numpy; evaluation scores the averages, and training does not use them."""
    rng = np.random.default_rng(0)
    state, plain = lenet(ema=True), lenet()
    assert mlp().ema is None
    averages = jax.tree.map(np.array, state.variables)
    for number in range(5):
        batch = lenet_batch(rng)
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
    batch |= {"mask": np.ones(32, bool)}
    logits, raw = (logits_of(plain, variables, batch["image"]) for variables in (state.ema, state.variables))
    wanted, unwanted = (float(jax.jit(cross_entropy)(each, batch["label"]).sum()) for each in (logits, raw))
    loss = float(evaluate(state, batch).loss)
    assert np.isclose(loss, wanted, rtol=1e-5)
    assert abs(loss - unwanted) > 1e-3


def test_flipped_scoring_is_the_mean_of_two_logits():
    state, batch = lenet(), lenet_batch(np.random.default_rng(0)) | {"mask": np.arange(32) < 29}
    logits = sum(logits_of(state, state.variables, images)
                 for images in (batch["image"], batch["image"][:, :, ::-1])) / 2
    wanted = jax.jit(Metrics.from_batch)(logits, batch["label"], batch["mask"])
    got = evaluate(state, batch, flip=True)
    assert np.isclose(got.loss, wanted.loss, rtol=1e-5)
    assert abs(got.loss - evaluate(state, batch).loss) > 1e-4
    assert int(got.count) == 29


def test_a_dropout_rate_may_be_traced_as_the_other_numbers_may():
    batch = {"image": np.ones((16, 8, 8, 1)), "label": np.arange(16) % 10}
    plain = mlp()

    def train(start, rate, smoothing, decay):
        state = start.replace(module=models.build("mlp", dropout_rate=rate))
        state, metrics = steps.train_step(state, batch, KEY, label_smoothing=smoothing, ema_decay=decay)
        return state.variables, state.ema, metrics

    traced, start = jax.jit(train), plain.replace(ema=plain.variables)
    for numbers in ((0.5, 0.1, 0.9), (0.0, 0.0, 0.0)):
        known = jax.jit(train, static_argnums=(1, 2, 3))
        for a, b in zip(*map(jax.tree.leaves, (traced(start, *numbers), known(start, *numbers))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    x = np.ones((50, 4), np.float32)
    dropped = jax.jit(lambda rate: Dropout(rate, train=True).apply({}, x, rngs={"dropout": KEY}))(0.25)
    np.testing.assert_array_equal(dropped, Dropout(0.25, train=True).apply({}, x, rngs={"dropout": KEY}))
