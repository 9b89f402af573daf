"""From `config.data.source` to arrays: where sets are found, what is cached, what is held out."""
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modern_cnn.data import formats, tfds
from modern_cnn.errors import UserError
from tests.data import files

DIGITS = "3e5d0f8c6a02b433"  # of the split that every result on digits was measured with


def same(a, b) -> bool:
    return a.spec == b.spec and all(np.array_equal(x, y) for split in a.splits
                                    for x, y in zip(a.splits[split], b.splits[split], strict=True))


@pytest.fixture
def asked(monkeypatch):
    """The sets that TFDS was asked for, which has them all: as 6x5, of no declared size where 'any' is in the name."""
    names = []

    def read(name, image_size, manual_dir):
        names.append(name)
        images = files.pixels(20, 6, 5, 1)
        own = "any" not in name and formats.kept(image_size, images.shape)
        split = images if own else formats.resize_array(images, image_size, name), files.labels(20).astype(np.int32)
        return {"train": split, "test": split}, [], own

    monkeypatch.setattr(tfds, "read", read)
    return names


# --- digits

def test_digits():
    dataset = files.load("digits")
    assert dataset.spec.sizes == {"train": 1437, "test": 360}
    assert dataset.spec.image_shape == (8, 8, 1)
    assert dataset.spec.num_classes == 10
    assert dataset.spec.digest == DIGITS
    images, labels = dataset.splits["train"]
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert (images.min(), images.max()) == (0, 255)
    counts = {split: np.bincount(dataset.splits[split][1]) for split in ("train", "test")}
    np.testing.assert_allclose(counts["test"], 360 / 1797 * (counts["train"] + counts["test"]), atol=1)


def test_digits_a_second_time_need_no_sklearn_and_never_tensorflow(cache):
    script = ("import sys; from tests.data import files; print(files.load('digits').spec.digest, "
              "*[name in sys.modules for name in ('sklearn', 'tensorflow', 'tensorflow_datasets')])")

    def start():
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert start() == [DIGITS, "True", "False", "False"]
    assert start() == [DIGITS, "False", "False", "False"]


# --- cache

def test_second_load_comes_from_the_cache(tmp_path, log):
    files.write_idx(tmp_path / "set")
    first = files.load(f"idx:{tmp_path / 'set'}")
    assert "decoding idx:" in log.text
    assert "from the cache" not in log.text
    log.clear()
    assert same(first, files.load(f"idx:{tmp_path / 'set'}"))
    files.load(f"idx:{tmp_path / 'set'}/")
    assert log.text.count("from the cache") == 2
    assert "decoding" not in log.text


def test_changed_files_are_decoded_again(tmp_path):
    files.write_idx(tmp_path / "set", zipped=False)
    before = files.load(f"idx:{tmp_path / 'set'}")
    files.write_idx(tmp_path / "set", zipped=False, train_images=files.pixels(20, 6, 5, seed=9))
    os.utime(tmp_path / "set" / files.IDX["train_images"], ns=(0, 0))
    after = files.load(f"idx:{tmp_path / 'set'}")
    assert before.spec.digest != after.spec.digest
    np.testing.assert_array_equal(after.splits["train"][0][..., 0], files.pixels(20, 6, 5, seed=9))


def test_a_new_file_in_a_folder_is_seen(tmp_path):
    files.write_images(tmp_path / "set", count=5)
    assert files.load(f"folder:{tmp_path / 'set'}").spec.sizes["train"] == 8
    files.write_images(tmp_path / "set", count=10)
    assert files.load(f"folder:{tmp_path / 'set'}").spec.sizes["train"] == 16


def test_larger_images_share_one_entry_of_their_own_size(tmp_path, cache):
    arrays = files.write_idx(tmp_path / "set")
    digests = set()
    for size in (224, 0, 6, 96):
        dataset = files.load(f"idx:{tmp_path / 'set'}", image_size=size)
        assert dataset.spec.image_shape == ((size, size, 1) if size else (6, 5, 1))
        np.testing.assert_array_equal(dataset.splits["train"][0][..., 0], arrays["train_images"])
        digests.add(dataset.spec.digest)
    assert len(digests) == len(list((cache / "datasets").iterdir())) == 1


def test_smaller_images_are_made_at_loading_and_have_entries_of_their_own(tmp_path, cache):
    arrays = files.write_idx(tmp_path / "set")
    for size in (0, 4, 5, 9, 4):  # 5 is less than the height
        dataset = files.load(f"idx:{tmp_path / 'set'}", image_size=size)
        expected = formats.resize_array(arrays["test_images"][..., None], 0 if size == 9 else size, "these")
        np.testing.assert_array_equal(dataset.splits["test"][0], expected)
        assert dataset.spec.image_shape[:2] == ((size, size) if size else (6, 5))
    assert len(list((cache / "datasets").iterdir())) == 3


def test_a_split_of_other_images_is_weighed_too(tmp_path):
    """Test images that are larger than wanted: none are kept; and no size at all is not the same size."""
    files.write_idx(tmp_path, test_images=files.pixels(10, 12, 12))
    dataset = files.load(f"idx:{tmp_path}", image_size=8)
    assert {images.shape[1:] for images, _ in dataset.splits.values()} == {(8, 8, 1)}
    dataset = files.load(f"idx:{tmp_path}", image_size=12)
    assert {images.shape[1:] for images, _ in dataset.splits.values()} == {(6, 5, 1), (12, 12, 1)}
    with pytest.raises(UserError, match=r"images of test are \(12, 12, 1\), of train \(6, 5, 1\).*image_size"):
        files.load(f"idx:{tmp_path}")


@pytest.mark.parametrize("source", ["folder:{}", "tfds:any_size"])
@pytest.mark.usefixtures("asked")
def test_images_of_no_one_size_are_resized_at_loading(source, tmp_path):
    files.write_images(tmp_path / "set", size=(5, 6))
    source = source.format(tmp_path / "set")
    digests = {files.load(source, image_size=size).spec.digest for size in (0, 9, 12)}
    assert len(digests) == 3
    assert files.load(source, image_size=9).splits["train"][0].shape[1:3] == (9, 9)


def test_tfds_with_one_size_is_enlarged_later(asked):
    for size in (9, 0, 224, 4, 4):
        dataset = files.load("tfds:cifar10", image_size=size)
        assert dataset.splits["train"][0].shape[1:3] == ((4, 4) if size == 4 else (6, 5))
    assert asked == ["cifar10"] * 2


@pytest.mark.parametrize("damage", [
    lambda entry: (entry / "train_images.npy").write_bytes((entry / "train_images.npy").read_bytes()[:-50]),
    lambda entry: (entry / "train_images.npy").write_bytes(b"garbage"),
    lambda entry: (entry / "test_labels.npy").write_bytes(b""),
    lambda entry: (entry / "test_labels.npy").unlink(),
    lambda entry: (entry / "meta.json").write_text(""),
    lambda entry: (entry / "meta.json").write_text("null"),
    lambda entry: (entry / "meta.json").write_text('{"splits": []}'),
], ids=["truncated", "garbage", "empty", "missing", "no meta", "null meta", "half meta"])
def test_damaged_entry_is_decoded_again(tmp_path, cache, log, damage):
    files.write_idx(tmp_path / "set")
    first = files.load(f"idx:{tmp_path / 'set'}")
    damage(next((cache / "datasets").iterdir()))
    log.clear()
    assert same(first, files.load(f"idx:{tmp_path / 'set'}"))
    assert "decoding" in log.text
    log.clear()
    assert same(first, files.load(f"idx:{tmp_path / 'set'}"))
    assert "from the cache" in log.text


def test_cache_that_cannot_be_written_only_warns(tmp_path, monkeypatch, log):
    files.write_idx(tmp_path / "set")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODERN_CNN_CACHE", str(tmp_path / "file" / "cache"))
    assert files.load(f"idx:{tmp_path / 'set'}").spec.sizes["train"] == 20
    warnings = [record.getMessage() for record in log.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "could not be cached" in warnings[0]


def test_full_disk_at_the_cache_leaves_nothing_behind(tmp_path, cache, monkeypatch, log):
    def full(*_):
        raise OSError(28, "No space left on device")

    files.write_idx(tmp_path / "set")
    monkeypatch.setattr(np, "save", full)
    assert files.load(f"idx:{tmp_path / 'set'}").spec.sizes["train"] == 20
    assert "No space left on device" in log.text
    assert list((cache / "datasets").iterdir()) == []


def test_another_process_caches_the_same_set_first(tmp_path, cache, monkeypatch, log):
    files.write_idx(tmp_path / "set")
    remove, others = shutil.rmtree, []

    def other_process_is_faster(path, **kwargs):
        remove(path, **kwargs)
        if not others:
            others.append(None)
            others.append(files.load(f"idx:{tmp_path / 'set'}"))

    monkeypatch.setattr(shutil, "rmtree", other_process_is_faster)
    mine = files.load(f"idx:{tmp_path / 'set'}")
    assert same(mine, others[1])
    assert not [record for record in log.records if record.levelname == "WARNING"]
    assert len(list((cache / "datasets").iterdir())) == 1


def test_many_at_once(tmp_path):
    files.write_idx(tmp_path / "set")
    with ThreadPoolExecutor(8) as pool:
        first, *rest = pool.map(lambda _: files.load(f"idx:{tmp_path / 'set'}"), range(32))
    assert all(same(first, other) for other in rest)


# --- names

def test_bare_name_is_found_in_the_users_place_then_debians_then_asked_of_tfds(tmp_path, monkeypatch, log, asked):
    monkeypatch.setenv("MODERN_CNN_DATA", str(tmp_path / "own"))
    files.load("my_set")
    assert asked == ["my_set"]
    assert "my_set: decoding tfds:my_set" in log.text
    files.write_idx(tmp_path / "debian" / "my-set", train_images=files.pixels(20, 6, 5, seed=3))
    debian = files.load("my_set")
    assert f"my_set: decoding idx:{tmp_path / 'debian' / 'my-set'}" in log.text
    files.write_cifar10(tmp_path / "own" / "my_set")
    own = files.load("my_set")
    assert f"my_set: decoding cifar:{tmp_path / 'own' / 'my_set'}" in log.text
    assert own.spec.origin == f"cifar:{tmp_path / 'own' / 'my_set'}"
    assert own.spec.digest != debian.spec.digest
    assert asked == ["my_set"]


def test_bare_name_of_a_folder_of_images(tmp_path, monkeypatch):
    monkeypatch.setenv("MODERN_CNN_DATA", str(tmp_path / "own"))
    files.write_images(tmp_path / "own" / "pets")
    assert files.load("pets").spec.origin == f"folder:{tmp_path / 'own' / 'pets'}"


@pytest.mark.parametrize("gone", [True, False], ids=["folder removed", "variable unset"])
def test_cached_bare_name_outlives_its_folder(tmp_path, monkeypatch, log, asked, gone):
    monkeypatch.setenv("MODERN_CNN_DATA", str(tmp_path / "own"))
    files.write_idx(tmp_path / "own" / "my_set")
    first = files.load("my_set")
    if gone:
        shutil.rmtree(tmp_path / "own")
    else:
        monkeypatch.delenv("MODERN_CNN_DATA")
    log.clear()
    assert same(first, files.load("my_set"))
    assert "my_set: from the cache (decoded from idx:" in log.text
    assert asked == []


def test_tfds_is_asked_once(asked):
    for _ in range(2):
        files.load("tfds:cifar10")
        files.load("svhn")
    assert asked == ["cifar10", "svhn"]


@pytest.mark.parametrize(("source", "word"), [
    ("", "is not a data source"), (" ", "is not a data source"), ("./mnist", "is not a data source"),
    ("~/mnist", "is not a data source"), ("/data/mnist", "is not a data source"), (":", "no such kind"),
    ("Idx:/tmp", "did you mean 'idx'"), ("foldr:/tmp", "did you mean 'folder'"), ("mnist:3.0.1", "no such kind"),
    ("idx:", "lacks its directory"), ("folder", "lacks its directory"), ("tfds:", "lacks its name"),
    ("idx:/no/such", "no directory /no/such"), ("folder:~nobody-here", "no directory"),
    (f"folder:{__file__}", "no directory"),
])
def test_bad_source(source, word):
    with pytest.raises(UserError, match=word) as caught:
        files.load(source)
    assert repr(source) in str(caught.value)


def test_directory_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    files.write_idx(tmp_path / "sets" / "mine")
    assert files.load("idx:~/sets/mine").spec.origin == f"idx:{tmp_path}/sets/mine"


def test_unreadable_directory_is_told(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", forbidden)  # tests may run as root, who may read everything
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: Permission denied"):
        files.load(f"folder:{tmp_path}")


def test_file_names_that_are_not_unicode(tmp_path):
    files.write_images(tmp_path / "set")
    os.rename(tmp_path / "set" / "cat", os.fsencode(tmp_path / "set") + b"/chat\xe9")
    assert files.load(f"folder:{tmp_path / 'set'}").spec.sizes["train"] == 8


def test_very_long_directory_name_is_cached(tmp_path, log):
    files.write_idx(tmp_path / ("long" * 60))
    files.load(f"idx:{tmp_path / ('long' * 60)}")
    assert "could not be cached" not in log.text


def test_mean_and_deviation_are_those_of_the_remaining_training_images(tmp_path):
    files.write_cifar10(tmp_path)
    dataset = files.load(f"cifar:{tmp_path}", normalize="standard", validation=0.5)
    images = dataset.splits["train"][0] / 255
    np.testing.assert_allclose(dataset.spec.mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.spec.std, images.std((0, 1, 2)), rtol=1e-12)
    assert dataset.spec.mean != files.load(f"cifar:{tmp_path}", normalize="standard").spec.mean


def test_normalize(tmp_path):
    files.write_cifar10(tmp_path)
    for mode, mean, std in (("unit", 0, 1), ("symmetric", 0.5, 0.5)):
        spec = files.load(f"cifar:{tmp_path}", normalize=mode).spec
        assert (spec.mean, spec.std) == ((mean,) * 3, (std,) * 3)
    with pytest.raises(UserError, match="'standrad' is unknown; did you mean 'standard'"):
        files.load(f"cifar:{tmp_path}", normalize="standrad")


def test_normalize_of_a_constant_image_stays_finite(tmp_path):
    files.write_idx(tmp_path, train_images=np.full((20, 6, 5), 7))
    assert files.load(f"idx:{tmp_path}", normalize="standard").spec.std[0] > 0


@pytest.mark.parametrize("fields", [{"image_size": -3}, {"num_classes": -1}])
def test_negative_numbers(fields):
    with pytest.raises(UserError, match=f"{next(iter(fields))}=-.*negative"):
        files.load("digits", **fields)


def test_more_classes_than_the_data_have():
    spec = files.load("digits", num_classes=12).spec
    assert spec.num_classes == len(spec.class_names) == 12
    with pytest.raises(UserError, match="label 5 of train image 4 is outside the 5 classes"):
        files.load("digits", num_classes=5)


def test_spec_can_be_written_as_json():
    assert json.loads(json.dumps(vars(files.load("digits").spec)))["image_shape"] == [8, 8, 1]
