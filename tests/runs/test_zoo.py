"""The trained networks that come with the package: their cards, weights, logits and scores, and who takes zoo:NAME."""
import hashlib
import json
import os
import shutil

import jax
import numpy as np
import pytest

import modern_cnn
from configs import base, lenet
from modern_cnn import zoo
from modern_cnn.errors import UserError
from modern_cnn.runs import load, loop
from tests.data import files
from tests.golden import zoo as golden

SMALL = "lenet_relu_fashion_mnist"
ARRAYS = dict(np.load(golden.PATH))
# Where the images of each data set are; the scores of the others cannot be repeated here.
SOURCES = {"Fashion-MNIST": "fashion_mnist", "CIFAR-10": os.environ.get("MODERN_CNN_CIFAR10"), "digits": "digits"}


def data_of(name):
    return golden.images_of(name).split()[0]


@pytest.mark.parametrize("name", zoo.names())
def test_a_card_is_complete_and_of_its_file(name):
    card, file = zoo.card(name), zoo.FOLDER / f"{name}.safetensors"
    assert card["name"] == name
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stat().st_size <= 4e6
    assert card["accuracy"] == card["correct"] / card["count"]
    assert card["command"].startswith("python scripts/train.py --config=configs/")
    assert "dirty" not in card["commit"]
    assert card["licence"]
    assert card["config"]["data"]["source"] == card["run"]["data"]["source"] == card["run"]["data"]["origin"]
    assert ":" not in card["run"]["data"]["source"]  # no path of the machine that trained
    _, variables = modern_cnn.load(f"zoo:{name}")
    assert card["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_all_of_them_are_small():
    assert sum(path.stat().st_size for path in zoo.FOLDER.iterdir()) <= 12e6


@pytest.mark.parametrize("name", zoo.names())
def test_logits_of_sixteen_images(name):
    """To the bit where the compiler makes the same program, and within rounding everywhere."""
    found = golden.logits(name, ARRAYS[golden.images_of(name)])
    wanted = {key: logits for key, logits in ARRAYS.items() if key.startswith(f"{name}: ")}
    assert wanted
    for key, logits in wanted.items():
        if key == f"{name}: {golden.compiler()}":
            np.testing.assert_array_equal(found, logits)
        np.testing.assert_allclose(found, logits, atol=1e-5 * abs(logits).max(), rtol=0)


def test_unknown_names_and_damaged_files(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"no zoo network 'lenet_relu_fashion'; did you mean '{SMALL}'"):
        modern_cnn.load("zoo:lenet_relu_fashion")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    for suffix in (".json", ".safetensors"):
        shutil.copy(golden.PATH.parents[2] / "modern_cnn/zoo" / f"{SMALL}{suffix}", tmp_path)
    with (tmp_path / f"{SMALL}.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(UserError, match="missing or damaged: install the package again"):
        modern_cnn.load(f"zoo:{SMALL}")


def test_arrays_that_fit_a_network_of_the_zoo(tmp_path):
    """In its size, its normalisation and its numbering of the classes, of which the folder has only two."""
    files.write_images(tmp_path / "test", ("truck", "cat"), 3, size=(32, 32))
    files.write_images(tmp_path / "train", ("truck", "cat"), 3, size=(32, 32))
    images, labels = modern_cnn.data.load(f"folder:{tmp_path}", like="zoo:airbench94_cifar10")
    assert sorted(labels) == [3] * 3 + [9] * 3
    plain, _ = modern_cnn.data.load(f"folder:{tmp_path}")
    card = zoo.card("airbench94_cifar10")
    np.testing.assert_allclose(images, (plain - np.array(card["mean"])) / np.array(card["std"]), atol=1e-5)
    with pytest.raises(UserError, match=r"images are \[28, 28, 3\], and zoo:lenet_fashion_mnist takes \[28, 28, 1\]"):
        modern_cnn.data.load(f"folder:{tmp_path}", like="zoo:lenet_fashion_mnist")
    for field, value, words in (("imagesize", 28, "no field 'imagesize'; did you mean 'image_size'"),
                                ("normalize", "zscore", "'zscore' is unknown"), ("image_size", "28", "a number")):
        with pytest.raises(UserError, match=words):
            modern_cnn.data.load("digits", **{field: value})
    with pytest.raises(UserError, match="no zoo network 'lenet'"):
        modern_cnn.data.load("digits", like="zoo:lenet")


def test_nothing_trains_into_the_zoo():
    config = base.get_config()
    config.model.name, config.data.source = "lenet_relu", "digits"
    with pytest.raises(UserError, match="which nothing writes"):
        loop.train_and_evaluate(config, f"zoo:{SMALL}")


def test_fine_tuning_begins_with_its_weights(tmp_path):
    config = lenet.get_config("lenet_relu")
    config.update(epochs=1, max_steps=1, eval_every_epochs=1, test_every_epoch=False)
    config.data.update(source="digits", image_size=28)
    config.finetune.update(workdir=f"zoo:{SMALL}", freeze="backbone")
    loop.train_and_evaluate(config, tmp_path / "run")
    before, after = (load.load_run(place).variables["params"] for place in (f"zoo:{SMALL}", tmp_path / "run"))
    np.testing.assert_array_equal(before["conv1"]["kernel"], after["conv1"]["kernel"])
    assert json.loads((tmp_path / "run/run.json").read_text())["finetuned_from"]["workdir"] == f"zoo:{SMALL}"


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_the_score_of_the_card_to_the_last_image(name):
    source = SOURCES[data_of(name)]
    if not source:
        pytest.skip(f"the images of {zoo.card(name)['data']} are not here: set MODERN_CNN_CIFAR10=cifar:DIR")
    score = load.evaluate_workdir(f"zoo:{name}", "test", {"source": source})
    assert round(score["accuracy"] * score["count"]) == zoo.card(name)["correct"]
