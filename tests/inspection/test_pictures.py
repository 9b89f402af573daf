"""Arrays of pixels against values by hand; every picture is written and can be read."""
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from modern_cnn.inspection import pictures, views
from tests.functional.oracle import normal


def test_signs_are_around_grey_and_maps_between_black_and_white():
    values = np.array([[[-2.0, 0], [1, 0.5]], [[0, 0], [0, 0]]])
    np.testing.assert_array_equal(pictures.around_grey(values[..., None])[..., 0],
                                  [[[0, 0.5], [0.75, 0.625]], [[0.5, 0.5], [0.5, 0.5]]])
    np.testing.assert_allclose(pictures.stretched(values), [[[0, 2 / 3], [1, 2.5 / 3]], [[0, 0], [0, 0]]])


def test_tiles_lie_in_rows_with_white_between_and_after_them():
    images = np.stack([np.full((2, 2), value) for value in (0.1, 0.2, 0.3)])
    one, two, three, white = 0.1, 0.2, 0.3, 1
    np.testing.assert_array_equal(pictures.tiles(images, 2), [
        [one, one, white, two, two], [one, one, white, two, two], [white] * 5,
        [three, three, white, white, white], [three, three, white, white, white]])
    assert pictures.tiles(images[..., None], 3, pixels=5).shape == (6, 20, 1)  # 2 pixels times 3, and gaps of one


def test_layers_are_in_the_order_of_their_numbers():
    names = ["block10/norm1", "block2/norm10", "block2/norm9", "norm1"]
    assert sorted(names, key=pictures._by_number) == ["block2/norm9", "block2/norm10", "block10/norm1", "norm1"]


IMAGES = np.random.default_rng(0).random((3, 8, 8, 3))
RECORDS = [{"epoch": epoch, "mean": {f"norm{i}": [-1, epoch, 1] for i in range(14)},
            "deviation": {f"norm{i}": [1, 2, 3] for i in range(14)}} for epoch in (1, 2)]
SIZES = [{"step": step, "gradient": {"b": 0.0, "c": 0.5 / step, "a": 0.0001}} for step in range(1, 12)]
DRAWN = {
    "filters in colour": lambda path: pictures.filters(normal(3, 3, 3, 5), "t", path),
    "filters of many channels": lambda path: pictures.filters(normal(3, 3, 7, 5), "t", path),
    "feature maps": lambda path: pictures.feature_maps(
        IMAGES[0, ..., :1], {"stage1": normal(4, 4, 40), "stage2": normal(2, 2, 3)}, "t", path),
    "projections": lambda path: pictures.projections(
        [("unit 1", normal(9, 4, 4, 3), IMAGES[0, :4, :4][None].repeat(9, 0))] * 4, "t", path),
    "heat beside images": lambda path: pictures.beside(IMAGES, "abc", normal(3, 8, 8), "t", path, labels="def"),
    "heat over images": lambda path: pictures.beside(IMAGES, "abc", normal(3, 2, 2), "t", path, labels="def", over=0.5,
                                                     bar="probability", smooth=True),
    "norms": lambda path: pictures.norms(RECORDS, (15, 50, 85), "t", path),
    "gradients": lambda path: pictures.gradients(SIZES, ["a", "b", "c"], "t", path),
    "surface": lambda path: pictures.surface([("a", "step", [0, 1], {"one": ([1, 2], [0, 1])})] * 2, "t", path),
    "confusions by name": lambda path: pictures.confusion(np.diag([3, 0, 1]), "abc", "t", path),
    "confusions of many classes": lambda path: pictures.confusion(np.eye(100, dtype=int), ["x"] * 100, "t", path),
    "reliability": lambda path: pictures.reliability(np.array([0.2, 0.9]), np.array([0.1, 1]), [5, 9], "t", path),
    "augmented": lambda path: pictures.augmented(IMAGES, "abc", IMAGES[None].repeat(2, 0), "t", path),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_pictures_are_written(draw, tmp_path):
    path = draw(tmp_path / "new" / "picture.png")
    assert path == tmp_path / "new" / "picture.png"
    with Image.open(path) as picture:
        assert min(picture.size) > 150
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


@pytest.mark.parametrize("name", [r"$\frac{$", "$a$ and $b$", "caf\udce9", r"\$"])
def test_names_are_drawn_letter_by_letter(tmp_path, name):
    """Matplotlib reads a formula between dollars, and cannot draw bytes that are no text."""
    pictures.augmented(IMAGES[:2], [name, name], IMAGES[None, :2], name, tmp_path / "a.png")
    pictures.beside(IMAGES[:1], [name], normal(1, 4, 4), name, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as picture:
        picture.verify()


def test_gradients_are_lines_of_plain_numbers_by_layer(tmp_path, monkeypatch):
    """The first and the last record are among the lines; a layer without a gradient is a gap."""
    figures = []
    monkeypatch.setattr(pictures, "_save", lambda figure, title, path: figures.append(figure))
    pictures.gradients(SIZES, ["a", "b", "c"], "t", tmp_path / "picture.png")
    figures[0].draw_without_rendering()
    axis = figures[0].axes[0]
    assert [line.get_label() for line in axis.lines] == [f"step {step}" for step in (1, 3, 5, 7, 9, 11)]
    np.testing.assert_array_equal(axis.lines[1].get_ydata(), [0.0001, np.nan, 0.5 / 3])
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["a", "b", "c"]
    assert {"0.0001", "0.001", "0.1"} <= {tick.get_text() for tick in axis.get_yticklabels()}
    assert axis.get_yscale() == "log"


def test_grad_cam_without_evidence_says_so(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "_save", lambda figure, title, path: figures.append(figure))
    monkeypatch.setattr(views.features, "grad_cam", lambda module, variables, images, labels, layer: images[..., 0])
    images = np.stack([np.zeros((4, 4, 1)), np.eye(4)[..., None]])
    network = SimpleNamespace(name="lenet", arguments=(None, {}), choose=lambda *_: (images, images, np.zeros(2)),
                              describe=lambda *_: (["cat", "dog"], None))
    views.draw_gradcam(network, tmp_path / "x.png", layer="stage1")
    assert [axes.get_title() for axes in figures[0].axes] == ["cat", "dog", "no evidence", ""]
