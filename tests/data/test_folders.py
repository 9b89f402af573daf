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


def test_messages_name_paths_as_they_are(tmp_path):
    place = tmp_path / "données (新)"
    files.write_images(place / "chat")
    with pytest.raises(UserError, match=re.escape(str(place / "x"))):
        files.load(f"folder:{place / 'x'}")
