"""Predictions for image files: the same as in evaluation, and complete."""
import csv
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import base
from modern_cnn.errors import UserError
from modern_cnn.reuse import export, predict
from modern_cnn.runs import load as evaluation
from modern_cnn.runs import loop
from tests.data import files


@pytest.mark.parametrize("resize", [pytest.param(0, marks=pytest.mark.slow), 30])
def test_on_a_folders_test_images_it_has_the_accuracy_of_evaluation(tmp_path, resize):
    """The files are larger and smaller than the images of the network, and the last batch is not full."""
    config = base.get_config()
    config.data.update(source=files.write_digits(tmp_path / "digits", 150), image_size=24, batch_size=32,
                       normalize="standard", resize=resize)
    config.model.update(name="mlp", hidden_sizes=(16,))
    config.epochs = 2
    loop.train_and_evaluate(config, tmp_path / "run")
    scored = evaluation.evaluate_workdir(tmp_path / "run")
    assert 0.3 < scored["accuracy"] < 1
    found = list(predict.predict(tmp_path / "run", predict.image_files([str(tmp_path / "digits" / "test")]),
                                 top_k=10))
    assert len(found) == scored["count"]
    assert np.mean([p.classes[0][0] == Path(p.file).parent.name for p in found]) == scored["accuracy"]
    losses = [-np.log(dict(p.classes)[Path(p.file).parent.name]) for p in found]
    np.testing.assert_allclose(np.mean(losses), scored["loss"], rtol=1e-5)


@pytest.mark.parametrize("shift", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_other_views_count_where_they_do_in_evaluation(make_run, tmp_path, shift):
    """The mean of the logits of all views, before softmax; so does the exported network."""
    directory, module, variables = make_run("mlp", (8, 8, 1), test_flip=True, test_shift=shift)
    pixels = files.pixels(8, 8)
    padded = np.pad(pixels, 1, "reflect")
    views = [pixels, pixels, padded[:-2, :-2], padded[2:, 2:]] if shift else [pixels]
    images = (np.stack([*views, *(view[:, ::-1] for view in views)])[..., None] / 255 - 0.5) / 0.5
    logits = module.apply(variables, images, train=False)
    assert np.abs(logits[0] - logits[len(views)]).max() > 0.1
    wanted = jax.nn.softmax(logits.mean(0))
    found, = predict.predict(directory, [write(tmp_path / "a.png", pixels)], top_k=3)
    np.testing.assert_allclose([share for _, share in found.classes], sorted(wanted, reverse=True), rtol=1e-5)
    done = export.export_run(directory, tmp_path / "mlp.stablehlo", platforms=("cpu",))
    network = jax.export.deserialize(bytearray(done.path.read_bytes()))
    got = network.call(np.tile(images[:1], (3, 1, 1, 1)).astype(np.float32))
    np.testing.assert_allclose(got, np.tile(logits.mean(0), (3, 1)), rtol=1e-4)
    info = json.loads(done.info.read_text())["logits"]
    assert (info["mean_with_mirror_image"], info["mean_with_shifts"]) == (True, shift)


def write(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


def test_probabilities_of_a_hand_made_batch(make_run, tmp_path):
    directory, module, variables = make_run("mlp", (8, 8, 3), normalize="imagenet")
    pixels = files.pixels(8, 8, 3)
    normalised = (pixels[None] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    softmax = jax.nn.softmax(module.apply(variables, normalised, train=False))[0]
    found, = predict.predict(directory, [write(tmp_path / "a.png", pixels)], top_k=9)
    assert [name for name, _ in found.classes] == [("cat", "dog", "emu")[i] for i in np.argsort(-softmax)]
    np.testing.assert_allclose([share for _, share in found.classes], sorted(softmax, reverse=True), rtol=1e-5)
    first, = predict.predict(directory, [found.file], top_k=1)
    assert first.classes == found.classes[:1]


def test_colours_follow_the_network(tmp_path):
    color = files.pixels(4, 4, 3)
    gray = np.asarray(Image.fromarray(color).convert("L"))
    saved = write(tmp_path / "color.png", color), write(tmp_path / "gray.png", gray)
    for file in saved:
        np.testing.assert_array_equal(predict.read_image(file, (4, 4, 1)), gray[..., None])
    np.testing.assert_array_equal(predict.read_image(saved[0], (4, 4, 3)), color)
    np.testing.assert_array_equal(predict.read_image(saved[1], (4, 4, 3)), np.stack([gray] * 3, -1))
    with pytest.raises(UserError, match="is 4x4; the network takes 6x5 images"):
        predict.read_image(saved[0], (5, 6, 3))


def test_what_cannot_be_read_is_named_and_nothing_is_lost(make_run, tmp_path, caplog, capsys):
    directory, module, variables = make_run("mlp", (8, 8, 1))
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    pixels = np.stack([files.pixels(8, 8, seed=i) for i in range(6)])[..., None]
    wanted = np.asarray(jax.nn.softmax(module.apply(variables, (pixels / 255 - 0.5) / 0.5, train=False)))
    for i in range(6):
        write(folder / "below" / f"{i}.png", pixels[i, ..., 0])
    (folder / "2.png").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    out = tmp_path / "out"
    for kind in ("csv", "json"):
        caplog.clear()
        with pytest.raises(UserError, match="1 of 7 files could not be read"):
            predict.report(directory, [str(folder)], top_k=2, format=kind, out=str(out))
        assert f"{folder}/2.png does not decode" in caplog.text
        rows = json.loads(out.read_text()) if kind == "json" else list(csv.DictReader(out.read_text().splitlines()))
        assert [row["file"] for row in rows][:: 1 if kind == "json" else 2] == [
            str(folder / "below" / f"{i}.png") for i in range(6)]
        shares = [float(each["probability"]) for row in rows for each in row.get("predictions", [row])]
        np.testing.assert_allclose(shares, np.ravel(-np.sort(-wanted)[:, :2]), rtol=1e-4)  # no other file's
    assert set(rows[0]) == {"file", "predictions"}
    predict.report(directory, [str(folder / "below"), str(folder / "below" / "1.png")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0].split() == ["file", "rank", "1"]
    assert lines[2] == lines[7]
    assert lines[1].endswith(" %")


def test_places_to_write_to_are_tried_before_the_work(make_run, tmp_path, monkeypatch):
    directory, *_ = make_run("mlp", (8, 8, 1))
    image = write(tmp_path / "a.png", files.pixels(8, 8))
    predict.report(directory, [image], format="csv", out=str(tmp_path / "new" / "a.csv"))
    assert (tmp_path / "new" / "a.csv").read_text().startswith("file,rank")
    monkeypatch.setattr(predict, "predict", lambda *args: pytest.fail("it predicts"))
    for flag in ("out", "embeddings"):
        with pytest.raises(UserError, match=r"cannot write .*a\.png"):
            predict.report(directory, [image], **{flag: str(tmp_path / "a.png" / "b.csv")})
        with pytest.raises(UserError, match="cannot write"):
            predict.report(directory, [image], **{flag: str(tmp_path)})
    for flag in ("out", "embeddings"):  # a flag without its value takes the first image of *.png
        with pytest.raises(UserError, match=r"a\.png is an image that the output would replace"):
            predict.report(directory, [image], **{flag: image})
    with pytest.raises(UserError, match="are the same file"):
        predict.report(directory, [image], out=str(tmp_path / "x"), embeddings=f"{tmp_path}/./x")
    with pytest.raises(UserError, match="nowhere"):
        predict.report(directory, [str(tmp_path / "nowhere")], out=str(tmp_path / "other.csv"))
    assert not (tmp_path / "other.csv").exists()


def test_embeddings_are_what_the_head_takes_in(make_run, tmp_path, capsys):
    """By the last dense layer they become the predictions; a file that cannot be read has none."""
    directory, _, variables = make_run("mlp", (8, 8, 1), hidden_sizes=(5,))
    names = [write(tmp_path / f"{i}é.png", files.pixels(8, 8, seed=i)) for i in range(6)]
    (tmp_path / "3a.png").write_text("no image")
    with pytest.raises(UserError, match="1 of 7 files could not be read"):
        predict.report(directory, [str(tmp_path)], embeddings=str(tmp_path / "found"), format="json")
    predictions = json.loads(capsys.readouterr().out)
    with np.load(tmp_path / "found") as file:
        assert sorted(file.files) == ["features", "names"]
        assert [*file["names"]] == names == [each["file"] for each in predictions]
        features = file["features"]
    assert (features.shape, features.dtype) == ((6, 5), np.float32)
    head = variables["params"]["dense2"]
    shares = jax.nn.softmax(features @ head["kernel"] + head["bias"])
    found = [each["predictions"][0]["probability"] for each in predictions]
    np.testing.assert_allclose(found, shares.max(1), rtol=1e-5)
    assert next(predict.predict(directory, names[:1])).features is None
    predict.report(directory, names, embeddings=str(tmp_path / "new" / "found"))
    assert (tmp_path / "new" / "found").exists()


@pytest.mark.parametrize("kind", ["csv", "json", "table"])
def test_file_names_that_are_no_text(make_run, tmp_path, kind):
    directory, *_ = make_run("mlp", (8, 8, 1))
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xa8.png")
    with open(name, "wb") as file:
        Image.fromarray(files.pixels(8, 8)).save(file, "PNG")
    predict.report(directory, [name], format=kind, out=str(tmp_path / "out"))
    text = (tmp_path / "out").read_text("utf-8")
    assert (json.loads(text)[0]["file"] == name) if kind == "json" else "/caf\\udce9 è.png" in text


def test_what_is_not_there(tmp_path):
    for paths, words in (([], "no files"), ([str(tmp_path)], "holds no images"), (["nowhere.png"], "nowhere.png")):
        with pytest.raises(UserError, match=words):
            predict.image_files(paths)
