"""Streams: the same images in the same order as from memory, random crops by torchvision's rule, and resuming."""
import itertools

import numpy as np
import pytest
from PIL import Image

from modern_cnn.data import folders
from modern_cnn.data.augment import crop_box
from modern_cnn.data.resident import epoch_order
from modern_cnn.errors import UserError
from modern_cnn.training.devices import Devices
from tests.data import files

SIZE = 8


@pytest.fixture
def folder(tmp_path):
    """Write two classes of JPEGs of many sizes, 21 to train on and 7 to test, and return the source."""
    for split, count in (("train", 21), ("test", 7)):
        for i in range(count):
            path = tmp_path / "set" / split / "ab"[i % 2] / f"{i:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(files.pixels(9 + i % 5, 8 + i % 7, 3, seed=i)).save(path)
    return f"folder:{tmp_path / 'set'}"


def streamed(source, **fields):
    return files.load(source, image_size=SIZE, stream=True, **fields)


def examples(arguments, batch):
    """Yield the batches of a feed as numpy arrays; `batch` makes one of its arguments."""
    for args in arguments:
        yield {name: np.asarray(leaf) for name, leaf in batch(*args).items()}


def test_the_same_batches_as_from_memory(folder):
    devices = Devices()
    resident, streaming = files.load(folder, image_size=SIZE).feed(devices), streamed(folder).feed(devices)
    for epoch in (0, 1):
        first = list(itertools.islice(resident.train(3, epoch, 0, 5), 4))
        theirs = [resident.train_batch(number, 5, *args) for number, args in enumerate(first)]
        ours = list(examples(streaming.train(3, epoch, 0, 5), lambda batch: streaming.train_batch(0, 5, batch)))
        assert len(ours) == 4  # the last example is left out
        for one, other in zip(ours, theirs, strict=True):
            for name in ("image", "label", "number"):
                np.testing.assert_array_equal(one[name], other[name])
    for one, args in zip(examples(streaming.evaluation("test", 4), streaming.eval_batch),
                         resident.evaluation("test", 4), strict=True):
        other = resident.eval_batch(*args)
        for name in ("image", "label", "mask"):
            np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(streamed(folder).sample(), files.load(folder, image_size=SIZE).sample())


def test_going_on_in_the_middle_of_an_epoch_gives_the_same_crops(folder):
    feed = streamed(folder).feed(Devices(), smallest_crop=0.08)

    def epoch(number, first):
        return list(examples(feed.train(0, number, first, 4), lambda batch: feed.train_batch(0, 4, batch)))

    whole = epoch(1, 0)
    assert len(whole) == 5
    for first in range(5):
        for one, other in zip(epoch(1, first), whole[first:], strict=True):
            np.testing.assert_array_equal(one["image"], other["image"])
            np.testing.assert_array_equal(one["label"], other["label"])
    assert not np.array_equal(whole[0]["image"], epoch(2, 0)[0]["image"])


def test_a_crop_is_pillows(folder):
    feed = streamed(folder).feed(Devices(), smallest_crop=0.3)
    batch = next(examples(feed.train(5, 2, 0, 3), lambda batch: batch))
    index = epoch_order(5, 2, 21)[1]
    path, label, _ = streamed(folder).splits["train"][index]
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((5, 2, index))))
    with Image.open(path) as image:
        box = crop_box(random, *image.size, 0.3)
        np.testing.assert_array_equal(batch["image"][1], np.asarray(image.crop(box).resize((SIZE, SIZE), 2)))
    assert batch["label"][1] == label


def test_the_spec(folder):
    spec = streamed(folder, validation=0.2).spec
    assert spec.sizes == {"train": 17, "validation": 4, "test": 7}
    assert (spec.image_shape, spec.num_classes, spec.class_names) == ((SIZE, SIZE, 3), 2, ("a", "b"))
    standard, whole = streamed(folder, normalize="standard").spec, files.load(folder, image_size=SIZE,
                                                                              normalize="standard").spec
    np.testing.assert_allclose(standard.mean, whole.mean)
    np.testing.assert_allclose(standard.std, whole.std)


def test_mean_and_deviation_are_those_of_the_remaining_training_images(folder):
    dataset = streamed(folder, normalize="standard", validation=0.4)
    assert dataset.spec.sizes == {"train": 13, "validation": 8, "test": 7}
    images = []
    for path, _, _ in map(dataset.splits["train"].__getitem__, range(13)):
        with Image.open(path) as image:  # the shorter side to SIZE, then the centre
            sides = [round(side * SIZE / min(image.size)) for side in image.size]
            left, top = ((side - SIZE) // 2 for side in sides)
            images.append(np.asarray(image.resize(sides, 2).crop((left, top, left + SIZE, top + SIZE))))
    np.testing.assert_allclose(dataset.spec.mean, np.mean(images, (0, 1, 2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(dataset.spec.std, np.std(images, (0, 1, 2)) / 255, rtol=1e-6)


def test_the_digest_changes_with_the_files(folder):
    before = streamed(folder).spec.digest
    assert streamed(folder).spec.digest == before
    path = next(iter(folders.files_under(folder.removeprefix("folder:")))).path
    Image.fromarray(files.pixels(20, 20, 3)).save(path)
    assert streamed(folder).spec.digest != before


def test_a_damaged_image_is_named(folder, tmp_path):
    path = tmp_path / "set/train/a/00.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"set/train/a/00\.jpg does not decode as an image"):
        list(streamed(folder).feed(Devices()).train(0, 0, 0, 21))


@pytest.mark.parametrize(("source", "fields", "words"), [
    ("digits", {"image_size": 8}, "for folder:, csv: and tfds: sources"),
    ("folder", {"image_size": 0}, "needs images of one size"),
])
def test_what_cannot_be_streamed(folder, source, fields, words):
    with pytest.raises(UserError, match=words):
        files.load(folder if source == "folder" else source, stream=True, **fields)
