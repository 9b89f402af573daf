"""Optimisers and learning-rate schedules by name. The numbers of a config may be traced."""
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from modern_cnn.errors import UserError
from modern_cnn.functional.regularize import is_zero
from modern_cnn.settings import Optimizer, Schedule
from modern_cnn.training import muon

ADAM_DECAY = 0.999  # of the second moment
TRUST_COEFFICIENT = 0.001  # of LARS: the step of a kernel, as a share of its norm, times the learning rate


def peak_learning_rate(optimizer: Optimizer, batch_size: int) -> float | jax.Array:
    """Return the learning rate, scaled by batch_size / optimizer.base_batch_size if that is not 0.

    Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.1. Raise UserError for a rate that is not above 0.
    """
    if not isinstance(optimizer.learning_rate, jax.Array) and optimizer.learning_rate <= 0:
        raise UserError(f"config.optimizer.learning_rate must be above 0, not {optimizer.learning_rate}")
    base = optimizer.base_batch_size
    return optimizer.learning_rate * (batch_size / base if base else 1.0)


def make_schedule(schedule: Schedule, peak: float | jax.Array, steps_per_epoch: int,
                  total_steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step; `peak` is what it is after the warm-up.

    `peak` and `schedule.factor` may be traced. Raise UserError if the warm-up is longer than the run or shorter than a
    step, or if a milestone lies in it.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.warmup_epochs and not warmup:
        raise UserError(f"config.schedule.warmup_epochs={schedule.warmup_epochs} is less than a step: an epoch has "
                        f"{steps_per_epoch}; set 0 for none")
    if warmup and warmup >= total_steps:
        raise UserError(f"config.schedule.warmup_epochs={schedule.warmup_epochs} is {warmup} steps, "
                        f"but the whole run has {total_steps}: set fewer warm-up epochs, 0 for none, or train longer")
    if schedule.name == "constant":
        after = optax.constant_schedule(peak)
    elif schedule.name == "step":
        # optax.piecewise_constant_schedule checks the sign of the factor, which is unknown if it is traced.
        drops = sorted(round(epoch * steps_per_epoch) - warmup for epoch in schedule.milestones)
        if warmup and drops and drops[0] < 0:
            raise UserError(f"config.schedule.milestones={schedule.milestones}: the first lies in the warm-up of "
                            f"{schedule.warmup_epochs} epochs")
        rates = itertools.accumulate(drops, lambda rate, _: rate * schedule.factor, initial=peak)
        after = optax.join_schedules([optax.constant_schedule(rate) for rate in rates], drops)
    elif schedule.name == "linear":
        after = optax.linear_schedule(peak, 0.0, max(1, total_steps - warmup))
    else:  # cosine
        after = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup))
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def decays(params: Any) -> Any:
    """Return True for the leaves that weight decay applies to: kernels, not biases or the scales of normalisation."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


def _others(named: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what is True for the leaves that `named`, as `decays`, is False for."""
    return lambda params: jax.tree.map(operator.not_, named(params))


def _sgd(optimizer: Optimizer, schedule: optax.Schedule) -> list[optax.GradientTransformation]:
    """Return SGD, after the decoupled weight decay if there is any."""
    chain = []
    if optimizer.decoupled and not is_zero(optimizer.weight_decay):
        share = optimizer.weight_decay / optimizer.learning_rate
        chain += [optax.add_decayed_weights(share, decays),
                  optax.add_decayed_weights(share / optimizer.bias_multiplier, _others(decays))]
    momentum = None if is_zero(optimizer.momentum) else optimizer.momentum
    return [*chain, optax.sgd(schedule, momentum, optimizer.nesterov)]


def _adam(optimizer: Optimizer) -> optax.GradientTransformation:
    """Return Adam's scaling of gradients (Kingma and Ba 2015, algorithm 1), or with `epsilon_hat` that of section 2.

    There epsilon is added to the root of the second moment before its bias is corrected, as in Keras and TensorFlow:
    after t steps it counts for 1 / sqrt(1 - decay^t) as much, 32 times in the first.
    """
    if not optimizer.epsilon_hat:
        return optax.scale_by_adam(eps=optimizer.epsilon)

    def update(updates, state, params=None):
        epsilon = optimizer.epsilon / jnp.sqrt(1 - ADAM_DECAY ** (state.count + 1))
        return optax.scale_by_adam(b2=ADAM_DECAY, eps=epsilon).update(updates, state, params)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def make_optimizer(optimizer: Optimizer, schedule: optax.Schedule,
                   peak: float | jax.Array | None = None) -> optax.GradientTransformation:
    """Return the optimiser that a config names, with its momentum, weight decay and clipping.

    `peak` is the highest value of the schedule, by default the learning rate of the config.

    Weight decay is added to the gradient of kernels (L2), as in PyTorch's SGD and Adam. 'adamw' subtracts it from the
    kernels directly, times the learning rate (Loshchilov and Hutter 2019). 'lars' (You et al. 2017, "Large batch
    training of convolutional networks", algorithm 1) scales the gradient of each kernel to TRUST_COEFFICIENT times the
    norm of the kernel; biases and normalisation follow plain SGD. Gradients are clipped first, as in PyTorch. 'muon' is
    for the kernels of convolutions, see there, and SGD for all others.

    With `decoupled` the L2 penalty of each parameter that follows SGD, biases too, is weight_decay / learning_rate, so
    that what a step takes of it does not depend on its learning rate (airbench, Jordan 2024). The updates of all but
    kernels are multiplied by `bias_multiplier`.

    If a number is traced, its part of the optimiser is always built, as the number may not be 0.
    """
    decay, chain = optimizer.weight_decay, []
    if optimizer.decoupled and optimizer.name not in ("sgd", "muon"):
        raise UserError(f"config.optimizer.decoupled=True is for sgd and muon, not {optimizer.name}")
    if not is_zero(optimizer.clip_norm):
        chain.append(optax.clip_by_global_norm(optimizer.clip_norm))
    if not is_zero(decay) and optimizer.name not in ("adamw", "muon") and not optimizer.decoupled:
        chain.append(optax.add_decayed_weights(decay, decays))
    if optimizer.name == "sgd":
        chain += _sgd(optimizer, schedule)
    elif optimizer.name == "muon":
        peak = optimizer.learning_rate if peak is None else peak
        own = muon.muon(lambda step: schedule(step) * (optimizer.muon_rate / peak), optimizer.muon_momentum)
        rest = [] if optimizer.decoupled or is_zero(decay) else [optax.add_decayed_weights(decay, decays)]
        rest = optax.chain(*rest, *_sgd(optimizer, schedule))
        chain += [optax.masked(own, muon.follows), optax.masked(rest, _others(muon.follows))]
    elif optimizer.name in ("adam", "adamw"):
        decoupled = [optax.add_decayed_weights(decay, decays)] * (optimizer.name == "adamw")
        chain.append(optax.chain(_adam(optimizer), *decoupled, optax.scale_by_learning_rate(schedule)))
    else:  # lars divides by the norm of the decayed gradient, as most implementations do
        chain.append(optax.lars(schedule, trust_coefficient=TRUST_COEFFICIENT, trust_ratio_mask=decays,
                                momentum=optimizer.momentum, nesterov=optimizer.nesterov))
    if optimizer.bias_multiplier != 1:
        chain.append(optax.masked(optax.scale(optimizer.bias_multiplier), _others(decays)))
    return optax.chain(*chain) if len(chain) > 1 else chain[0]
