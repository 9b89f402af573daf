"""TensorFlow Datasets without a network: what is asked of it, and what a user reads if it cannot help."""
import subprocess
import sys
import tarfile
import threading
import time
from email.message import Message
from pathlib import Path

import numpy as np
import pytest

from modern_cnn.data import tfds
from modern_cnn.errors import UserError
from tests.data import files

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def no_prepared_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def refused(source, *words, **fields):
    with pytest.raises(UserError) as caught:
        files.load(source, **fields)
    for word in words:
        assert word in str(caught.value)


# --- the probe

def test_host_that_does_not_exist_is_out_of_reach():
    start = time.monotonic()
    assert tfds._unreachable("https://no-such-host.invalid/file.gz")
    assert time.monotonic() - start < tfds.PROBE_SECONDS + 1


def test_host_that_never_answers_is_given_up(monkeypatch):
    over = threading.Event()

    def hang(*_, **__):
        over.wait(5)
        raise OSError

    monkeypatch.setattr(tfds, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(tfds.urllib.request, "urlopen", hang)
    start = time.monotonic()
    assert tfds._unreachable("https://slow.invalid/") == "no answer within 0.2 s"
    assert time.monotonic() - start < 2
    over.set()


def test_host_that_refuses_is_within_reach(monkeypatch):
    def answer(request, timeout):
        raise tfds.urllib.error.HTTPError(request.full_url, 403, "Forbidden", Message(), None)

    monkeypatch.setattr(tfds.urllib.request, "urlopen", answer)
    assert tfds._unreachable("https://strict.invalid/") is None


# --- what a user reads

def test_without_network(monkeypatch):
    monkeypatch.setattr(tfds, "_unreachable", lambda url: "Name or service not known")
    words = ["codh.rois.ac.jp", "cannot be reached", "Name or service not known", "digits", "idx:DIR", "manual_dir"]
    start = time.monotonic()
    refused("tfds:kmnist", "tfds:kmnist", *words)
    assert time.monotonic() - start < 15
    refused("kmnist", "config.data.source='kmnist' is not in the cache", "$MODERN_CNN_DATA", *words)


@pytest.mark.parametrize(("source", "closest"), [
    ("tfds:fasion_mnist", "fashion_mnist"), ("cifar1O", "cifar10"), ("Digits", "digits"), ("tfds:digit", "digits")])
def test_unknown_set_names_the_closest(source, closest):
    refused(source, f"did you mean '{closest}'")


@pytest.mark.parametrize(("name", "word"), [("mnist/foo", "foo"), ("fashion_mnist:1.0.0", "3.0.1"), ("a b", "a b")])
def test_unknown_version_or_config(name, word):
    refused(f"tfds:{name}", f"cannot open {name!r}", word)


def test_set_without_labels_is_refused():
    refused("tfds:ag_news_subset", "not an image classification set", "description, label, title")


def test_manual_dir_that_lacks_files(tmp_path):
    refused("tfds:fashion_mnist", "there is no such directory", "/nowhere", manual_dir=str(tmp_path / "nowhere"))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    refused("tfds:fashion_mnist", str(tmp_path), "t10k-images-idx3-ubyte.gz, train-images-idx3-ubyte.gz, "
            "train-labels-idx1-ubyte.gz", manual_dir=str(tmp_path))


# --- for real

PREPARE = """
import sys
import warnings
warnings.simplefilter("ignore")
import numpy as np
from tests.data import files
source, manual_dir, out, image_size = sys.argv[1:]
dataset = files.load(source, manual_dir=manual_dir, image_size=int(image_size))
np.savez(out, **{f"{split}_{i}": dataset.splits[split][i] for split in ("train", "test") for i in (0, 1)})
print(dataset.spec.class_names[9], "tensorflow" in sys.modules)
"""


def prepare(source, manual_dir, out, image_size=0) -> tuple[str, dict[str, list[bytes]]]:
    """Load a set in a process of its own and return (last line, {split: bytes of its images and labels, sorted})."""
    result = subprocess.run([sys.executable, "-c", PREPARE, source, manual_dir, out, str(image_size)],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    arrays = np.load(out)
    return result.stdout.splitlines()[-1], {split: rows(arrays[f"{split}_0"], arrays[f"{split}_1"])
                                            for split in ("train", "test")}


def rows(images, labels) -> list[bytes]:
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


def test_offline_preparation_from_a_file_with_another_checksum(tmp_path):
    """A small CIFAR-10, packed as a user behind a firewall would bring it along; TFDS shuffles."""
    arrays = files.write_cifar10(tmp_path / "cifar-10-batches-bin", "binary")
    (tmp_path / "manual").mkdir()
    with tarfile.open(tmp_path / "manual" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    expected = {split: rows(*(np.concatenate([arrays[name][i] for name in names]) for i in (0, 1)))
                for split, names in {"train": files.TEN[:5], "test": files.TEN[5:]}.items()}
    arguments = "tfds:cifar10", tmp_path / "manual", tmp_path / "out.npz"
    assert prepare(*arguments, image_size=64) == ("class9 True", expected)  # enlarged only on the device
    assert prepare(*arguments) == ("class9 False", expected)  # from the cache: no TensorFlow


STREAM = """
import sys
import warnings
warnings.simplefilter("ignore")
import numpy as np
from modern_cnn.training.devices import Devices
from tests.data import files
manual_dir, out = sys.argv[1:]
dataset = files.load("tfds:cifar10", manual_dir=manual_dir, image_size=32, stream=True, validation=0.2)
feed = dataset.feed(Devices())
arrays = {}
for split in ("train", "validation", "test"):
    batches = [feed.eval_batch(*args) for args in feed.evaluation(split, 7)]
    masks = np.concatenate([batch["mask"] for batch in batches])
    for i, name in enumerate(("image", "label")):
        arrays[f"{split}_{i}"] = np.concatenate([batch[name] for batch in batches])[masks]
np.savez(out, **arrays)
print(dataset.spec.class_names[9], *dataset.spec.sizes.values())
"""


def test_records_are_streamed(tmp_path):
    arrays = files.write_cifar10(tmp_path / "cifar-10-batches-bin", "binary")
    (tmp_path / "manual").mkdir()
    with tarfile.open(tmp_path / "manual" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    result = subprocess.run([sys.executable, "-c", STREAM, tmp_path / "manual", tmp_path / "out.npz"],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    train, test = (rows(*(np.concatenate([arrays[name][i] for name in names]) for i in (0, 1)))
                   for names in (files.TEN[:5], files.TEN[5:]))
    held_out = round(0.2 * len(train))
    assert result.stdout.splitlines()[-1] == f"class9 {len(train) - held_out} {held_out} {len(test)}"
    got = np.load(tmp_path / "out.npz")
    parts = {split: rows(got[f"{split}_0"], got[f"{split}_1"]) for split in ("train", "validation", "test")}
    assert sorted(parts["train"] + parts["validation"]) == train
    assert parts["test"] == test


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_through_tfds_is_that_of_the_idx_files(tmp_path):
    said, got = prepare("tfds:fashion_mnist", FASHION, tmp_path / "out.npz")
    assert said == "Ankle boot True"
    assert got == {split: rows(*arrays) for split, arrays in files.load(f"idx:{FASHION}").splits.items()}
