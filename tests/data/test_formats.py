"""Readers of data set files: their content arrives, and an error names the file and what is wrong with it."""
import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from modern_cnn.data import formats, sources
from modern_cnn.errors import UserError
from tests.data import files


def refused(source, *words, **fields):
    """Assert that loading ends with one line that has all of `words`."""
    with pytest.raises(UserError) as caught:
        files.load(source, **fields)
    assert "\n" not in str(caught.value)
    for word in words:
        assert str(word) in str(caught.value)


# --- idx

@pytest.mark.parametrize("zipped", [True, False])
def test_idx(tmp_path, zipped):
    arrays = files.write_idx(tmp_path, zipped=zipped)
    splits, names = formats.read_idx(tmp_path)
    for split in ("train", "test"):
        images, labels = splits[split]
        assert images.dtype == np.uint8
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(images, arrays[f"{split}_images"][..., None])
        np.testing.assert_array_equal(labels, arrays[f"{split}_labels"])
    assert names == []


@pytest.mark.parametrize("names", [
    {key: name.replace("-idx", ".idx") for key, name in files.IDX.items()},
    {key: f"emnist-letters-{name.replace('t10k', 'test')}" for key, name in files.IDX.items()},
], ids=["dots", "emnist"])
def test_idx_under_other_names(tmp_path, names):
    files.write_idx(tmp_path, names=names)
    assert formats.read_idx(tmp_path)[0]["test"][0].shape == (10, 6, 5, 1)


def test_idx_with_a_file_twice(tmp_path):
    """As torchvision's MNIST/raw has them: packed and not."""
    files.write_idx(tmp_path)
    arrays = files.write_idx(tmp_path, zipped=False)
    np.testing.assert_array_equal(formats.read_idx(tmp_path)[0]["test"].images[..., 0], arrays["test_images"])
    files.write_idx(tmp_path, zipped=False, test_labels=files.labels(10)[::-1])
    refused(f"idx:{tmp_path}", tmp_path / "t10k-labels-idx1-ubyte", "differ")
    (tmp_path / "my-train-images-idx3-ubyte").write_bytes(b"")
    refused(f"idx:{tmp_path}", "more than one", "train-images-idx3-ubyte.gz")


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**31, 2**31, 4), (20, 6, 6), (0, 0, 0)])
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_header_that_promises_what_is_not_there(tmp_path, shape, zipped):
    """The product of the first two is 2**64 or more, and 0 or 1 to those who count so far only."""
    files.write_idx(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    data = b"".join(n.to_bytes(4, "big") for n in (0x803, *shape)) + path.read_bytes()[16:]
    path.write_bytes(gzip.compress(data) if zipped else data)
    refused(f"idx:{tmp_path}", path, "truncated or damaged", "more" if 0 in shape else "fewer")


@pytest.mark.parametrize("kind", ["idx", "cifar"])
def test_no_more_is_unpacked_than_there_can_be(tmp_path, kind, monkeypatch):
    """A megabyte of gzip that would become a gigabyte."""
    packed = gzip.compress(bytes(2**20), 9)
    monkeypatch.setattr(formats, "MOST", 2**22)
    read = []
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size, plain=gzip.GzipFile.read: read.append(size) or plain(
        self, size))
    if kind == "idx":
        files.write_idx(tmp_path, zipped=False)
        path = tmp_path / "train-images-idx3-ubyte"
        path.write_bytes(gzip.compress(path.read_bytes()) + packed * 1000)
        refused(f"idx:{tmp_path}", path, "600 bytes", "more")
    else:
        files.write_cifar10(tmp_path, "binary")
        path = tmp_path / "data_batch_1.bin"
        path.write_bytes(packed * 40)
        refused(f"cifar:{tmp_path}", path, "more than 4,194,304 bytes", "gunzip")
    assert max(read) <= 2**22 + 1


@pytest.mark.parametrize("missing", list(files.IDX))
def test_idx_missing_file(tmp_path, missing):
    files.write_idx(tmp_path)
    (tmp_path / f"{files.IDX[missing]}.gz").unlink()
    refused(f"idx:{tmp_path}", tmp_path, "missing", files.IDX[missing])


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40] + b"\0\0\0\0" + data[44:]],
                         ids=["truncated", "overwritten"])
def test_idx_damaged_gzip(tmp_path, damage):
    files.write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    refused(f"idx:{tmp_path}", path, "damaged gzip")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:6]],
                         ids=["short", "long", "header only"])
def test_idx_wrong_length(tmp_path, change):
    files.write_idx(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    refused(f"idx:{tmp_path}", path, "truncated or damaged")


def test_idx_empty_file(tmp_path):
    files.write_idx(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"")
    refused(f"idx:{tmp_path}", tmp_path / "t10k-labels-idx1-ubyte", "does not hold labels")


def test_idx_images_and_labels_swapped(tmp_path):
    files.write_idx(tmp_path)
    images, labels = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    images.rename(tmp_path / "x")
    labels.rename(images)
    (tmp_path / "x").rename(labels)
    refused(f"idx:{tmp_path}", images, "does not hold images", "0x0801", "0x0803")


def test_idx_counts_differ(tmp_path):
    files.write_idx(tmp_path, test_labels=files.labels(9))
    refused(f"idx:{tmp_path}", "10 images", "9 labels", "t10k-images-idx3-ubyte")


def test_idx_test_label_outside_the_classes(tmp_path):
    files.write_idx(tmp_path, test_labels=np.array([0, 1, 2, 3, 4, 0, 1, 5, 3, 4]))
    refused(f"idx:{tmp_path}", "label 5 of test image 7", "5 classes")


def test_idx_stray_training_label(tmp_path):
    stray = files.labels(20)
    stray[3] = 200
    files.write_idx(tmp_path, train_labels=stray)
    refused(f"idx:{tmp_path}", "200", "class 5 has no training image", "num_classes=201")
    refused(f"idx:{tmp_path}", "label 200 of train image 3", "10 classes", num_classes=10)
    assert files.load(f"idx:{tmp_path}", num_classes=201).spec.num_classes == 201


def test_idx_no_images(tmp_path):
    files.write_idx(tmp_path, train_images=np.zeros((0, 6, 5)), train_labels=np.zeros(0))
    refused(f"idx:{tmp_path}", "no images", "train")


# --- cifar

@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar10(tmp_path, kind):
    arrays = files.write_cifar10(tmp_path, kind)
    splits, names = formats.read_cifar(tmp_path)
    expected = [np.concatenate([arrays[name][part] for name in files.TEN[:5]]) for part in (0, 1)]
    np.testing.assert_array_equal(splits["train"][0], expected[0])
    np.testing.assert_array_equal(splits["train"][1], expected[1])
    np.testing.assert_array_equal(splits["test"][0], arrays["test_batch"][0])
    assert splits["train"][1].dtype == np.int32
    assert names == [f"class{i}" for i in range(10)]


@pytest.mark.parametrize(("kind", "unpacked"), [("python", "cifar-10-batches-py"), ("binary", "cifar-10-batches-bin")])
def test_cifar10_in_the_parent_of_its_archive(tmp_path, kind, unpacked):
    files.write_cifar10(tmp_path / unpacked, kind)
    assert formats.read_cifar(tmp_path)[0]["train"][0].shape == (20, 32, 32, 3)
    assert sources.detect(tmp_path) == sources.detect(tmp_path / unpacked) == "cifar"


def test_two_cifar_archives_side_by_side(tmp_path):
    files.write_cifar10(tmp_path / "cifar-10-batches-py")
    files.write_cifar10(tmp_path / "cifar-10-batches-bin", "binary")
    refused(f"cifar:{tmp_path}", f"cifar:{tmp_path}/cifar-10-batches-bin", f"cifar:{tmp_path}/cifar-10-batches-py")


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar100(tmp_path, kind):
    arrays = files.cifar_arrays(["train", "test"], per_file=100, classes=100)
    directory = tmp_path / {"python": "cifar-100-python", "binary": "cifar-100-binary"}[kind]
    directory.mkdir()
    for name, (images, fine) in arrays.items():
        if kind == "python":
            batch = {"data": files.cifar_rows(images), "fine_labels": fine.tolist(), "coarse_labels": [0] * len(fine)}
            (directory / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            columns = np.stack([np.full_like(fine, 19), fine], axis=1).astype(np.uint8)
            (directory / f"{name}.bin").write_bytes(np.hstack([columns, files.cifar_rows(images)]).tobytes())
    assert sources.detect(tmp_path) == sources.detect(directory) == "cifar"
    dataset = files.load(f"cifar:{tmp_path}")
    assert dataset.spec.num_classes == 100
    for name, (images, fine) in arrays.items():
        np.testing.assert_array_equal(dataset.splits[name][0], images)
        np.testing.assert_array_equal(dataset.splits[name][1], fine)


@pytest.mark.parametrize(("kind", "ending"), [("python", ""), ("binary", ".bin")])
def test_cifar_missing_batch(tmp_path, kind, ending):
    files.write_cifar10(tmp_path, kind)
    (tmp_path / f"data_batch_3{ending}").unlink()
    refused(f"cifar:{tmp_path}", tmp_path, f"missing data_batch_3{ending}")


@pytest.mark.parametrize(("kind", "ending"), [("python", ""), ("binary", ".bin")])
def test_cifar_truncated_batch(tmp_path, kind, ending):
    files.write_cifar10(tmp_path, kind)
    path = tmp_path / f"data_batch_3{ending}"
    path.write_bytes(path.read_bytes()[:-100])
    refused(f"cifar:{tmp_path}", path)


def test_cifar_label_200(tmp_path):
    files.write_cifar10(tmp_path, "binary")
    path = tmp_path / "data_batch_2.bin"
    data = bytearray(path.read_bytes())
    data[2 * 3073] = 200
    path.write_bytes(data)
    refused(f"cifar:{tmp_path}", path, "label 200 of image 2", "10 classes")


@pytest.mark.parametrize("wrong", [
    {"labels": [0, 1, 2, 3]},
    {"data": np.zeros((4, 3072), np.uint8)},
    {"data": np.zeros((4, 3072), np.float32), "labels": [0, 1, 2, 3]},
    {"data": np.zeros((4, 1000), np.uint8), "labels": [0, 1, 2, 3]},
    {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2]},
    {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, -3]},
    {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 10 ** 30]},
    {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, None]},
    {"data": np.zeros((4, 3072), np.uint8), "labels": [0.9, 1.9, 2.9, 3.9]},
    {"data": np.zeros((4, 3072), np.uint8), "labels": np.array([0.9, 1.9, 2.9, 3.9])},
    {"data": np.zeros((4, 3072), np.uint8), "labels": np.array([0, 1, 2, 2**64 - 1], np.uint64)},
    {"data": np.zeros((4, 3072), np.uint8), "labels": [True, False, True, False]},
    {"data": np.zeros((4, 3072), np.uint8), "labels": ["cat", "dog", "cat", "dog"]},
    {"data": np.zeros((4, 3072), np.uint8), "labels": [[0], [1, 2], [3], [4]]},
    {"data": [[0] * 3072] * 4, "labels": [0, 1, 2, 3]},
    [1, 2, 3],
], ids=["no data", "no labels", "float", "narrow", "fewer labels", "negative", "huge", "none", "parts", "parts array",
        "beyond 63 bits", "yes and no", "words", "ragged", "data in lists", "list"])
def test_cifar_python_batch_with_wrong_content(tmp_path, wrong):
    files.write_cifar10(tmp_path)
    (tmp_path / "data_batch_4").write_bytes(pickle.dumps(wrong, protocol=2))
    refused(f"cifar:{tmp_path}", tmp_path / "data_batch_4")


@pytest.mark.parametrize("names", [5, None, ["a"] * 9, [f"c{i}" for i in range(9)] + [1], [b"\xff"] * 10])
def test_cifar_python_names_that_are_none(tmp_path, names):
    files.write_cifar10(tmp_path)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    refused(f"cifar:{tmp_path}", tmp_path / "batches.meta", "names of 10 classes")


def test_cifar_binary_names(tmp_path):
    files.write_cifar10(tmp_path, "binary")
    path = tmp_path / "batches.meta.txt"
    path.write_bytes("\ufeffcafé noir\n".encode() + b"".join(b"c%d \n" % i for i in range(9)) + b"\n")
    assert formats.read_cifar(tmp_path)[1] == ["café noir", *(f"c{i}" for i in range(9))]
    for damaged in (b"caf\xe9\n" * 10, b"c\n" * 9):
        path.write_bytes(damaged)
        refused(f"cifar:{tmp_path}", path, "names of 10 classes")


def test_cifar_binary_files_that_are_cut_between_two_images(tmp_path, log):
    files.write_cifar10(tmp_path, "binary")
    path = tmp_path / "test_batch.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:2 * 3073])
    assert len(formats.read_cifar(tmp_path)[0]["test"].labels) == 2
    assert "4, 4, 4, 4, 4, 2 images" in log.text
    path.write_bytes(whole)
    (tmp_path / "data_batch_3.bin").write_bytes(whole[:2 * 3073])
    refused(f"cifar:{tmp_path}", "4, 4, 2, 4, 4, 4 images", "cut off")


class Malicious:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_cifar_pickle_does_not_run_code(tmp_path):
    files.write_cifar10(tmp_path)
    batch = {"data": Malicious(tmp_path / "owned"), "labels": []}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    refused(f"cifar:{tmp_path}", tmp_path / "test_batch", "wants to run")
    assert not (tmp_path / "owned").exists()


def test_more_than_memory_is_refused_at_once(tmp_path):
    files.write_images(tmp_path)
    refused(f"folder:{tmp_path}", "GiB", "image_size", image_size=10 ** 6)
    files.write_idx(tmp_path / "set", train_images=files.pixels(20, 1, 100_000))
    refused(f"idx:{tmp_path / 'set'}", "GiB", "image_size", image_size=99_999)


def test_reader_of_gzip_ignores_the_ending(tmp_path):
    files.write_idx(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert formats.read_idx(tmp_path)[0]["train"][0].shape == (20, 6, 5, 1)


FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian's package


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_has_its_names_from_any_folder(tmp_path):
    (tmp_path / "mine").symlink_to(FASHION)
    assert files.load(f"idx:{tmp_path / 'mine'}").spec.class_names[:3] == ("T-shirt/top", "Trouser", "Pullover")


def test_the_labels_of_fashion_mnist_bring_its_names(tmp_path, monkeypatch):
    files.write_idx(tmp_path, train_labels=files.labels(20, 10), test_labels=files.labels(10, 10))
    assert files.load(f"idx:{tmp_path}").spec.class_names == tuple("0123456789")
    monkeypatch.setattr(formats, "FASHION_LABELS", hashlib.sha256(files.labels(20, 10)).hexdigest())
    assert formats.read_idx(tmp_path)[1] == formats.FASHION
