"""Networks scored on other data than they were trained on: classes found by name, and only what is scored is read."""
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import modern_cnn
from configs import base
from modern_cnn import models, settings
from modern_cnn.data import folders
from modern_cnn.data.spec import Records
from modern_cnn.errors import UserError
from modern_cnn.runs import imported, load, loop, workdir
from tests.data import files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODERN_CNN_CACHE", str(tmp_path / "cache"))


def network(directory, names=(), classes=0, answer=2, channels=1, balanced=False):
    """Write the workdir of an imported network of 4x4 images that gives every image the class `answer`."""
    config, classes = base.get_config(), classes or len(names)
    config.model.update(name="mlp", hidden_sizes=(2,))
    config.data.update(source="", image_size=4, balanced=balanced)
    module = models.build("mlp", classes, hidden_sizes=(2,))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros((1, 4, 4, channels)), train=False))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    variables["params"]["dense2"]["bias"][answer] = 9
    imported.write_run(directory, settings.read(config), module, variables, (4, 4, channels), names, {})
    return directory


def folder(directory, counts, mode="L"):
    """Write so many test images of each class, one to train on, and return the source."""
    for name, count in counts.items():
        files.write_images(directory / "train", [name], count=1, mode=mode, size=(4, 4))
        files.write_images(directory / "test", [name], count=count, mode=mode, size=(4, 4))
    return f"folder:{directory}"


def accuracy(directory, source, **data):
    return load.evaluate_workdir(directory, data={"source": source} | data)["accuracy"]


def test_numbered_folders_are_the_classes_of_these_numbers(tmp_path):
    """Sorted as text they are 0 1 10 11 2 ...: the third class is not 2."""
    counts = {str(i): i + 1 for i in range(12)}
    run = network(tmp_path / "run", classes=12, answer=2)
    assert accuracy(run, folder(tmp_path / "set", counts)) == pytest.approx(3 / sum(counts.values()))
    zeros = {f"{i:02d}": count for i, count in enumerate(counts.values())}
    assert accuracy(run, folder(tmp_path / "zeros", zeros)) == pytest.approx(3 / sum(counts.values()))


def test_numbers_without_names_are_the_classes_of_these_numbers(tmp_path):
    """A network of the folders 0 1 10 11 2 ..., scored on labels that have no names."""
    names = sorted(str(i) for i in range(12))
    labels = np.repeat(np.arange(12), np.arange(12) + 1)
    files.write_idx(tmp_path / "set", train_images=files.pixels(12, 4, 4), train_labels=np.arange(12),
                    test_images=files.pixels(len(labels), 4, 4), test_labels=labels)
    run = network(tmp_path / "run", names, answer=names.index("10"))
    assert accuracy(run, f"idx:{tmp_path / 'set'}") == pytest.approx(11 / len(labels))


def test_classes_are_found_by_name(tmp_path):
    run = network(tmp_path / "run", ["emu", "dog", "cat"], answer=2)
    assert accuracy(run, folder(tmp_path / "set", {"cat": 3, "dog": 1, "emu": 1})) == pytest.approx(3 / 5)
    assert accuracy(run, folder(tmp_path / "fewer", {"cat": 3, "dog": 1})) == pytest.approx(3 / 4)
    with pytest.raises(UserError, match=r"has the classes ant, which are not among .*emu, dog, cat"):
        accuracy(run, folder(tmp_path / "other", {"cat": 1, "ant": 1}))
    files.write_idx(tmp_path / "idx", train_images=files.pixels(3, 4, 4), train_labels=np.arange(3),
                    test_images=files.pixels(3, 4, 4), test_labels=np.arange(3))
    with pytest.raises(UserError, match="has the classes 0, 1, 2, which are not among"):
        accuracy(run, f"idx:{tmp_path / 'idx'}")


def test_a_name_that_two_classes_have_is_not_guessed(tmp_path):
    run = network(tmp_path / "run", ["crane", "dog", "crane"])
    with pytest.raises(UserError, match="has the classes crane, which are not among those of the network, or twice"):
        accuracy(run, folder(tmp_path / "set", {"crane": 1, "dog": 1}))


def test_an_imported_network_without_names_takes_the_alphabetical_order_and_says_so(tmp_path, caplog):
    run = network(tmp_path / "run", classes=3)
    source = folder(tmp_path / "set", {"cat": 1, "dog": 1, "emu": 3})
    assert accuracy(run, source) == pytest.approx(3 / 5)
    assert "in alphabetical order, cat, dog, emu;" in caplog.text
    with pytest.raises(UserError, match="has the classes ant, bee, which are not among"):
        accuracy(run, folder(tmp_path / "fewer", {"ant": 1, "bee": 1}))


def test_lists_of_many_classes_are_cut(tmp_path):
    run = network(tmp_path / "run", [f"a class with a long name, number {i}" for i in range(300)])
    with pytest.raises(UserError, match="300 in all") as caught:
        accuracy(run, folder(tmp_path / "set", {f"n{i:08d}": 1 for i in range(100)}))
    assert len(str(caught.value)) < 600


def test_labels_of_prepared_records_are_renumbered():
    records = Records([{"image": b"", "label": label} for label in (0, 2, 1)], "set", np.arange(3))
    renumbered = records.relabel(np.array([7, 8, 9], np.int32)).take(np.array([2, 1]))
    assert [renumbered[i][1] for i in range(2)] == renumbered.labels.tolist() == [8, 9]


def test_only_the_split_that_is_scored_is_read(tmp_path, monkeypatch):
    source = folder(tmp_path / "set", {"cat": 3, "dog": 1, "emu": 1})
    for path in (tmp_path / "set" / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    monkeypatch.setattr(folders, "check_memory", lambda *args: pytest.fail("nothing is held in memory"))
    assert accuracy(network(tmp_path / "run", ["emu", "dog", "cat"]), source) == pytest.approx(3 / 5)


def test_fields_that_divide_the_training_images_do_not_matter_to_the_test_images(tmp_path):
    run, source = network(tmp_path / "run", ["emu", "dog", "cat"]), folder(tmp_path / "set", {"cat": 3, "dog": 2})
    shutil.copytree(tmp_path / "set" / "test", tmp_path / "set" / "val")
    assert accuracy(run, source, validation=0.5, train_size=900) == pytest.approx(3 / 5)


def test_gray_images_for_a_network_of_rgb_images(tmp_path):
    run = network(tmp_path / "run", ["cat", "dog"], answer=1, channels=3)
    assert accuracy(run, folder(tmp_path / "set", {"cat": 1, "dog": 3})) == pytest.approx(3 / 4)
    files.write_idx(tmp_path / "idx", train_images=files.pixels(2, 4, 4), train_labels=np.arange(2),
                    test_images=files.pixels(2, 4, 4), test_labels=np.arange(2))
    numbered = network(tmp_path / "numbered", classes=2, answer=1, channels=3)
    assert accuracy(numbered, f"idx:{tmp_path / 'idx'}") == 0.5
    gray = network(tmp_path / "gray", ["cat", "dog"], answer=1)
    with pytest.raises(UserError, match=r"test/cat/0.png is a colour image, and the network takes gray ones"):
        accuracy(gray, folder(tmp_path / "colour", {"cat": 1, "dog": 1}, "RGB"))


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.slow), True])
def test_fine_tuning_on_gray_images(tmp_path, stream):
    """The images are repeated, also when the run goes on and the network that it began with is gone."""
    config = base.get_config()
    config.model.update(name="mlp", hidden_sizes=(2,))
    config.data.update(source=folder(tmp_path / "set", {"ant": 3, "bee": 1}), image_size=4, batch_size=2, stream=stream)
    config.finetune.workdir = str(network(tmp_path / "imported", ["cat", "dog"], answer=1, channels=3))
    config.epochs = 1
    loop.train_and_evaluate(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "imported")
    config.epochs = 2
    result = loop.train_and_evaluate(config, tmp_path / "run")
    assert load.load_run(tmp_path / "run").spec.image_shape == (4, 4, 3)
    assert load.evaluate_workdir(tmp_path / "run")["loss"] == result["test"]["loss"]
    images, _ = load.examples(load.load_data(tmp_path / "run", "test"), "test", np.array([0]))
    gray = np.asarray(Image.open(tmp_path / "set" / "test" / "ant" / "0.png"))
    np.testing.assert_array_equal(images[0], np.repeat(gray[..., None], 3, 2))


def test_a_run_of_balanced_epochs_is_scored_on_all_images(tmp_path):
    run = network(tmp_path / "run", ["emu", "dog", "cat"], balanced=True)
    source = folder(tmp_path / "set", {"cat": 3, "dog": 1, "emu": 1})
    assert accuracy(run, source) == pytest.approx(3 / 5)
    assert len(load.sources.file_names(settings.Data(source, balanced=True), "test")) == 5


def test_the_splits_of_a_run_are_those_of_its_source_by_any_path(tmp_path):
    """Of the same folder, however it is spelt, nothing is scored as new that the run was trained on."""
    config = base.get_config()
    config.model.update(name="mlp", hidden_sizes=(2,))
    config.data.update(source=files.write_shapes(tmp_path / "set", 40), image_size=8, batch_size=8, validation=0.25)
    config.epochs = 1
    loop.train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for source in (config.data.source, f"folder:{tmp_path}/./set/", f"folder:{tmp_path}/link"):
        sizes = [len(modern_cnn.data.load(source, split, like=tmp_path / "run")[1])
                 for split in ("train", "validation", "test")]
        assert sizes == [24, 8, 8]
        assert load.load_data(tmp_path / "run", "train", {"source": source}).spec.sizes["train"] == 24


def test_photographs_of_any_size_for_a_network_whose_images_have_one(tmp_path):
    """Its config may say nothing of their size, where all were alike."""
    run = network(tmp_path / "run", ["circle", "square", "triangle"], answer=1, channels=3)
    content = workdir.read_json(run / "config.json")
    workdir.write_json(run / "config.json", content | {"data": content["data"] | {"image_size": 0}})
    assert accuracy(run, files.write_shapes(tmp_path / "set", 45)) == pytest.approx(1 / 3)
