"""Loss and accuracy as sums and counts, so that batches of any size merge exactly."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from modern_cnn.functional.regularize import is_zero

TOP5_ABOVE = 10  # top-5 accuracy is measured for more classes than this


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float | jax.Array = 0.0) -> jax.Array:
    """Return the softmax cross-entropy of each example in nats, float32: logits [N, K], labels int [N] -> [N].

    With label smoothing (Szegedy et al. 2015, "Rethinking the Inception architecture", section 7) the target
    distribution gives 1 - smoothing to the label and divides smoothing equally among all K classes.
    """
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if is_zero(smoothing):
        return losses
    return (1 - smoothing) * losses - smoothing * jnp.mean(jax.nn.log_softmax(logits), axis=1)


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the weight of each class, float32 [K], with which all classes of labels int [N] have the same weight.

    They are N / (K' * images of the class), with K' classes that have images; their mean over the images is 1. A class
    without images has weight 0. King and Zeng 2001, "Logistic regression in rare events data", as in scikit-learn.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0).astype(np.float32)


class Metrics(struct.PyTreeNode):
    """Sums over examples: loss, correct predictions, count. `bad_step`: first step with a loss not finite, or -1."""
    loss: jax.Array
    correct: jax.Array
    correct_top5: jax.Array
    count: jax.Array
    bad_step: jax.Array

    @classmethod
    def empty(cls) -> "Metrics":
        """Return the metrics of no examples. Every field is a separate array, so that all can be donated."""
        return cls(jnp.zeros((), jnp.float32), *(jnp.full((), value, jnp.int32) for value in (0, 0, 0, -1)))

    @classmethod
    def from_batch(cls, logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None,
                   step: jax.Array | int = -1, losses: jax.Array | None = None) -> "Metrics":
        """Return the metrics of a batch: logits [N, K], and labels int [N].

        Examples where `mask`, bool [N], is False do not count. `step` is stored in `bad_step` if the loss is not
        finite. `losses` [N] are those that training minimises, if they are not the cross-entropy.
        """
        mask = jnp.ones(labels.shape, bool) if mask is None else mask
        losses = jnp.where(mask, cross_entropy(logits, labels) if losses is None else losses, 0)
        # The rank of a label is the number of classes ahead of it. Among equal logits the first class is ahead, as in
        # argmax; otherwise a dead network would always be right. NaN is ahead of all, so it is never correct.
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)
        first = jnp.arange(logits.shape[1]) < labels[:, None]
        rank = jnp.sum(~(logits <= own) | ((logits == own) & first), axis=1)
        loss = jnp.sum(losses)
        return cls(loss, jnp.sum(mask & (rank < 1)), jnp.sum(mask & (rank < 5)), jnp.sum(mask, dtype=jnp.int32),
                   jnp.where(jnp.isfinite(loss), -1, step).astype(jnp.int32))

    def merge(self, other: "Metrics") -> "Metrics":
        """Return the metrics of both batches together; `self` came first."""
        return Metrics(self.loss + other.loss, self.correct + other.correct, self.correct_top5 + other.correct_top5,
                       self.count + other.count, jnp.where(self.bad_step >= 0, self.bad_step, other.bad_step))

    def psum(self, axis_name: str) -> "Metrics":
        """Return the metrics of the shares of all devices together, inside pmap or shard_map."""
        loss, correct, top5, count = lax.psum((self.loss, self.correct, self.correct_top5, self.count), axis_name)
        return Metrics(loss, correct, top5, count, lax.pmax(self.bad_step, axis_name))

    def means(self, num_classes: int) -> dict[str, float]:
        """Wait for the device, and return the means: 'loss', 'accuracy' and, above TOP5_ABOVE classes, 'top5'."""
        host = jax.device_get(self)
        count = max(int(host.count), 1)
        means = {"loss": float(host.loss) / count, "accuracy": int(host.correct) / count}
        if num_classes > TOP5_ABOVE:
            means["top5"] = int(host.correct_top5) / count
        return means
