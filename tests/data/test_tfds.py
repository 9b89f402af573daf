"""TensorFlow Datasets without a network: what is asked of it, and what a user reads if it cannot help."""
import os
import subprocess
import sys
import tarfile
import threading
import time
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets

from modern_cnn.data import tfds
from modern_cnn.errors import UserError
from tests.data import files

ROOT = Path(__file__).resolve().parents[2]
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
    assert time.monotonic() - start < tfds.PROBE_SECONDS + 60


def test_host_that_never_answers_is_given_up(monkeypatch):
    over = threading.Event()

    def hang(*_, **__):
        over.wait(600)
        raise OSError

    monkeypatch.setattr(tfds, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(tfds.urllib.request, "urlopen", hang)
    start = time.monotonic()
    assert tfds._unreachable("https://slow.invalid/") == "no answer within 0.2 s"
    assert time.monotonic() - start < 60
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
    assert time.monotonic() - start < 120
    refused("kmnist", "config.data.source='kmnist' is not in the cache", "$MODERN_CNN_DATA", *words)


@pytest.mark.parametrize(("source", "closest"), [
    ("tfds:fasion_mnist", "fashion_mnist"), ("cifar1O", "cifar10"), ("Digits", "digits"), ("tfds:digit", "digits")])
def test_unknown_set_names_the_closest(source, closest):
    refused(source, f"did you mean '{closest}'")


def test_a_set_prepared_in_another_format_says_what_to_do(monkeypatch):
    def builder(*args, **options):
        raise ValueError("File format is already set to FileFormat.TFRECORD. Got FileFormat.ARRAY_RECORD")

    monkeypatch.setattr(tensorflow_datasets, "builder", builder)
    refused("tfds:mnist", "cannot open 'mnist'", "TFDS_DATA_DIR", stream=True, image_size=28)


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
STREAM = """
import os
from modern_cnn.training.devices import Devices
os.environ["TFDS_DATA_DIR"] += "-of-streams"  # where it is not yet prepared
dataset = files.load(source, manual_dir=manual_dir, image_size=32, stream=True, validation=0.2)
feed = dataset.feed(Devices())
arrays = {}
for split in ("train", "validation", "test"):
    batches = [feed.eval_batch(*args) for args in feed.evaluation(split, 7)]
    masks = np.concatenate([batch["mask"] for batch in batches])
    for i, name in enumerate(("image", "label")):
        arrays[f"{split}_{i}"] = np.concatenate([batch[name] for batch in batches])[masks]
np.savez("streamed.npz", **arrays)
print(dataset.spec.class_names[9], *dataset.spec.sizes.values())
"""


def prepare(source, manual_dir, out, image_size=0, then="") -> tuple[list[str], dict[str, list[bytes]]]:
    """Load a set in a process of its own and return (the lines it printed, {split: what `rows` returns})."""
    result = subprocess.run([sys.executable, "-c", PREPARE + then, source, manual_dir, out, str(image_size)],
                            capture_output=True, text=True, check=False, cwd=out.parent,
                            env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), saved_rows(out, ("train", "test"))


def saved_rows(file, splits) -> dict[str, list[bytes]]:
    arrays = np.load(file)
    return {split: rows(arrays[f"{split}_0"], arrays[f"{split}_1"]) for split in splits}


def rows(images, labels) -> list[bytes]:
    """Return the bytes of images and labels, sorted."""
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_offline_preparation_from_a_file_with_another_checksum(again, tmp_path):
    """A small CIFAR-10, packed as a user behind a firewall would bring it along; TFDS shuffles.

    If loaded `again`, it comes from the cache, without TensorFlow; then it is streamed.
    """
    arrays = files.write_cifar10(tmp_path / "cifar-10-batches-bin", "binary")
    (tmp_path / "manual").mkdir()
    with tarfile.open(tmp_path / "manual" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    expected = {split: rows(*(np.concatenate([arrays[name][i] for name in names]) for i in (0, 1)))
                for split, names in {"train": files.TEN[:5], "test": files.TEN[5:]}.items()}
    arguments = "tfds:cifar10", tmp_path / "manual", tmp_path / "out.npz"
    said, got = prepare(*arguments, image_size=64)
    assert (said[-1], got) == ("class9 True", expected)  # enlarged only on the device
    if not again:
        return
    said, got = prepare(*arguments, then=STREAM)
    assert (said[0], got) == ("class9 False", expected)
    train, held_out = len(expected["train"]), round(0.2 * len(expected["train"]))
    assert said[-1] == f"class9 {train - held_out} {held_out} {len(expected['test'])}"
    parts = saved_rows(tmp_path / "streamed.npz", ("train", "validation", "test"))
    assert sorted(parts["train"] + parts["validation"]) == expected["train"]
    assert parts["test"] == expected["test"]


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_through_tfds_is_that_of_the_idx_files(tmp_path):
    said, got = prepare("tfds:fashion_mnist", FASHION, tmp_path / "out.npz")
    assert said[-1] == "Ankle boot True"
    assert got == {split: rows(*arrays) for split, arrays in files.load(f"idx:{FASHION}").splits.items()}
