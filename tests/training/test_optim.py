"""Optimisers and schedules against PyTorch's, trajectories and all."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import base
from modern_cnn.errors import UserError
from modern_cnn.training import optim

STEPS_PER_EPOCH = 5


def configured(**fields):
    config = base.get_config()
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def descend(config, steps=20):
    """Parameters after steps on a fixed quadratic, ours and torch's from the same start, in float64."""
    rng = np.random.default_rng(0)
    params = {"layer": {"kernel": rng.normal(size=(3, 4)).astype(np.float64), "bias": np.ones(4, np.float64),
                        "scale": np.full(4, 2, np.float64)}}
    targets = {name: rng.normal(size=value.shape).astype(np.float64) for name, value in params["layer"].items()}
    schedule = optim.make_schedule(config.schedule, config.optimizer.learning_rate, STEPS_PER_EPOCH, steps)
    optimizer = optim.make_optimizer(config.optimizer, schedule)
    ours, state = jax.tree.map(jnp.asarray, params), optimizer.init(params)
    for _ in range(steps):
        gradients = {"layer": {name: ours["layer"][name] - targets[name] for name in targets}}
        updates, state = optimizer.update(gradients, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in params["layer"].items()}
    groups = [{"params": [theirs["kernel"]], "weight_decay": config.optimizer.weight_decay},
              {"params": [theirs["bias"], theirs["scale"]], "weight_decay": 0.0}]
    if config.optimizer.name == "adam":
        torch_optimizer = torch.optim.Adam(groups, config.optimizer.learning_rate)
    else:
        torch_optimizer = torch.optim.SGD(groups, config.optimizer.learning_rate, config.optimizer.momentum,
                                          nesterov=config.optimizer.nesterov)
    for step in range(steps):
        for group in torch_optimizer.param_groups:
            group["lr"] = float(schedule(step))
        torch_optimizer.zero_grad()
        sum(((value - torch.tensor(targets[name])) ** 2).sum() / 2 for name, value in theirs.items()).backward()
        torch_optimizer.step()
    return ours["layer"], {name: value.detach().numpy() for name, value in theirs.items()}


@pytest.mark.parametrize("fields", [
    {"optimizer.learning_rate": 0.1},
    {"optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9, "optimizer.weight_decay": 0.05},
    {"optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9, "optimizer.nesterov": True, "schedule.name": "cosine"},
    {"optimizer.name": "adam", "optimizer.learning_rate": 0.02, "optimizer.weight_decay": 0.05},
], ids=["sgd", "momentum-decay", "nesterov-cosine", "adam-decay"])
def test_same_parameters_as_torch(fields):
    ours, theirs = descend(configured(**fields))
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, err_msg=name)


def test_decay_spares_biases_and_scales():
    params = {"conv": {"kernel": 1, "bias": 1}, "norm": {"scale": 1, "bias": 1}, "separable": {"depthwise_kernel": 1}}
    assert optim.decays(params) == {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False, "bias": False},
                                    "separable": {"depthwise_kernel": True}}


def test_cosine_equals_torch():
    schedule = optim.make_schedule(configured(**{"schedule.name": "cosine"}).schedule, 0.4, STEPS_PER_EPOCH, 30)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for step in range(30):
        assert np.isclose(schedule(step), theirs.get_last_lr()[0], rtol=1e-5, atol=1e-7)
        optimizer.step()
        theirs.step()


def test_step_schedule_multiplies_at_the_milestones_whether_or_not_there_is_warm_up():
    for warmup in (0.0, 2.0):
        config = configured(**{"schedule.name": "step", "schedule.milestones": (4.0, 6.0),
                               "schedule.warmup_epochs": warmup})
        schedule = optim.make_schedule(config.schedule, 1.0, STEPS_PER_EPOCH, 50)
        rates = [float(schedule(step)) for step in range(50)]
        np.testing.assert_allclose(rates[10:20], 1.0)
        np.testing.assert_allclose(rates[20:30], 0.1, rtol=1e-6)
        np.testing.assert_allclose(rates[30:], 0.01, rtol=1e-6)
        if warmup:
            np.testing.assert_allclose(rates[:10], np.arange(10) / 10, atol=1e-7)


def test_linear_scaling_with_the_batch():
    assert optim.peak_learning_rate(configured(**{"optimizer.learning_rate": 0.1}).optimizer, 512) == 0.1
    scaled = configured(**{"optimizer.learning_rate": 0.1, "optimizer.base_batch_size": 256})
    assert optim.peak_learning_rate(scaled.optimizer, 512) == pytest.approx(0.2)


@pytest.mark.parametrize(("fields", "message"), [
    ({"optimizer.name": "sdg"}, "optimizer.name='sdg' is unknown; did you mean 'sgd'"),
    ({"schedule.name": "cosin"}, "schedule.name='cosin' is unknown; did you mean 'cosine'"),
    ({"schedule.warmup_epochs": 9.0}, "warmup_epochs=9.0 is 45 steps, but the whole run has 20"),
    ({"optimizer.learning_rate": -1.0}, "learning_rate must be above 0, not -1.0"),
])
def test_bad_settings_are_named(fields, message):
    config = configured(**fields)
    with pytest.raises(UserError, match=message):
        optim.make_optimizer(config.optimizer, optim.make_schedule(
            config.schedule, optim.peak_learning_rate(config.optimizer, 128), STEPS_PER_EPOCH, 20))
