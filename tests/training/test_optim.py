"""Optimisers and schedules against PyTorch's, step by step."""
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from configs import base, vgg
from modern_cnn import settings
from modern_cnn.errors import UserError
from modern_cnn.settings import FIELDS
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


def start():
    """Return the parameters of a layer, and their targets: the gradient is the difference."""
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 4)), "bias": np.ones(4), "scale": np.full(4, 2.0)}
    return params, {name: rng.normal(size=value.shape) for name, value in params.items()}


def descend(config, steps=20):
    """Return the parameters after some steps on a quadratic function, in float64."""
    params, targets = start()
    schedule = optim.make_schedule(config.schedule, config.optimizer.learning_rate, STEPS_PER_EPOCH, steps)
    optimizer = optim.make_optimizer(config.optimizer, schedule)

    def step(_, carried):
        ours, state = carried
        gradients = {"layer": {name: ours["layer"][name] - targets[name] for name in targets}}
        updates, state = optimizer.update(gradients, state, ours)
        return jax.tree.map(jnp.add, ours, updates), state

    ours = {"layer": jax.tree.map(jnp.asarray, params)}
    return jax.lax.fori_loop(0, steps, step, (ours, optimizer.init(ours)))[0]["layer"]


TORCH = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def descend_torch(config, steps=20):
    """Return the same by PyTorch's optimiser, with the learning rates of our schedule."""
    params, targets = start()
    optimizer = config.optimizer
    schedule = optim.make_schedule(config.schedule, optimizer.learning_rate, STEPS_PER_EPOCH, steps)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    groups = [{"params": [theirs["kernel"]], "weight_decay": optimizer.weight_decay},
              {"params": [theirs["bias"], theirs["scale"]], "weight_decay": 0.0}]
    if optimizer.name == "sgd":
        descent = torch.optim.SGD(groups, optimizer.learning_rate, optimizer.momentum, nesterov=optimizer.nesterov)
    else:
        descent = TORCH[optimizer.name](groups, optimizer.learning_rate, eps=optimizer.epsilon)
    clipped = 0
    for step in range(steps):
        for group in descent.param_groups:
            group["lr"] = float(schedule(step))
        descent.zero_grad()
        sum(((value - torch.tensor(targets[name])) ** 2).sum() / 2 for name, value in theirs.items()).backward()
        if optimizer.clip_norm:
            clipped += torch.nn.utils.clip_grad_norm_(theirs.values(), optimizer.clip_norm) > optimizer.clip_norm
        descent.step()
    assert not optimizer.clip_norm or 0 < clipped < steps
    return {name: value.detach().numpy() for name, value in theirs.items()}


@pytest.mark.parametrize("fields", [
    {"optimizer.learning_rate": 0.1},
    {"optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9, "optimizer.weight_decay": 0.05},
    {"optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9, "optimizer.nesterov": True, "schedule.name": "cosine"},
    {"optimizer.name": "adam", "optimizer.learning_rate": 0.02, "optimizer.weight_decay": 0.05},
    {"optimizer.name": "adam", "optimizer.learning_rate": 0.02, "optimizer.epsilon": 0.1},
    {"optimizer.name": "adamw", "optimizer.learning_rate": 0.02, "optimizer.weight_decay": 0.5},
    {"optimizer.name": "adamw", "optimizer.learning_rate": 0.02},
    {"optimizer.learning_rate": 0.1, "optimizer.clip_norm": 3.0, "optimizer.weight_decay": 0.05},
], ids=["sgd", "momentum-decay", "nesterov-cosine", "adam-decay", "adam-epsilon", "adamw", "adamw-without-decay",
        "clip-decay"])
def test_same_parameters_as_torch(fields):
    ours, theirs = descend(configured(**fields)), descend_torch(configured(**fields))
    atol = 1e-6 if "optimizer.clip_norm" in fields else 0  # PyTorch divides by the norm plus 1e-6
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=atol, err_msg=name)


def test_the_tensorflow_texts_adam_is_keras():
    """Ten steps of Keras 3.15's Adam(1e-4), from gradients far below its epsilon to far above it (a golden file)."""
    golden = np.load(Path(__file__).parents[1] / "golden/keras_adam.npz")
    config = settings.read(vgg.get_config("vgg13_cifar")).optimizer
    optimizer = optim.make_optimizer(config, optax.constant_schedule(config.learning_rate))
    params = {"kernel": jnp.asarray(golden["params"])}
    state = optimizer.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(optax.adam(optax.constant_schedule(1.0)).init(params))
    for gradient, after in zip(golden["gradients"], golden["after"], strict=True):
        updates, state = jax.jit(optimizer.update)({"kernel": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["kernel"], after, rtol=0, atol=3e-7)
    assert abs(golden["after"][-1] - golden["params"]).max() > 7e-4
    without = optim.make_optimizer(dataclasses.replace(config, epsilon_hat=False), lambda step: 1e-4)
    updates, _ = without.update({"kernel": jnp.asarray(golden["gradients"][0])}, without.init(params))
    assert abs(updates["kernel"] - (golden["after"][0] - golden["params"])).max() > 5e-5


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_by_hand(nesterov):
    """You et al. 2017, algorithm 1, in numpy: the kernel has its own rate; bias and scale follow plain SGD."""
    rate, momentum, decay = 50.0, 0.9, 0.05
    fields = {"name": "lars", "learning_rate": rate, "nesterov": nesterov, "momentum": momentum, "weight_decay": decay}
    ours = descend(configured(**{f"optimizer.{field}": value for field, value in fields.items()}), steps=5)
    params, targets = start()
    velocity = dict.fromkeys(params, 0.0)
    for _ in range(5):
        for name in params:
            gradient = params[name] - targets[name]
            if name == "kernel":
                gradient += decay * params[name]
                gradient *= 0.001 * np.sqrt((params[name] ** 2).sum() / (gradient ** 2).sum())
            velocity[name] = momentum * velocity[name] + rate * gradient
            params[name] = params[name] - (momentum * velocity[name] + rate * gradient if nesterov else velocity[name])
    for name in params:
        np.testing.assert_allclose(ours[name], params[name], rtol=1e-6, err_msg=name)


NUMBERS = ("learning_rate", "momentum", "weight_decay", "clip_norm")


@pytest.mark.parametrize("name", FIELDS["optimizer.name"].choices)
def test_traced_numbers_are_the_same_numbers(name):
    """Trials that differ in these numbers train in one program, which makes the optimiser while it is traced."""
    fields = {"optimizer.name": name, "schedule.name": "step", "schedule.milestones": (1.0, 2.0, 2.0, 0.5)}
    numbers = {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.1, "clip_norm": 1.0}

    @jax.jit
    def traced(factor, **numbers):
        config = configured(**fields)
        optimizer = SimpleNamespace(**dict(config.optimizer) | numbers)
        schedule = SimpleNamespace(**dict(config.schedule) | {"factor": factor})
        return descend(SimpleNamespace(optimizer=optimizer, schedule=schedule))

    for off in ((), NUMBERS[1:]):  # a traced 0 has the effect of 0; for clip_norm, infinity has
        now = numbers | dict.fromkeys(off, 0.0)
        config = configured(**fields | {f"optimizer.{number}": value for number, value in now.items()},
                            **{"schedule.factor": 0.3})
        wanted, got = descend(config), traced(0.3, **now | {"clip_norm": now["clip_norm"] or np.inf})
        for leaf in wanted:
            np.testing.assert_allclose(got[leaf], wanted[leaf], rtol=1e-6, err_msg=leaf)


def test_each_choice_has_its_branch():
    """Whoever adds a name adds its branch; settings refuse all other names."""
    assert FIELDS["optimizer.name"].choices == ("sgd", "adam", "adamw", "lars", "muon")
    assert FIELDS["schedule.name"].choices == ("constant", "step", "cosine", "linear")


def test_decay_spares_biases_and_scales():
    params = {"conv": {"kernel": 1, "bias": 1}, "norm": {"scale": 1, "bias": 1}, "separable": {"depthwise_kernel": 1}}
    assert optim.decays(params) == {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False, "bias": False},
                                    "separable": {"depthwise_kernel": True}}


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_equals_torch(warmup):
    """From the peak after the warm-up down to 0 at the last step, and a linear rise from 0 before."""
    fields = {"schedule.name": "cosine", "schedule.warmup_epochs": warmup / STEPS_PER_EPOCH}
    schedule = optim.make_schedule(configured(**fields).schedule, 0.4, STEPS_PER_EPOCH, 30)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.4)
    rates = torch.optim.lr_scheduler
    theirs = rates.CosineAnnealingLR(optimizer, 30 - warmup)
    if warmup:
        rise = rates.LinearLR(optimizer, start_factor=1e-12, total_iters=warmup)  # it takes no 0
        theirs = rates.SequentialLR(optimizer, [rise, theirs], [warmup])
    for step in range(31):
        assert np.isclose(schedule(step), theirs.get_last_lr()[0], rtol=1e-5, atol=1e-7)
        optimizer.step()
        theirs.step()


def test_a_line_to_zero_and_with_warm_up_a_triangle():
    for warmup in (0, 10):
        fields = {"schedule.name": "linear", "schedule.warmup_epochs": warmup / STEPS_PER_EPOCH}
        schedule = optim.make_schedule(configured(**fields).schedule, 0.4, STEPS_PER_EPOCH, 30)
        rates = [*np.linspace(0, 0.4, warmup, endpoint=False), *np.linspace(0.4, 0, 31 - warmup)]
        np.testing.assert_allclose([schedule(step) for step in range(31)], rates, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_decoupled_decay_and_rates_of_biases_equal_torchs_parameter_groups(nesterov):
    """Every parameter loses the same share, weight_decay, in a step of its own rate."""
    fields = {"learning_rate": 0.1, "momentum": 0.8, "nesterov": nesterov, "weight_decay": 0.02, "decoupled": True,
              "bias_multiplier": 3.0}
    ours = descend(configured(**{f"optimizer.{field}": value for field, value in fields.items()}))
    params, targets = start()
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in params.items()}
    rates = {name: 0.1 if name == "kernel" else 0.3 for name in params}
    sgd = torch.optim.SGD([{"params": [params[name]], "lr": rate, "weight_decay": 0.02 / rate}
                           for name, rate in rates.items()], momentum=0.8, nesterov=nesterov)
    for _ in range(20):
        for name, value in params.items():
            value.grad = value.detach() - torch.tensor(targets[name])
        sgd.step()
    for name, value in params.items():
        np.testing.assert_allclose(ours[name], value.detach().numpy(), rtol=1e-6, err_msg=name)


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
    ({"schedule.warmup_epochs": 9.0}, "warmup_epochs=9.0 is 45 steps, but the whole run has 20: set fewer"),
    ({"schedule.warmup_epochs": 0.01}, "warmup_epochs=0.01 is less than a step: an epoch has 5; set 0 for none"),
    ({"schedule.name": "step", "schedule.warmup_epochs": 2.0, "schedule.milestones": (3.0, 1.0)},
     r"milestones=\(3.0, 1.0\): the first lies in the warm-up of 2.0 epochs"),
    ({"optimizer.learning_rate": -1.0}, "learning_rate must be above 0, not -1.0"),
    ({"optimizer.name": "adam", "optimizer.decoupled": True}, "decoupled=True is for sgd and muon, not adam"),
])
def test_bad_settings_are_named(fields, message):
    config = configured(**fields)
    with pytest.raises(UserError, match=message):
        optim.make_optimizer(config.optimizer, optim.make_schedule(
            config.schedule, optim.peak_learning_rate(config.optimizer, 128), STEPS_PER_EPOCH, 20))
