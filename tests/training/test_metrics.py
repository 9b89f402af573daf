"""Metrics against PyTorch's cross-entropy and topk, and the arithmetic of sums."""
import jax
import jax.numpy as jnp
import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight

from modern_cnn.training.metrics import Metrics, balanced_weights, cross_entropy


def batch(n=257, classes=23, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, classes)).astype(np.float32) * 3, rng.integers(0, classes, n).astype(np.int32)


def test_equal_to_torch():
    logits, labels = batch()
    means = Metrics.from_batch(jnp.asarray(logits), jnp.asarray(labels)).means(23)
    t, y = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels, dtype=torch.long)
    top = t.topk(5).indices == y[:, None]
    assert np.isclose(means["loss"], torch.nn.functional.cross_entropy(t, y).item(), rtol=1e-6)
    assert means["accuracy"] == top[:, 0].double().mean().item()
    assert means["top5"] == top.any(1).double().mean().item()


def test_top5_is_left_out_for_ten_classes_and_fewer():
    logits, labels = batch(classes=10)
    assert set(Metrics.from_batch(logits, labels).means(10)) == {"loss", "accuracy"}
    assert set(Metrics.from_batch(logits, labels).means(11)) == {"loss", "accuracy", "top5"}


def test_merging_batches_equals_the_whole_and_masked_examples_count_nowhere():
    logits, labels = batch()
    whole = Metrics.from_batch(logits, labels)
    padding = np.where(np.arange(43)[:, None] % 2, np.nan, np.eye(23)[0]).astype(np.float32)  # NaN, or right
    padded_logits = np.concatenate([logits[200:], padding])
    padded_labels = np.concatenate([labels[200:], np.zeros(43, np.int32)])
    parts = Metrics.from_batch(logits[:200], labels[:200]).merge(
        Metrics.from_batch(padded_logits, padded_labels, jnp.arange(100) < 57))
    assert int(parts.count) == 257
    assert (int(parts.correct), int(parts.correct_top5)) == (int(whole.correct), int(whole.correct_top5))
    assert np.isclose(parts.loss, whole.loss, rtol=1e-6)
    assert Metrics.empty().merge(whole).means(23) == whole.means(23)


def test_nan_logits_are_never_correct_and_the_first_bad_step_is_kept():
    nan = Metrics.from_batch(jnp.full((4, 12), jnp.nan), jnp.zeros(4, jnp.int32), step=7)
    assert (int(nan.correct), int(nan.correct_top5), int(nan.bad_step)) == (0, 0, 7)
    good = Metrics.from_batch(jnp.zeros((4, 12)), jnp.zeros(4, jnp.int32), step=6)
    later = Metrics.from_batch(jnp.full((4, 12), jnp.inf), jnp.zeros(4, jnp.int32), step=8)
    assert int(Metrics.empty().bad_step) == int(good.bad_step) == -1
    assert int(good.merge(nan).merge(later).bad_step) == 7


def test_equal_logits_rank_as_in_argmax():
    constant = Metrics.from_batch(jnp.zeros((100, 20)), jnp.arange(100) % 20).means(20)
    assert (constant["accuracy"], constant["top5"]) == (0.05, 0.25)
    coarse = jnp.round(jax.random.normal(jax.random.key(0), (500, 10)) * 2)
    labels = jnp.arange(500) % 10
    assert int(Metrics.from_batch(coarse, labels).correct) == int(jnp.sum(jnp.argmax(coarse, 1) == labels))


def test_bfloat16_logits_are_summed_in_float32():
    metrics = Metrics.from_batch(jnp.zeros((3, 4), jnp.bfloat16), jnp.zeros(3, jnp.int32))
    assert metrics.loss.dtype == jnp.float32
    assert jax.tree.map(lambda x: x.shape, metrics) == jax.tree.map(lambda x: x.shape, Metrics.empty())


def test_label_smoothing_is_torchs():
    logits, labels = batch()
    for smoothing in (0.0, 0.1, 1.0):
        theirs = torch.nn.functional.cross_entropy(
            torch.tensor(logits, dtype=torch.float64), torch.tensor(labels, dtype=torch.long), reduction="none",
            label_smoothing=smoothing)
        for ours in (cross_entropy(logits, labels, smoothing), jax.jit(cross_entropy)(logits, labels, smoothing)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    """A class without images has none."""
    labels = np.repeat([0, 1, 3], [100, 1, 30])
    weights = balanced_weights(labels, 5)
    wanted = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(weights[[0, 1, 3]], wanted, rtol=1e-6)
    assert (weights[2], weights[4], weights.dtype) == (0, 0, np.float32)
    np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-6)
