"""Test, validation and smaller training splits: stratified, and always the same."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modern_cnn import settings
from modern_cnn.data.spec import Arrays
from modern_cnn.data.splits import divide_train, stratified_holdout
from modern_cnn.errors import UserError
from tests.data import files


def rows(images, labels) -> list[bytes]:
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


LABELS = st.lists(st.integers(0, 5), min_size=2, max_size=80).map(np.array)


@given(LABELS, st.data())
def test_stratified_holdout(labels, data):
    count = data.draw(st.integers(1, len(labels) - 1))
    chosen = stratified_holdout(labels, count)
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < len(labels)
    np.testing.assert_array_equal(chosen, stratified_holdout(labels, count))
    classes, sizes = np.unique(labels, return_counts=True)
    got = np.array([(labels[chosen] == c).sum() for c in classes])
    assert (abs(got * len(labels) - sizes * count) <= len(labels)).all()  # within 1 of its share
    spare = np.minimum(sizes * count // len(labels) + 1, sizes - 1)
    assert (got < sizes).all() or spare.sum() < count  # a class loses its last example only where that must be


def test_stratified_holdout_is_the_same_in_every_version():
    assert stratified_holdout(np.repeat([0, 1, 2], [10, 5, 3]), 6).tolist() == [2, 4, 8, 10, 11, 16]


def test_validation_is_stratified_fixed_and_disjoint():
    whole, held = files.load("digits"), files.load("digits", validation=0.1)
    assert held.spec.sizes == {"train": 1293, "validation": 144, "test": 360}
    assert files.same(held, files.load("digits", validation=0.1))
    counts = np.bincount(whole.splits["train"][1])
    np.testing.assert_allclose(np.bincount(held.splits["validation"][1]), counts * 144 / 1437, atol=1)
    parts = rows(*held.splits["train"]) + rows(*held.splits["validation"])
    assert sorted(parts) == rows(*whole.splits["train"])
    assert rows(*held.splits["test"]) == rows(*whole.splits["test"])
    assert whole.spec.digest == held.spec.digest


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, 1e-9])
def test_validation_out_of_range(fraction):
    with pytest.raises(UserError, match=r"config\.data\.validation"):
        files.load("digits", validation=fraction)


def test_validation_beside_the_sets_own(tmp_path):
    for split in ("train", "validation", "test"):
        files.write_images(tmp_path / split)
    with pytest.raises(UserError, match="a validation split of its own"):
        files.load(f"folder:{tmp_path}", validation=0.1)


def test_holdout_never_empties_a_class_silently(tmp_path):
    files.write_images(tmp_path, ["a", "b", "c", "d"], count=1)
    with pytest.raises(UserError, match=r"no test split: holding out 1 of 4 .* none of class 0"):
        files.load(f"folder:{tmp_path}")
    files.write_images(tmp_path, ["e"], count=16)
    assert np.bincount(files.load(f"folder:{tmp_path}").splits["train"][1]).tolist() == [1, 1, 1, 1, 12]


def test_train_size_keeps_a_stratified_part_that_grows():
    """Validation is held out first; test images stay; each part contains the smaller parts, except for rounding."""
    whole = files.load("digits", validation=0.1)
    before = set()
    for count in (50, 200, 1000, 1293):
        part = files.load("digits", validation=0.1, train_size=count)
        assert part.spec.sizes == {"train": count, "validation": 144, "test": 360}
        assert files.same(part, files.load("digits", validation=0.1, train_size=count))
        shares = np.bincount(whole.splits["train"][1]) * count / 1293
        np.testing.assert_allclose(np.bincount(part.splits["train"][1]), shares, atol=1)
        images = rows(*part.splits["train"])
        assert not set(images) - set(rows(*whole.splits["train"]))
        assert len(before - set(images)) <= 10  # a class may give up an example to another
        before = set(images)
    assert before == set(rows(*whole.splits["train"]))
    assert rows(*part.splits["test"]) == rows(*whole.splits["test"])


def test_train_size_of_a_stream(tmp_path):
    files.write_images(tmp_path, count=10)
    dataset = files.load(f"folder:{tmp_path}", stream=True, image_size=8, train_size=4)
    assert dataset.spec.sizes["train"] == len(dataset.splits["train"]) == 4


@pytest.mark.parametrize(("count", "words"), [(1438, "digits has 1437 training images"), (-1, "train_size=-1"),
                                              (9, "none of class")])
def test_a_train_size_that_cannot_be(count, words):
    with pytest.raises(UserError, match=words):
        files.load("digits", train_size=count)


def test_runs_of_earlier_versions_have_no_train_size():
    splits = {"train": Arrays(np.zeros((4, 1)), np.array([0, 1, 0, 1]))}
    assert divide_train(splits, settings.from_json({"data": {"source": "x", "validation": 0.0}}).data) is splits
