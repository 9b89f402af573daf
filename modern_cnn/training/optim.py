"""Optimisers and learning-rate schedules by name, from a config and the numbers derived at run time."""
import jax
import optax

from modern_cnn.errors import UserError, did_you_mean

SCHEDULES = ("constant", "step", "cosine")
OPTIMIZERS = ("sgd", "adam")


def peak_learning_rate(optimizer, batch_size: int) -> float:
    """`optimizer.learning_rate`, scaled by batch_size / optimizer.base_batch_size where that is not 0.

    The linear scaling rule of Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.1.
    """
    if optimizer.learning_rate <= 0:
        raise UserError(f"config.optimizer.learning_rate must be above 0, not {optimizer.learning_rate}")
    base = optimizer.base_batch_size
    return optimizer.learning_rate * (batch_size / base if base else 1.0)


def make_schedule(schedule, peak: float, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step.

    Args:
      schedule: a config's section: name (one of SCHEDULES), warmup_epochs (linear from 0), and for 'step' the
        milestones (epochs) and the factor that each multiplies by.
      peak: the learning rate after warm-up.
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
        drops: dict[int, float] = {}
        for epoch in schedule.milestones:
            step = round(epoch * steps_per_epoch) - warmup
            drops[step] = drops.get(step, 1.0) * schedule.factor
        after = optax.piecewise_constant_schedule(peak, drops)
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
    """The optimiser of a config's section: name (one of OPTIMIZERS), momentum, nesterov, weight_decay.

    Weight decay is added to the gradient of kernels (L2), as in PyTorch's SGD and Adam.

    Raises:
      UserError: an unknown name.
    """
    if optimizer.name == "sgd":
        base = optax.sgd(schedule, optimizer.momentum or None, optimizer.nesterov)
    elif optimizer.name == "adam":
        base = optax.adam(schedule)
    else:
        raise UserError(f"config.optimizer.name={optimizer.name!r} is unknown"
                        f"{did_you_mean(optimizer.name, OPTIMIZERS)}")
    if not optimizer.weight_decay:
        return base
    return optax.chain(optax.add_decayed_weights(optimizer.weight_decay, decays), base)
