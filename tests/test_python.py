"""The four calls that a notebook needs: train, load, data.load, and a result that shows itself."""
import base64
import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import modern_cnn
from modern_cnn.errors import UserError
from modern_cnn.runs import load, log, record
from modern_cnn.runs import result as result_module

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    fields = {"data.source": "digits", "data.image_size": 16, "data.normalize": "standard", "data.batch_size": 128}
    return modern_cnn.train("mlp", tmp_path_factory.mktemp("runs") / "mine", max_steps=60, **fields)


def test_a_config_by_name_with_overrides(result):
    assert json.loads((result.workdir / "config.json").read_text())["data"]["batch_size"] == 128
    assert result.metrics()[-1]["step"] == result.scores["step"] == 60


def test_the_arrays_fit_the_network(result):
    module, variables = modern_cnn.load(result.workdir)
    images, labels = modern_cnn.data.load("digits", like=result.workdir)
    accuracy = np.mean(np.argmax(module.apply(variables, images, train=False), -1) == labels)
    assert images.dtype == np.float32
    assert accuracy == pytest.approx(load.evaluate_workdir(result.workdir)["accuracy"], abs=1e-6)
    assert accuracy > 0.5  # the labels are those of the images


def test_arrays_without_a_run():
    images, labels = modern_cnn.data.load("digits", "train", image_size=28, normalize="standard")
    assert images.shape == (1437, 28, 28, 1)
    assert labels.shape == (1437,)
    assert abs(images.std() - 1) < 0.2
    with pytest.raises(UserError, match="has no split 'validation', only train, test"):
        modern_cnn.data.load("digits", "validation")
    with pytest.raises(UserError, match="is not the workdir of a run"):
        modern_cnn.data.load("digits", like="/nowhere")


def test_own_arrays():
    images, labels = np.zeros((6, 8, 8, 1), np.uint8), np.arange(6) % 3
    images[3:] = 255
    dataset = modern_cnn.data.from_arrays((images, labels), (images[:3], labels[:3]), normalize="standard")
    assert dataset.spec.class_names == ("0", "1", "2")
    assert dataset.spec.sizes == {"train": 6, "test": 3}
    assert (dataset.spec.mean, dataset.spec.std, dataset.spec.image_shape) == ((0.5,), (0.5,), (8, 8, 1))
    assert "validation" in modern_cnn.data.from_arrays(
        (images, labels), (images, labels), (images, labels), class_names="abc").splits
    for pair, words in (
            ((images / 255, labels), r"train are float64 \[6, 8, 8, 1\], and must be uint8"),
            ((images[..., 0], labels), r"uint8 \[6, 8, 8\], .* gray images are images\[..., None\]"),
            ((images, labels[:5]), r"labels of train are int64 \[5\], .* each of 6 images"),
            ((images, np.eye(3)[labels]), r"labels of train are float64 \[6, 3\]"),
            ((images, labels - 1), r"labels of train are -1 to 1"),
            ((images[:, :4], labels), r"test are \(8, 8, 1\), and those of train \(4, 8, 1\)")):
        with pytest.raises(UserError, match=words):
            modern_cnn.data.from_arrays(pair, (images, labels))
    with pytest.raises(UserError, match="labels of test are 0 to 2, and there are 2 classes, 0 to 1"):
        modern_cnn.data.from_arrays((images, labels % 2), (images, labels))


def test_configs_and_values_of_other_types():
    for config, words in ((Path("mlp:big"), "has no variants"), ("lenet:lenet_bnn", "no variant 'lenet_bnn'"),
                          ({"epochs": 1}, "the config is a dict: give a name")):
        with pytest.raises(UserError, match=words):
            modern_cnn.train(config, "/nowhere")
    for value, words in ((np.array([1.0, 2.0]), r"is a ndarray, and must be a int"), ("3", "is a str, and must be")):
        with pytest.raises(UserError, match=words):
            modern_cnn.train("mlp", "/nowhere", epochs=value)
    with pytest.raises(UserError, match="has no field 'width'; the config file must declare"):
        modern_cnn.train("mlp", "/nowhere", **{"model.width": 0.5})
    with pytest.raises(UserError, match=r"cannot .*/proc/run|No such file"):
        modern_cnn.train("mlp", "/proc/run", epochs=np.int64(1), **{"optimizer.learning_rate": np.float32(0.1),
                                                                  "data.source": "digits", "data.image_size": 8})


def test_the_parts_are_imported_when_they_are_asked_for():
    code = ("import modern_cnn, sys; assert 'jax' not in sys.modules\n"
            "modern_cnn.models.build('lenet'), modern_cnn.data.load\n"
            "modern_cnn.functional.max_pool, modern_cnn.layers.Conv")
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="modern_cnn' has no attribute 'model'"):
        modern_cnn.model  # noqa: B018


def test_a_notebook_shows_scores_and_curves(result):
    log.draw_curves(result.workdir, "as every run outside of tests")
    html = result._repr_html_()
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert base64.b64decode(picture[1]).startswith(b"\x89PNG")
    assert f"accuracy {result.scores['test']['accuracy']:.4f}" in html
    assert result.load()[0] == modern_cnn.load(result.workdir)[0]


@pytest.mark.parametrize(("config", "overrides", "message"), [
    ("quickstar", {}, r"there is no config 'quickstar'; ours are .*quickstart"),
    ("quickstart", {"data.bach_size": 1}, "config.data has no field 'bach_size'; did you mean 'batch_size'"),
    ("quickstart", {"data.batch_size": "many"}, "config.data.batch_size='many' is a str, and must be a int")])
def test_what_is_wrong_is_said(config, overrides, message, tmp_path):
    with pytest.raises(UserError, match=message):
        modern_cnn.train(config, tmp_path / "run", **overrides)
    assert not (tmp_path / "run").exists()


def test_the_curves_grow_in_the_cell_of_a_notebook(tmp_path, monkeypatch):
    """A stand-in for IPython notes what is shown; test_notebooks has the real one."""
    shown = []
    display = types.SimpleNamespace(
        Image=lambda png: png, display=lambda png, display_id: shown.append(png) or types.SimpleNamespace(
            update=shown.append))
    shell = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=None))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(result_module, "REDRAW_SECONDS", 0)
    monkeypatch.setattr(record, "draw_curves", log.draw_curves)
    run = modern_cnn.train("mlp", tmp_path / "run", epochs=3, **{"data.source": "digits", "data.batch_size": 718})
    assert len({*shown}) > 2
    assert all(picture.startswith(b"\x89PNG") for picture in shown)
    assert len(shown[-1]) < 0.5 * len((run.workdir / "curves.png").read_bytes())


def test_a_package_configs_of_ones_own_is_in_nobodys_way(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/__init__.py").write_text("mine = 1\n")
    (tmp_path / "configs/rates.py").write_text("RATE = 0.125\n")
    (tmp_path / "own.py").write_text("from configs import base, rates\n\n\ndef get_config():\n"
                                     "    config = base.get_config()\n"
                                     "    config.optimizer.learning_rate = rates.RATE\n    return config\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    theirs = importlib.import_module("configs")
    assert theirs.mine == 1
    assert result_module.read_config("lenet").model.name == "lenet"
    assert result_module.read_config(str(tmp_path / "own.py")).optimizer.learning_rate == 0.125
    assert sys.modules["configs"] is theirs
    monkeypatch.delitem(sys.modules, "configs")
    done = subprocess.run([sys.executable, "-m", "modern_cnn", "train", "--config=lenet", "--config.epochs=many"],
                          cwd=tmp_path, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "config.epochs=many" in done.stderr
