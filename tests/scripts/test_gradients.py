"""The table and the picture of the gradients' sizes, from records as runs leave them."""
import json

import matplotlib.image
import numpy as np
import pytest

from modern_cnn.errors import UserError
from scripts.ablations import gradients
from tests.scripts.test_pages import write_run

LAYERS = ["conv1", "conv2", "dense1", "dense2", "dense3"]


def write_trial(directory, *records):
    """A trial of LeNet whose records have these sizes, by names as jit returns them: sorted, and so by depth or not."""
    write_run(directory)
    lines = [{"step": step, "epoch": 1.0, "mean": {}, "deviation": {},
              "gradient": dict(sorted(zip(LAYERS, sizes, strict=True), reverse=True))}
             for step, sizes in enumerate(records, start=1)]
    (directory / "norms.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_sizes_are_in_the_order_of_the_layers_at_the_first_and_the_last_step(tmp_path):
    write_trial(tmp_path / "trial", [1, 2, 3, 4, 5], [9] * 5, [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_array_equal(gradients.sizes(tmp_path / "trial"), [[1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.4, 0.5]])
    assert gradients.scores(tmp_path / "trial") == {
        "first layer, first step": 1, "last hidden layer, first step": 4,
        "first layer, last step": 0.1, "last hidden layer, last step": 0.4}
    assert gradients.scores(tmp_path / "none") == {}


def test_the_picture_has_a_panel_for_each_depth_and_two_lines_for_each_sweep(tmp_path, monkeypatch):
    for name, size in (("1-small, plain", 1e-3), ("2-small, residual", 1.0), ("3-deep, plain", 0.0)):
        for seed in range(2):
            write_trial(tmp_path / name / "trials" / f"seed={seed}", [size * (1 + 3 * seed)] * 5, [size] * 5)
        (tmp_path / name / "sweep.json").write_text("{}")
    figures, save = [], gradients.Figure.savefig
    monkeypatch.setattr(gradients.Figure, "savefig", lambda self, *args, **more: figures.append(self) or save(
        self, *args, **more))
    gradients.draw_picture(tmp_path)
    assert matplotlib.image.imread(tmp_path / "picture.png").shape[2] == 4
    small, deep = figures[0].axes
    assert [axes.get_title() for axes in (small, deep)] == ["small", "deep"]
    assert [line.get_label() for line in small.lines] == [
        "plain, first step", "plain, last step", "residual, first step", "residual, last step"]
    np.testing.assert_allclose(small.lines[0].get_ydata(), 2e-3)  # the geometric mean of 1e-3 and 4e-3
    with pytest.raises(UserError, match="holds no sweep with records of gradients"):
        gradients.draw_picture(tmp_path / "1-small, plain")
