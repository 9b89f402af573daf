"""The training step and the evaluation step as pure functions. jit and pmap compile these same functions."""
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict
from jax import lax

from modern_cnn.training.metrics import Metrics, cross_entropy
from modern_cnn.training.state import TrainState

AUX_WEIGHT = 0.3  # Szegedy et al. 2014, section 5
Batch = dict[str, jax.Array]


def train_step(state: TrainState, batch: Batch, key: jax.Array, *, label_smoothing: float | jax.Array = 0.0,
               ema_decay: float | jax.Array = 0.0, accumulate: int = 1,
               axis_name: str | None = None) -> tuple[TrainState, Metrics]:
    """Return the state after one step of gradient descent on the mean cross-entropy of a batch, and the metrics.

    If a network sows auxiliary logits (GoogLeNet), AUX_WEIGHT times the cross-entropy of each is added to the loss. The
    metrics are those of the main logits before the step: the loss that is minimised, and how often `label` was right.

    Args:
      batch: 'image' float [N, H, W, C] and 'label' int [N]; for mixed images (`augment.mix`) also 'other' int [N] and
        'share' [N], the share of the other label in the loss; with class weights 'label_weight' and 'other_weight' [N],
        which multiply the losses of the labels. The loss is their mean over N, not over the sum of the weights.
      key: the key of the run, the same at every step; dropout draws from it folded with `state.step`.
      label_smoothing, ema_decay: see `cross_entropy` and `TrainState.average`.
      accumulate: process the batch in this many equal parts, one after the other, and add their gradients. It takes the
        memory of one part; the step is the same, except that batch norm uses the statistics of a part.
      axis_name: under pmap or shard_map, where `batch` is the share of a device: average gradients, metrics and running
        statistics over this axis, and draw another dropout on every device.
    """
    gradients, collections, metrics = _mean_gradients(state, batch, key, label_smoothing, accumulate, axis_name)
    updates, opt_state = state.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(step=state.step + 1, params=params, collections=collections, opt_state=opt_state)
    return state.average(ema_decay), metrics


def kernel_gradients(state: TrainState, batch: Batch, key: jax.Array, *, label_smoothing: float | jax.Array = 0.0,
                     accumulate: int = 1, axis_name: str | None = None) -> dict[str, jax.Array]:
    """Return {layer: root mean square of the gradient of its kernel} in the `train_step` of the same arguments.

    A layer is named by its path, 'block1/conv2', a kernel with another name by its own ('conv1/depthwise_kernel'); the
    blocks of a scan, whose kernels are one array, count as one layer.
    """
    gradients, _, _ = _mean_gradients(state, batch, key, label_smoothing, accumulate, axis_name)
    flat: dict[str, Any] = flatten_dict(gradients, sep="/")
    return {path.removesuffix("/kernel"): jnp.sqrt(jnp.mean(jnp.square(gradient)))
            for path, gradient in flat.items() if path.endswith("kernel")}


def _mean_gradients(state: TrainState, batch: Batch, key: jax.Array, label_smoothing: float | jax.Array,
                    accumulate: int, axis_name: str | None) -> tuple[Any, dict[str, Any], Metrics]:
    """Return the gradients of a batch's loss, the other collections after it, and the metrics: see `train_step`."""
    key = jax.random.fold_in(key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))

    def mean_loss(params, collections, part, key):
        logits, new = state.module.apply({"params": params, **collections}, part["image"], train=True,
                                         mutable=[*collections, "aux_logits"], rngs={"dropout": key})
        collections = dict(new)
        losses = _losses(logits, part, label_smoothing)
        loss = jnp.mean(losses)
        for auxiliary in jax.tree.leaves(collections.pop("aux_logits", {})):
            loss += AUX_WEIGHT * jnp.mean(_losses(auxiliary, part, label_smoothing))
        return loss, (collections, Metrics.from_batch(logits, part["label"], step=state.step + 1, losses=losses))

    gradient = jax.grad(mean_loss, has_aux=True)
    if accumulate == 1:
        gradients, (collections, metrics) = gradient(state.params, state.collections, batch, key)
    else:
        gradients, (collections, metrics) = _in_parts(gradient, accumulate, state, batch, key)
    if axis_name is not None:
        gradients, collections = lax.pmean((gradients, collections), axis_name)
        metrics = metrics.psum(axis_name)
    return gradients, collections, metrics


def _losses(logits: jax.Array, batch: Batch, smoothing: float | jax.Array) -> jax.Array:
    """Return the loss of each example [N]: its cross-entropy, weighted by its class where there are class weights.

    For mixed images it is that of both labels by their shares.
    """
    def losses(label):
        found, weight = cross_entropy(logits, batch[label], smoothing), f"{label}_weight"
        return found * batch[weight] if weight in batch else found

    if "other" not in batch:
        return losses("label")
    return (1 - batch["share"]) * losses("label") + batch["share"] * losses("other")


def _in_parts(gradient: Callable, count: int, state: TrainState, batch: Batch,
              key: jax.Array) -> tuple[Any, tuple[dict[str, Any], Metrics]]:
    """Return what `gradient` returns, its mean over `count` parts of the batch, computed one after the other."""
    # Part i holds every count-th example: each part of a batch that is sharded over devices is then sharded too.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)

    def add(carried, part):
        # Without the barrier XLA's CPU compiler computes all parts side by side, in the memory of the whole batch.
        (total, collections, metrics), part = lax.optimization_barrier((carried, part))
        gradients, (collections, new) = gradient(state.params, collections, part[1], jax.random.fold_in(key, part[0]))
        return (jax.tree.map(jnp.add, total, gradients), collections, metrics.merge(new)), None

    start = jax.tree.map(jnp.zeros_like, state.params), state.collections, Metrics.empty()
    # XLA's CPU compiler makes convolutions several times slower inside a loop, so on CPUs the loop is unrolled.
    unroll = count if jax.default_backend() == "cpu" else 1
    (total, collections, metrics), _ = lax.scan(add, start, (jnp.arange(count), parts), unroll=unroll)
    return jax.tree.map(lambda x: x / count, total), (collections, metrics)


def eval_step(state: TrainState, batch: Batch, *, flip: bool = False, shift: int = 0) -> Metrics:
    """Return the metrics of a batch in evaluation mode; `flip` and `shift` are those of `evaluation_logits`.

    The batch is 'image' [N, H, W, C], 'label' int [N] and 'mask' bool [N], False for padding.
    """
    logits = evaluation_logits(state.module, state.evaluation_variables, batch["image"], flip, shift)
    return Metrics.from_batch(logits, batch["label"], batch["mask"])


def evaluation_logits(module: nn.Module, variables: Any, images: jax.Array, flip: bool, shift: int = 0) -> jax.Array:
    """Return the logits of a batch in evaluation mode; with `flip` their mean over each image and its mirror image.

    With `shift`, half of the weight has the mean over the image moved by so many pixels to the upper left and to the
    lower right, with its edges reflected: with `flip` six views (Jordan 2024, section 3.5).
    """
    if shift:
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), "reflect")
        moved = [padded[:, at:at + height, at:at + width] for at in (0, 2 * shift)]
        # One after the other: the activations of all views at once would take three times the memory.
        own, *others = (evaluation_logits(module, variables, view, flip) for view in (images, *moved))
        return own / 2 + (others[0] + others[1]) / 4
    if flip:  # each image is next to its mirror image, so that each device keeps its share
        images = jnp.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])
    logits = cast(jax.Array, module.apply(variables, images, train=False))
    return logits.reshape(-1, 2, logits.shape[-1]).mean(axis=1) if flip else logits
