"""Optimisers and learning-rate schedules by name. The numbers of a config may be traced."""
import itertools
from typing import Any

import jax
import optax

from modern_cnn.errors import UserError
from modern_cnn.functional.regularize import is_zero
from modern_cnn.settings import Optimizer, Schedule

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

    `peak` and `schedule.factor` may be traced. Raise UserError if the warm-up is longer than the run.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if warmup and warmup >= total_steps:
        raise UserError(f"config.schedule.warmup_epochs={schedule.warmup_epochs} is {warmup} steps, "
                        f"but the whole run has {total_steps}")
    if schedule.name == "constant":
        after = optax.constant_schedule(peak)
    elif schedule.name == "step":
        # optax.piecewise_constant_schedule checks the sign of the factor, which is unknown if it is traced.
        drops = sorted(round(epoch * steps_per_epoch) - warmup for epoch in schedule.milestones)
        rates = itertools.accumulate(drops, lambda rate, _: rate * schedule.factor, initial=peak)
        after = optax.join_schedules([optax.constant_schedule(rate) for rate in rates], drops)
    else:  # cosine
        after = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup))
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def decays(params: Any) -> Any:
    """Return True for the leaves that weight decay applies to: kernels, not biases or the scales of normalisation."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


def make_optimizer(optimizer: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Return the optimiser that a config names, with its momentum, weight decay and clipping.

    Weight decay is added to the gradient of kernels (L2), as in PyTorch's SGD and Adam. 'adamw' subtracts it from the
    kernels directly, times the learning rate (Loshchilov and Hutter 2019). 'lars' (You et al. 2017, "Large batch
    training of convolutional networks", algorithm 1) scales the gradient of each kernel to TRUST_COEFFICIENT times the
    norm of the kernel; biases and normalisation follow plain SGD. Gradients are clipped first, as in PyTorch.

    If a number is traced, its part of the optimiser is always built, as the number may not be 0.
    """
    decay, chain = optimizer.weight_decay, []
    if not is_zero(optimizer.clip_norm):
        chain.append(optax.clip_by_global_norm(optimizer.clip_norm))
    if not is_zero(decay) and optimizer.name != "adamw":
        chain.append(optax.add_decayed_weights(decay, decays))
    if optimizer.name == "sgd":
        momentum = None if is_zero(optimizer.momentum) else optimizer.momentum
        chain.append(optax.sgd(schedule, momentum, optimizer.nesterov))
    elif optimizer.name == "adam":
        chain.append(optax.adam(schedule))
    elif optimizer.name == "adamw":
        chain.append(optax.adamw(schedule, weight_decay=decay, mask=decays))
    else:  # lars divides by the norm of the decayed gradient, as most implementations do
        chain.append(optax.lars(schedule, trust_coefficient=TRUST_COEFFICIENT, trust_ratio_mask=decays,
                                momentum=optimizer.momentum, nesterov=optimizer.nesterov))
    return optax.chain(*chain) if len(chain) > 1 else chain[0]
