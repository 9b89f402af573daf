"""Folders of image files: which folder is a split and which a class, what is read, and what is refused."""
import re

import numpy as np
import pytest
from PIL import Image

from modern_cnn.errors import UserError
from tests.data import files
from tests.data.test_formats import refused


def test_folder_with_splits(tmp_path):
    files.write_images(tmp_path / "train", count=3)
    files.write_images(tmp_path / "val", count=2, seed=50)
    files.write_images(tmp_path / "test", ["dog"], count=1, seed=70)
    dataset = files.load(f"folder:{tmp_path}")
    assert dataset.spec.sizes == {"train": 6, "validation": 2 * 2, "test": 1}
    assert dataset.spec.class_names == ("cat", "dog")
    assert dataset.spec.image_shape == (6, 8, 3)
    for split, labels in {"train": [0, 0, 0, 1, 1, 1], "validation": [0, 0, 1, 1], "test": [1]}.items():
        np.testing.assert_array_equal(dataset.splits[split][1], labels)
    np.testing.assert_array_equal(dataset.splits["train"][0][4], Image.open(tmp_path / "train" / "dog" / "1.png"))


@pytest.mark.parametrize("name", ["val", "validation"])
def test_folder_with_validation_only_is_tested_on_it(tmp_path, name):
    files.write_images(tmp_path / "train", count=3)
    files.write_images(tmp_path / name, count=2)
    assert files.load(f"folder:{tmp_path}").spec.sizes == {"train": 6, "test": 4}


def test_folder_without_splits_holds_out_a_fifth(tmp_path):
    files.write_images(tmp_path, count=10)
    dataset = files.load(f"folder:{tmp_path}")
    assert dataset.spec.sizes == {"train": 16, "test": 4}
    np.testing.assert_array_equal(np.bincount(dataset.splits["test"][1]), [2, 2])


def test_folder_takes_nested_and_uppercase_files_and_leaves_others(tmp_path):
    files.write_images(tmp_path / "train", count=2)
    files.write_images(tmp_path / "test", count=1)
    files.write_images(tmp_path / "train" / "cat", ["2020", "2021"], count=1, ending=".JPG")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"what a Mac leaves behind")
    files.write_images(tmp_path / "train", [".thumbnails"], count=1)
    files.write_images(tmp_path / "train" / "dog", [".thumbnails"], count=1)
    assert np.bincount(files.load(f"folder:{tmp_path}").splits["train"][1]).tolist() == [4, 2]


def test_folder_with_images_beside_the_classes_is_warned_of(tmp_path, log):
    files.write_images(tmp_path)
    (tmp_path / "a.JPG").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    assert files.load(f"folder:{tmp_path}").spec.sizes == {"train": 8, "test": 2}
    assert "1 images are left out, as they are in no class folder: a.JPG" in log.text


def test_folder_of_links(tmp_path):
    files.write_images(tmp_path / "real", count=5)
    links = tmp_path / "links"
    for place, target in {"cat": "real/cat", "dog/more": "real/dog"}.items():
        (links / place).parent.mkdir(parents=True, exist_ok=True)
        (links / place).symlink_to(tmp_path / target)
    (tmp_path / "real" / "cat" / "loop").symlink_to(tmp_path / "real" / "cat")
    assert files.load(f"folder:{links}").spec.sizes == {"train": 8, "test": 2}


def test_folder_link_to_nothing(tmp_path):
    files.write_images(tmp_path)
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    refused(f"folder:{tmp_path}", tmp_path / "cat" / "gone.png")


def test_folder_gray_stays_gray_and_becomes_rgb_among_colours(tmp_path):
    files.write_images(tmp_path / "train", mode="L")
    files.write_images(tmp_path / "test", mode="L")
    gray = files.load(f"folder:{tmp_path}").splits["train"][0]
    assert gray.shape == (10, 6, 8, 1)
    files.write_images(tmp_path / "test", ["dog"], mode="RGB")
    mixed = files.load(f"folder:{tmp_path}").splits["train"][0]
    np.testing.assert_array_equal(mixed, np.repeat(gray, 3, axis=3))


def test_folder_of_differing_sizes(tmp_path):
    files.write_images(tmp_path, ["cat"])
    files.write_images(tmp_path, ["dog"], size=(10, 20))
    refused(f"folder:{tmp_path}", "8x6", "10x20", tmp_path / "dog", "image_size")
    dataset = files.load(f"folder:{tmp_path}", image_size=5)
    assert dataset.spec.image_shape == (5, 5, 3)


def test_folder_undecodable_image(tmp_path):
    files.write_images(tmp_path)
    (tmp_path / "dog" / "page.jpg").write_text("<html>not found</html>")
    refused(f"folder:{tmp_path}", tmp_path / "dog" / "page.jpg", "does not decode")


def test_folder_truncated_jpeg(tmp_path):
    files.write_images(tmp_path, size=(40, 40), ending=".jpg")
    path = tmp_path / "cat" / "3.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    refused(f"folder:{tmp_path}", path, "truncated")


def test_folder_without_images(tmp_path):
    refused(f"folder:{tmp_path}", "no class folders")
    (tmp_path / "train").mkdir()
    refused(f"folder:{tmp_path}", tmp_path / "train", "no class folders")
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir()
    refused(f"folder:{tmp_path}", tmp_path / "train", "holds no images")


def test_folder_class_without_images(tmp_path):
    files.write_images(tmp_path / "train")
    (tmp_path / "train" / "emu").mkdir()
    refused(f"folder:{tmp_path}", tmp_path / "train" / "emu", "no images")


def test_folder_test_class_unknown_to_train(tmp_path):
    files.write_images(tmp_path / "train")
    files.write_images(tmp_path / "test", ["cat", "dgo"])
    refused(f"folder:{tmp_path}", tmp_path / "test" / "dgo", "cat, dog")


@pytest.mark.parametrize(("train", "test"), [
    ("Training", "Testing"), ("Train", "Test"), ("training_set", "test_set"), ("seg_train", "seg_test"),
    ("TRAIN", "val2017"), ("train", "valid"), ("train", "dev"), ("train-images", "eval"), ("trainset", "Test Data")])
def test_folder_with_splits_under_their_usual_names(tmp_path, train, test):
    files.write_images(tmp_path / train, count=3)
    files.write_images(tmp_path / test, count=2, seed=50)
    (tmp_path / "annotations").mkdir()
    dataset = files.load(f"folder:{tmp_path}")
    assert dataset.spec.sizes == {"train": 6, "test": 4}
    assert dataset.spec.class_names == ("cat", "dog")
    np.testing.assert_array_equal(dataset.splits["test"][0][3], Image.open(tmp_path / test / "dog" / "1.png"))


@pytest.mark.parametrize("name", ["trains", "contest", "validity", "set", "1", "dev-test", "attest", "data"])
def test_folder_of_classes_with_other_names(tmp_path, name):
    files.write_images(tmp_path, ["cat", name])
    assert files.load(f"folder:{tmp_path}").spec.class_names == tuple(sorted(["cat", name]))


def test_folder_with_a_split_folder_within_itself(tmp_path):
    files.write_images(tmp_path / "seg_train" / "seg_train", count=3)
    files.write_images(tmp_path / "seg_test" / "seg_test", ["dog"], count=2)
    dataset = files.load(f"folder:{tmp_path}")
    assert dataset.spec.sizes == {"train": 6, "test": 2}
    assert dataset.spec.class_names == ("cat", "dog")


def read_both_ways(directory, *words, classes, splits=None, sizes=None):
    """Assert that a folder is refused with `words`, and then read as `classes`, and as `splits` of `sizes` or not."""
    refused(f"folder:{directory}", "--config.data.layout=classes", *words)
    assert files.load(f"folder:{directory}", layout="classes").spec.class_names == classes
    if splits:
        spec = files.load(f"folder:{directory}", layout="splits").spec
        assert (spec.class_names, spec.sizes) == (splits, sizes)
    else:
        refused(f"folder:{directory}", *words, layout="splits")


def test_folder_with_two_names_of_a_split(tmp_path):
    for name in ("train", "val", "Validation"):
        files.write_images(tmp_path / name)
    read_both_ways(tmp_path, "Validation and val", classes=("Validation", "train", "val"))


def test_folder_with_a_sibling_of_train_that_is_no_split(tmp_path, log):
    for name in ("holdout", "train"):
        files.write_images(tmp_path / name)
    read_both_ways(tmp_path, "holdout, train", "=splits", classes=("holdout", "train"), splits=("cat", "dog"),
                   sizes={"train": 8, "test": 2})
    assert "left out, as it is no split: holdout" in log.text


def test_folder_without_a_split_to_train_on(tmp_path):
    for name in ("test", "val"):
        files.write_images(tmp_path / name)
    read_both_ways(tmp_path, "test, val", "none is named like a training split", classes=("test", "val"))


def test_folder_with_a_class_named_like_a_split(tmp_path):
    files.write_images(tmp_path, ["plane", "train"])
    read_both_ways(tmp_path, "plane, train", classes=("plane", "train"))


def test_folder_one_level_too_high(tmp_path):
    files.write_images(tmp_path / "PetImages")
    refused(f"folder:{tmp_path}", "cat, dog", f"source=folder:{tmp_path}/PetImages", "layout=classes")
    assert files.load(f"folder:{tmp_path}", layout="classes").spec.num_classes == 1
    for split in ("train", "test"):
        files.write_images(tmp_path / "splits" / split / "PetImages")
    refused(f"folder:{tmp_path / 'splits'}", "cat, dog", "layout=splits")
    assert files.load(f"folder:{tmp_path / 'splits'}", layout="splits").spec.num_classes == 1


def test_folder_of_sets(tmp_path):
    for name in ("faces", "pets"):
        for split in ("Train", "Test"):
            files.write_images(tmp_path / name / split)
    refused(f"folder:{tmp_path}", "Test, Train", f"source=folder:{tmp_path}/faces", "layout=classes")
    assert files.load(f"folder:{tmp_path}", layout="classes").spec.class_names == ("faces", "pets")


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("flowers_train", "flowers_test"), ("tr", "te")])
def test_folder_whose_classes_hold_the_same_folders_is_refused(tmp_path, names):
    """They are rather splits, colours or sizes of one set."""
    for name in names:
        files.write_images(tmp_path / name)
    refused(f"folder:{tmp_path}", ", ".join(sorted(names)), "each of them the folders cat, dog", "layout=classes")
    assert files.load(f"folder:{tmp_path}", layout="classes").spec.class_names == tuple(sorted(names))


def test_words_of_a_splits_name_in_capitals(tmp_path):
    files.write_images(tmp_path / "TrainData", count=3)
    files.write_images(tmp_path / "testImages", count=1)
    spec = files.load(f"folder:{tmp_path}").spec
    assert (spec.sizes, spec.class_names) == ({"train": 6, "test": 2}, ("cat", "dog"))


def test_a_class_may_be_written_with_composed_or_single_letters(tmp_path):
    """As macOS and Linux may write it; two such folders are refused."""
    one, composed = "caf\u00e9", "cafe\u0301"
    files.write_images(tmp_path / "train", [composed, "tea"], count=3)
    files.write_images(tmp_path / "test", [one, "tea"], count=1)
    assert files.load(f"folder:{tmp_path}").spec.class_names == (one, "tea")
    files.write_images(tmp_path / "train", [one])
    refused(f"folder:{tmp_path}", "two folders of one name", "make one of them")


def test_test_images_without_classes(tmp_path):
    files.write_images(tmp_path / "train")
    files.write_images(tmp_path, ["test"])
    refused(f"folder:{tmp_path}", "move the folder away", "predict.py")


def test_copies_of_training_images_are_counted(tmp_path, log):
    files.write_images(tmp_path / "train", count=4)
    files.write_images(tmp_path / "test", count=2, seed=90)
    files.load(f"folder:{tmp_path}")
    assert "are copies" not in log.text
    (tmp_path / "test" / "cat" / "1.png").write_bytes((tmp_path / "train" / "dog" / "2.png").read_bytes())
    files.load(f"folder:{tmp_path}")
    assert "1 of the 4 test images are copies of training images" in log.text


def test_folder_of_many_classes_is_refused_in_few_letters(tmp_path):
    names = [f"a class with a long name, number {i}" for i in range(40)]
    files.write_images(tmp_path / "train", names, count=1)
    files.write_images(tmp_path / "test", ["other"], count=1)
    with pytest.raises(UserError, match="40 in all") as caught:
        files.load(f"folder:{tmp_path}")
    assert len(str(caught.value)) < 600


def test_layouts_have_cache_entries_of_their_own(tmp_path):
    for name in ("holdout", "train"):
        files.write_images(tmp_path / "set" / name)
    for layout in ("splits", "classes") * 2:
        names = files.load(f"folder:{tmp_path / 'set'}", layout=layout).spec.class_names
        assert names == (("cat", "dog") if layout == "splits" else ("holdout", "train"))


def test_messages_name_paths_as_they_are(tmp_path):
    place = tmp_path / "données (新)"
    files.write_images(place / "chat")
    with pytest.raises(UserError, match=re.escape(str(place / "x"))):
        files.load(f"folder:{place / 'x'}")
