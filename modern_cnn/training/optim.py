"""Optimisers and learning-rate schedules by name, from a config and the numbers derived at run time."""
import itertools

import jax
import optax

from modern_cnn.errors import UserError, did_you_mean
from modern_cnn.settings import is_zero

SCHEDULES = ("constant", "step", "cosine")
OPTIMIZERS = ("sgd", "adam", "adamw", "lars")
TRUST = 0.001  # of LARS: a kernel's step is so much of its norm, times the learning rate


def peak_learning_rate(optimizer, batch_size: int) -> float:
    """`optimizer.learning_rate`, scaled by batch_size / optimizer.base_batch_size where that is not 0.

    The linear scaling rule of Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.1.
    """
    if not isinstance(optimizer.learning_rate, jax.Array) and optimizer.learning_rate <= 0:
        raise UserError(f"config.optimizer.learning_rate must be above 0, not {optimizer.learning_rate}")
    base = optimizer.base_batch_size
    return optimizer.learning_rate * (batch_size / base if base else 1.0)


def make_schedule(schedule, peak: float, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step.

    Args:
      schedule: a config's section: name (one of SCHEDULES), warmup_epochs (linear from 0), and for 'step' the
        milestones (epochs) and the factor that each multiplies by.
      peak: the learning rate after warm-up; like the factor, it may be a traced number.
    Raises:
      UserError: an unknown name, or a warm-up that outlasts the run.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if warmup and warmup >= total_steps:
        raise UserError(f"config.schedule.warmup_epochs={schedule.warmup_epochs} is {warmup} steps, "
                        f"but the whole run has {total_steps}")
    if schedule.name == "constant":
        after = optax.constant_schedule(peak)
    elif schedule.name == "step":
        # optax.piecewise_constant_schedule would look whether the factor is positive, which a traced one does not tell.
        drops = sorted(round(epoch * steps_per_epoch) - warmup for epoch in schedule.milestones)
        rates = itertools.accumulate(drops, lambda rate, _: rate * schedule.factor, initial=peak)
        after = optax.join_schedules([optax.constant_schedule(rate) for rate in rates], drops)
    elif schedule.name == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup))
    else:
        raise UserError(f"config.schedule.name={schedule.name!r} is unknown{did_you_mean(schedule.name, SCHEDULES)}")
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def decays(params) -> dict:
    """True for the leaves that weight decay touches: kernels, never biases nor normalisation's scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


def make_optimizer(optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser of a config's section: name (one of OPTIMIZERS), momentum, nesterov, weight_decay, clip_norm.

    Weight decay is added to the gradient of kernels (L2), as in PyTorch's SGD and Adam; with 'adamw' it is taken off
    them apart from the gradient, times the learning rate (Loshchilov and Hutter 2019). 'lars' (You et al. 2017, "Large
    batch training of convolutional networks", algorithm 1) scales each kernel's gradient to TRUST of the kernel's norm;
    biases and normalisation follow plain SGD. Gradients are clipped before all of that, as in PyTorch.

    The numbers may be traced ones: nothing is left out then, so their optimiser's state has every part.

    Raises:
      UserError: an unknown name.
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
    elif optimizer.name == "lars":  # the decayed gradient's norm is what it divides by, as in most implementations
        chain.append(optax.lars(schedule, trust_coefficient=TRUST, trust_ratio_mask=decays,
                                momentum=optimizer.momentum, nesterov=optimizer.nesterov))
    else:
        raise UserError(f"config.optimizer.name={optimizer.name!r} is unknown"
                        f"{did_you_mean(optimizer.name, OPTIMIZERS)}")
    return optax.chain(*chain) if len(chain) > 1 else chain[0]
