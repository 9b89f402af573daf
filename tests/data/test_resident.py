"""The order of images, and batches that visit each once."""
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modern_cnn.data import augment, resident


@given(st.integers(0, 2 ** 32 - 1), st.integers(0, 1000), st.integers(1, 300))
def test_epoch_order_is_a_permutation(seed, epoch, size):
    order = resident.epoch_order(seed, epoch, size)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    np.testing.assert_array_equal(order, resident.epoch_order(seed, epoch, size))


def test_epoch_order_differs_by_epoch_and_seed():
    orders = {tuple(resident.epoch_order(seed, epoch, 50)) for seed in (-1, 0, 1, 2) for epoch in range(5)}
    assert len(orders) == 20


def test_epoch_order_is_the_same_in_every_version():
    """Runs that are resumed with another numpy rely on it."""
    assert resident.epoch_order(0, 0, 100)[:5].tolist() == [71, 89, 62, 32, 90]
    assert resident.epoch_order(0, 1, 100)[:5].tolist() == [26, 13, 3, 79, 48]


@given(st.integers(0, 2**32), st.integers(0, 99), st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_balanced_order_has_as_many_of_each_class(seed, epoch, labels):
    """And of each image of a class, to one."""
    labels = np.array(labels)
    order = resident.balanced_order(seed, epoch, labels)
    assert (order.dtype, order.shape) == (np.int32, labels.shape)
    counts = [np.sum(labels[order] == c) for c in np.unique(labels)]
    assert max(counts) - min(counts) <= 1
    for c in np.unique(labels):
        times = np.bincount(order, minlength=len(labels))[labels == c]
        assert times.max() - times.min() <= 1
    np.testing.assert_array_equal(order, resident.balanced_order(seed, epoch, labels))


def test_balanced_order_differs_by_epoch_and_seed_and_not_by_version():
    labels = np.repeat([0, 1, 2], [3, 30, 7])
    orders = {tuple(resident.balanced_order(seed, epoch, labels)) for seed in (0, 1) for epoch in range(5)}
    assert len(orders) == 10
    assert resident.balanced_order(0, 1, labels)[:6].tolist() == [27, 20, 1, 22, 30, 2]
    assert np.mean(np.diff(labels[resident.balanced_order(0, 1, labels)]) == 0) < 0.6  # the classes are mixed


@given(st.integers(1, 200), st.integers(1, 250))
def test_evaluation_visits_each_example_once(size, batch_size):
    visited = resident.evaluation_batches(size, batch_size)
    assert {(indices.shape, mask.shape) for indices, mask in visited} == {((batch_size,), (batch_size,))}
    assert all(indices.dtype == np.int32 and (indices >= 0).all() and (indices < size).all() for indices, _ in visited)
    counted = np.concatenate([indices[mask] for indices, mask in visited])
    np.testing.assert_array_equal(counted, np.arange(size))


def test_gather():
    images, labels = jnp.arange(24, dtype=jnp.uint8).reshape(6, 2, 2, 1), jnp.arange(6, dtype=jnp.int32)
    batch = resident.gather((images, labels), jnp.array([4, 0, 4]), (2, 2, 1))
    np.testing.assert_array_equal(batch["image"], images[np.array([4, 0, 4])])
    np.testing.assert_array_equal(batch["label"], [4, 0, 4])
    assert (batch["image"].dtype, batch["label"].dtype) == (jnp.uint8, jnp.int32)


def test_gather_enlarges_what_is_smaller():
    images = jnp.arange(36, dtype=jnp.uint8).reshape(6, 2, 3, 1)
    batch = resident.gather((images, jnp.arange(6)), jnp.array([4, 0]), (5, 5, 1))
    np.testing.assert_array_equal(batch["image"], augment.enlarge(images, 5)[np.array([4, 0])])
    batch = resident.gather((images, jnp.arange(6)), jnp.array([4, 0]), (2, 3, 1))  # an oblong set as it is
    np.testing.assert_array_equal(batch["image"], images[np.array([4, 0])])
