"""What is cached, when it is decoded again, and what happens if the cache is damaged or cannot be written."""
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modern_cnn.data.decoding import resize_array
from modern_cnn.errors import UserError
from tests.data import files


def test_second_load_comes_from_the_cache(tmp_path, log):
    files.write_idx(tmp_path / "set")
    first = files.load(f"idx:{tmp_path / 'set'}")
    assert "decoding idx:" in log.text
    assert "from the cache" not in log.text
    log.clear()
    assert files.same(first, files.load(f"idx:{tmp_path / 'set'}"))
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
        expected = resize_array(arrays["test_images"][..., None], 0 if size == 9 else size, "these")
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


def replace(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def flip(path, place):
    """Change one bit of a byte."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [
    lambda entry: (entry / "train_images.npy").write_bytes((entry / "train_images.npy").read_bytes()[:-50]),
    lambda entry: (entry / "train_images.npy").write_bytes(b"garbage"),
    lambda entry: (entry / "test_labels.npy").write_bytes(b""),
    lambda entry: (entry / "test_labels.npy").unlink(),
    lambda entry: (entry / "meta.json").write_text(""),
    lambda entry: (entry / "meta.json").write_text("null"),
    lambda entry: (entry / "meta.json").write_text('{"splits": []}'),
    lambda entry: (entry / "meta.json").write_text("[" * 200_000),
    lambda entry: replace(entry / "meta.json", b"cat", b"cow"),
    lambda entry: replace(entry / "meta.json", b"left_out", b"left_oui"),
    lambda entry: flip(entry / "train_images.npy", -7),
    lambda entry: flip(entry / "test_labels.npy", -4),
    lambda entry: replace(entry / "train_images.npy", b"|u1", b"|i1"),
    lambda entry: replace(entry / "train_labels.npy", b"<i4", b">i4"),
    lambda entry: replace(entry / "train_labels.npy", b"<i4", b"<f4"),
], ids=["truncated", "garbage", "empty", "missing", "no meta", "null meta", "half meta", "deep meta", "another name",
        "another key", "another pixel", "another label", "signed pixels", "turned labels", "float labels"])
def test_damaged_entry_is_decoded_again(tmp_path, cache, log, damage):
    files.write_images(tmp_path / "set")
    first = files.load(f"folder:{tmp_path / 'set'}")
    damage(next((cache / "datasets").iterdir()))
    log.clear()
    assert files.same(first, files.load(f"folder:{tmp_path / 'set'}"))
    assert "decoding" in log.text
    log.clear()
    assert files.same(first, files.load(f"folder:{tmp_path / 'set'}"))
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
    assert files.same(mine, others[1])
    assert not [record for record in log.records if record.levelname == "WARNING"]
    assert len(list((cache / "datasets").iterdir())) == 1


def test_many_at_once(tmp_path):
    files.write_idx(tmp_path / "set")
    with ThreadPoolExecutor(8) as pool:
        first, *rest = pool.map(lambda _: files.load(f"idx:{tmp_path / 'set'}"), range(32))
    assert all(files.same(first, other) for other in rest)
