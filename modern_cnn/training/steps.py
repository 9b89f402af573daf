"""The pure training and evaluation steps. jit and pmap compile these very functions."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from modern_cnn.training.metrics import Metrics, cross_entropy
from modern_cnn.training.state import TrainState

AUX_WEIGHT = 0.3  # Szegedy et al. 2014, section 5
Batch = dict[str, jax.Array]


def train_step(state: TrainState, batch: Batch, key: jax.Array, *, label_smoothing: float | jax.Array = 0.0,
               ema_decay: float | jax.Array = 0.0, accumulate: int = 1,
               axis_name: str | None = None) -> tuple[TrainState, Metrics]:
    """One step of gradient descent on the mean cross-entropy of a batch.

    Where a network sows auxiliary logits (GoogLeNet), AUX_WEIGHT times the cross-entropy of each is added.

    Args:
      state: what the step before left; where it holds averages, they move on with `ema_decay`.
      batch: 'image' float [N, H, W, C] and 'label' int [N]; of mixed images (`augment.mix`) also 'other' int [N] and
        'share' [N]: so much of the loss is the other label's.
      label_smoothing: see `cross_entropy`.
      ema_decay: see `TrainState.average`.
      key: the run's key, the same at every step; dropout draws from it folded with `state.step`.
      accumulate: go through the batch in so many equal parts, one after the other, and add their gradients: the memory
        of a part, and the same step but for batch norm, whose statistics are those of a part.
      axis_name: under pmap or shard_map, where `batch` is a device's share: gradients, metrics and running statistics
        are averaged over this axis, and every device drops out differently.
    Returns:
      The next state, and the batch's metrics (of the main logits alone) under the parameters before the step: the loss
      that is lowered, and how often `label` was right.
    """
    key = jax.random.fold_in(key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))

    def loss_of(params, collections, part, rng):
        logits, collections = state.module.apply({"params": params, **collections}, part["image"], train=True,
                                                 mutable=[*collections, "aux_logits"], rngs={"dropout": rng})
        losses = _losses(logits, part, label_smoothing)
        loss = jnp.mean(losses)
        for auxiliary in jax.tree.leaves(collections.pop("aux_logits", {})):
            loss += AUX_WEIGHT * jnp.mean(_losses(auxiliary, part, label_smoothing))
        return loss, (collections, Metrics.of(logits, part["label"], step=state.step + 1, losses=losses))

    gradient = jax.grad(loss_of, has_aux=True)
    if accumulate == 1:
        gradients, (collections, metrics) = gradient(state.params, state.collections, batch, key)
    else:
        gradients, (collections, metrics) = _in_parts(gradient, accumulate, state, batch, key)
    if axis_name is not None:
        gradients, collections = lax.pmean((gradients, collections), axis_name)
        metrics = metrics.over(axis_name)
    updates, opt_state = state.optimizer.update(gradients, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), state.params, updates)
    state = state.replace(step=state.step + 1, params=params, collections=collections, opt_state=opt_state)
    return state.average(ema_decay), metrics


def _losses(logits: jax.Array, batch: Batch, smoothing: float | jax.Array) -> jax.Array:
    """The cross-entropy of each example [N]: where two images were mixed, that of both labels by their shares."""
    losses = cross_entropy(logits, batch["label"], smoothing)
    if "other" not in batch:
        return losses
    return (1 - batch["share"]) * losses + batch["share"] * cross_entropy(logits, batch["other"], smoothing)


def _in_parts(gradient: Callable, count: int, state: TrainState, batch: Batch, key: jax.Array):
    """What `gradient` returns, the mean over `count` parts of the batch, taken one after the other."""
    # Part i is every count-th example, so that each part of a batch that is split over devices is split over them too.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)

    def add(carried, part):
        total, collections, metrics = carried
        gradients, (collections, new) = gradient(state.params, collections, part[1], jax.random.fold_in(key, part[0]))
        return (jax.tree.map(jnp.add, total, gradients), collections, metrics.merge(new)), None

    start = jax.tree.map(jnp.zeros_like, state.params), state.collections, Metrics.empty()
    # XLA's CPU compiler runs convolutions inside a loop several times slower than outside: there the loop is unrolled.
    unroll = count if jax.default_backend() == "cpu" else 1
    (total, collections, metrics), _ = lax.scan(add, start, (jnp.arange(count), parts), unroll=unroll)
    return jax.tree.map(lambda x: x / count, total), (collections, metrics)


def eval_step(state: TrainState, batch: Batch, *, flip: bool = False) -> Metrics:
    """Metrics of a batch in evaluation mode: 'image', 'label' and 'mask' bool [N], False for padding.

    With `flip` an example's logits are the mean of those of its image and of the mirrored one.
    """
    images = batch["image"]
    if flip:  # an image beside its mirror image: each device keeps its share
        images = jnp.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])
    logits = state.module.apply(state.evaluation_variables, images, train=False)
    if flip:
        logits = logits.reshape(len(logits) // 2, 2, -1).mean(axis=1)
    return Metrics.of(logits, batch["label"], batch["mask"])
