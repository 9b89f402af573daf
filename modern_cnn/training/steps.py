"""The pure training and evaluation steps. jit and pmap compile these very functions."""
import jax
import jax.numpy as jnp

from modern_cnn.training.metrics import Metrics, cross_entropy
from modern_cnn.training.state import TrainState

AUX_WEIGHT = 0.3  # Szegedy et al. 2014, section 5
Batch = dict[str, jax.Array]


def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
    """One step of gradient descent on the mean cross-entropy of a batch.

    Where a network sows auxiliary logits (GoogLeNet), AUX_WEIGHT times the cross-entropy of each is added.

    Args:
      state: what the step before left.
      batch: 'image' float [N, H, W, C] and 'label' int [N].
      key: the run's key, the same at every step; dropout draws from it folded with `state.step`.
    Returns:
      The next state, and the batch's metrics (of the main logits alone) under the parameters before the step.
    """
    rngs = {"dropout": jax.random.fold_in(key, state.step)}

    def loss_of(params):
        logits, collections = state.module.apply(
            {"params": params, **state.collections}, batch["image"], train=True,
            mutable=[*state.collections, "aux_logits"], rngs=rngs)
        loss = jnp.mean(cross_entropy(logits, batch["label"]))
        for auxiliary in jax.tree.leaves(collections.pop("aux_logits", {})):
            loss += AUX_WEIGHT * jnp.mean(cross_entropy(auxiliary, batch["label"]))
        return loss, (logits, collections)

    gradients, (logits, collections) = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = state.optimizer.update(gradients, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), state.params, updates)
    metrics = Metrics.of(logits, batch["label"], step=state.step + 1)
    return state.replace(step=state.step + 1, params=params, collections=collections, opt_state=opt_state), metrics


def eval_step(state: TrainState, batch: Batch) -> Metrics:
    """Metrics of a batch in evaluation mode: 'image', 'label' and 'mask' bool [N], False for padding."""
    logits = state.module.apply(state.variables, batch["image"], train=False)
    return Metrics.of(logits, batch["label"], batch["mask"])
