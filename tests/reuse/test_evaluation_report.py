"""The report on a network: its tables against the predictions for the same files, and a page that needs no other."""
import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from modern_cnn.data import formats
from modern_cnn.errors import UserError
from modern_cnn.reuse import predict, report
from modern_cnn.runs import load
from tests.data import files

NAMES = ("cat", "<b>", "emu")


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def photos(tmp_path):
    """A folder with 40 test images of a class, one of another, and none of the third."""
    root = tmp_path / "photos"
    files.write_images(root / "train", NAMES, 1, size=(8, 8))
    files.write_images(root / "test", NAMES[:1], 40, size=(8, 8), seed=1)
    files.write_images(root / "test", NAMES[1:2], 1, size=(8, 8), seed=99)
    (root / "test" / "emu").mkdir()
    return root


def test_its_figures_are_those_of_the_predictions(make_run, photos, tmp_path):
    workdir, *_ = make_run("mlp", (8, 8, 3), classes=NAMES)
    data, out = {"source": f"folder:{photos}"}, tmp_path / "new" / "report"
    result = report.write(out, workdir, data=data)
    wanted = load.evaluate_workdir(workdir, data=data)
    assert result == wanted | {"loss": pytest.approx(wanted["loss"], rel=1e-5)}
    found = list(predict.predict(workdir, predict.image_files([str(photos / "test")]), top_k=3))
    true, predicted = [Path(p.file).parent.name for p in found], [p.classes[0][0] for p in found]
    assert 0 < result["accuracy"] < 1
    heading, *rows = read(out / "confusion.csv")
    assert heading == ["true class", *NAMES]
    assert [row[0] for row in rows] == [*NAMES]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int),
                                  metrics.confusion_matrix(true, predicted, labels=NAMES))
    table = read(out / "classes.csv")
    assert table[0][:4] == ["class", "images", "predicted", "correct"]
    figures = np.array([[float(cell or "nan") for cell in row[1:]] for row in table[1:]]).T
    np.testing.assert_array_equal(figures[0], [40, 1, 0])
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(true, predicted, labels=NAMES,
                                                                       zero_division=np.nan)
    np.testing.assert_allclose(figures[[3, 6, 7]], [recall, precision, f1], atol=1e-6)
    assert (figures[4:6, :2].T[0] - figures[3, 0]).prod() < 0  # the limits are on either side
    losses = np.array([-np.log(dict(p.classes)[name]) for p, name in zip(found, true, strict=True)])
    page = (out / "report.html").read_text("utf-8")
    assert re.findall(r"<small>(.*?)</small>", page) == [
        found[i].file.replace("<", "&lt;").replace(">", "&gt;") for i in np.argsort(-losses)[:25]]
    shown = [float(number) for number in re.findall(r"<br>loss ([\d.]+)", page)]
    np.testing.assert_allclose(shown, np.sort(losses)[::-1][:25], atol=6e-4)


def test_the_page_needs_no_other_file(make_run, photos, tmp_path):
    workdir, *_ = make_run("mlp", (8, 8, 3), classes=NAMES)
    report.write(tmp_path / "report", workdir, data={"source": f"folder:{photos}"})
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert len(re.findall(r'<img [^>]*src="data:image/png;base64,', page)) == page.count("<img") == 25 + 2
    assert not re.search("http|<link|<script|href|url\\(|@import|<b>", page)
    assert "<td>&lt;b&gt;</td><td>1</td>" in page
    assert "<td>emu</td><td>0</td>" in page
    with Image.open(tmp_path / "report" / "confusion.png") as picture:
        picture.verify()
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html", "classes.csv", "confusion.csv", "confusion.png", "reliability.png"}


def test_a_hundred_classes(make_run, tmp_path):
    names = tuple(f"class{i:02}" for i in range(100))
    files.write_images(tmp_path / "photos" / "train", names, 1, size=(8, 8))
    files.write_images(tmp_path / "photos" / "test", names, 1, size=(8, 8), seed=7)
    workdir, *_ = make_run("mlp", (8, 8, 3), classes=names)
    result = report.write(tmp_path / "report", workdir, data={"source": f"folder:{tmp_path / 'photos'}"})
    assert result["count"] == 100
    assert "top5" in result
    matrix = np.array([row[1:] for row in read(tmp_path / "report" / "confusion.csv")[1:]], int)
    np.testing.assert_array_equal(matrix.sum(1), np.ones(100))
    pairs = (tmp_path / "report" / "report.html").read_text().partition("The most frequent errors")[2]
    assert pairs.partition("</table>")[0].count("<tr>") == 1 + report.PAIRS


def test_images_that_a_table_lists(make_run, photos, tmp_path):
    """They have the scores of the folder, and the page names their files; other splits are not decoded."""
    (photos / "train" / "emu" / "0.png").write_text("no image")
    workdir, *_ = make_run("mlp", (8, 8, 3), classes=NAMES)
    rows = [f"{path},{path.parent.name},{path.parent.parent.name}" for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    sources = f"csv:{tmp_path / 'table.csv'}", f"folder:{photos}"
    listed, folder = (report.write(tmp_path / source[:3], workdir, data={"source": source}) for source in sources)
    assert listed == folder
    listed, folder = ((tmp_path / source[:3] / "report.html").read_text() for source in sources)
    assert re.findall("<figcaption>.*?</figure>", listed) == re.findall("<figcaption>.*?</figure>", folder)


def test_a_network_of_the_zoo_without_names_of_files(tmp_path, monkeypatch):
    labels = files.labels(20, 10)
    monkeypatch.setattr(formats, "FASHION_LABELS", hashlib.sha256(labels).hexdigest())
    files.write_idx(tmp_path / "set", train_images=files.pixels(20, 28, 28), train_labels=labels,
                    test_images=files.pixels(10, 28, 28, seed=1), test_labels=files.labels(10, 10))
    data = {"source": f"idx:{tmp_path / 'set'}"}
    result = report.write(tmp_path / "report", "zoo:lenet_relu_fashion_mnist", data=data)
    wanted = load.evaluate_workdir("zoo:lenet_relu_fashion_mnist", data=data)
    assert result == wanted | {"loss": pytest.approx(wanted["loss"], rel=1e-5)}
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert sorted(re.findall(r"<small>image (\d+) of test</small>", page)) == [*map(str, range(10))]
    assert "<td>T-shirt/top</td>" in page


def test_without_errors_it_says_so(make_run, photos, tmp_path, monkeypatch):
    workdir, *_ = make_run("mlp", (8, 8, 3), classes=NAMES)
    real = load.predict_split(workdir, data={"source": f"folder:{photos}"})
    for logits, words in ((np.eye(3)[real.labels], "There are no errors."), (np.full((41, 3), np.nan), "not finite")):
        monkeypatch.setattr(load, "predict_split", lambda *_, logits=logits: real._replace(logits=logits))
        try:
            report.write(tmp_path / "report", workdir, data={"source": f"folder:{photos}"})
            text = (tmp_path / "report" / "report.html").read_text("utf-8")
        except UserError as e:
            text = str(e)
        assert words in text


def test_folders_that_cannot_be(make_run, photos, tmp_path):
    workdir, *_ = make_run("mlp", (8, 8, 3), classes=NAMES)
    (tmp_path / "file").touch()
    for out, words in ((photos / "new", "lies in the folder of the data, .* choose another --report"),
                       (tmp_path / "file", "cannot write .*file: File exists")):
        with pytest.raises(UserError, match=words):
            report.write(out, workdir, data={"source": f"folder:{photos}"})
    assert not (photos / "new").exists()
