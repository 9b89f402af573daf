"""From `config.data.source` to a data set: where sets are found, and how their pixels are normalised."""
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from modern_cnn import settings
from modern_cnn.data import decoding, formats, sources
from modern_cnn.data.spec import normalization
from modern_cnn.errors import UserError
from modern_cnn.training.devices import Devices
from tests.data import files

DIGITS = "3e5d0f8c6a02b433"  # of the split that every result on digits was measured with


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


def test_digits_need_neither_sklearn_nor_tensorflow(cache):
    script = ("import sys; from tests.data import files\nfor _ in 'decoded', 'from the cache':\n"
              "    print(files.load('digits').spec.digest, "
              "*[name in sys.modules for name in ('sklearn', 'tensorflow', 'tensorflow_datasets')])")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{DIGITS} False False False\n" * 2
    assert list((cache / "datasets").iterdir())


def test_the_digits_are_those_of_scikit_learn():
    theirs, (ours, labels) = load_digits(), formats.read_digits()[0]["train"]
    np.testing.assert_array_equal(ours[..., 0], np.round(theirs.images * 255 / 16))
    np.testing.assert_array_equal(labels, theirs.target)


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
    assert files.same(first, files.load("my_set"))
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


def test_statistics_need_little_memory():
    images = files.pixels(2000, 32, 32, 3)
    tracemalloc.start()
    mean, std = normalization("standard", images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255)


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


def test_normalize_of_a_constant_image_stays_finite(tmp_path):
    files.write_idx(tmp_path, train_images=np.full((20, 6, 5), 7))
    assert files.load(f"idx:{tmp_path}", normalize="standard").spec.std[0] > 0


@pytest.mark.parametrize(("field", "value", "words"), [
    ("image_size", -3, "image_size=-3 must be a number between 0 and 16384"),
    ("num_classes", -1, "num_classes=-1 must be a number between 0 and"),
    ("validation", float("nan"), "validation=nan must be a number between 0 and 1"),
    ("normalize", "standrad", "'standrad' is unknown; did you mean 'standard'")])
def test_values_that_no_set_can_have_are_refused_before_one_is_loaded(field, value, words):
    config = settings.default_config()
    config.data[field] = value
    with pytest.raises(UserError, match=words):
        settings.read(config)


def test_more_classes_than_the_data_have():
    spec = files.load("digits", num_classes=12).spec
    assert spec.num_classes == len(spec.class_names) == 12
    with pytest.raises(UserError, match="label 5 of train image 4 is outside the 5 classes"):
        files.load("digits", num_classes=5)


def test_spec_can_be_written_as_json():
    assert json.loads(json.dumps(vars(files.load("digits").spec)))["image_shape"] == [8, 8, 1]


def test_the_names_of_files_are_in_the_order_of_the_images(tmp_path):
    """Of each split, also where a part is held out and damaged files are left out; other sources have none."""
    files.write_images(tmp_path / "set", count=12, size=(6, 6))
    (tmp_path / "set" / "cat" / "3.png").write_text("no image")
    config = settings.Data(f"folder:{tmp_path / 'set'}", validation=0.25, train_size=10, skip_damaged=True)
    dataset = sources.load(config)
    for split in ("train", "validation", "test"):
        names = sources.file_names(config, split)
        np.testing.assert_array_equal(dataset.splits[split].images,
                                      [decoding.decode(Path(name), 0) for name in names])
    assert sources.file_names(settings.Data("digits"), "test") == []


def test_a_balanced_set_gives_balanced_epochs(tmp_path):
    files.write_images(tmp_path / "set", ["cat"], 5)
    files.write_images(tmp_path / "set", ["dog"], 45)
    for balanced, cats in ((True, 20), (False, 4)):
        dataset = files.load(f"folder:{tmp_path / 'set'}", balanced=balanced)
        _, order = next(dataset.feed(Devices()).train(0, 0, 0, 8))
        assert np.bincount(dataset.splits["train"].labels[np.asarray(order)]).tolist() == [cats, 40 - cats]
    with pytest.raises(UserError, match=r"balanced=True is for sets in memory; --config\.loss\.class_weights"):
        files.load(f"folder:{tmp_path / 'set'}", balanced=True, stream=True, image_size=8)
