"""The train step against the same network, loss and optimiser in PyTorch, step for step."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from modern_cnn import models
from modern_cnn.training import steps
from modern_cnn.training.state import TrainState

KEY = jax.random.key(0)


def torch_twin(params):
    """The batch-norm LeNet in PyTorch with the same parameters (biased running variance is not compared)."""
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
    elif name == "dense1":  # rows are height, width, channels here and channels first there
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
