"""A sweep's report against means and deviations worked out by hand, and a page that needs nothing beside itself."""
import re

import pytest
from PIL import Image

from configs import quickstart
from modern_cnn.sweeps import report, sweep

pytestmark = pytest.mark.usefixtures("curves")
RUN = {"versions": {"jax": "1"}, "machine": "here", "data": {}}
CONFIG = {"model": {"name": "lenet"}, "data": {"source": "digits"}}


def row(seed, rate, accuracy, status="done", validation=None):
    scores = {"test_loss": 2 - accuracy, "test_accuracy": accuracy} if status == "done" else dict.fromkeys(
        ("test_loss", "test_accuracy"), "")
    held_out = {} if validation is None else {"validation_loss": 1.0, "validation_accuracy": validation}
    return {"seed": seed, "optimizer.learning_rate": rate} | held_out | scores | {"seconds": 2.0, "status": status}


def records(values, split="train"):
    return [{"step": i, "epoch": i / 2, "split": split, "loss": value, "accuracy": value / 10}
            for i, value in enumerate(values, start=1)]


@pytest.mark.parametrize(("score", "values", "text"), [
    ("steps", [150, 250], "200 ± 71"), ("condition", [3, 5], "4.00 ± 1.41"), ("share", [0, 0], "0.00 ± 0.00"),
    ("first layer", [0.0011, 0.0014], "0.0013 ± 0.0002"), ("test_accuracy", [0.01, 0.03], "2.00 ± 1.41 %")])
def test_a_small_number_has_two_digits(score, values, text):
    assert report.figure(score, values) == text


def test_mean_and_deviation_over_the_seeds_that_were_done():
    rows = [row(0, 0.1, 0.5), row(1, 0.1, 0.6), row(2, 0.1, 0.7), row(0, 0.3, 0.9), row(1, 0.3, 0, "diverged: x | y")]
    lines = report.table(report.groups_of(rows, [[]] * 5))
    assert lines == [["learning_rate", "trials", "test accuracy", "test loss", "seconds a trial"],
                     ["0.1", "3", "60.00 ± 10.00 %", "1.4000 ± 0.1000", "2.0"],
                     ["0.3", "1 of 2", "90.00 %", "1.1000", "2.0"]]
    assert report.markdown_table(lines).splitlines()[1:3] == [
        "| --- | --- | --- | --- | --- |", "| 0.1 | 3 | 60.00 ± 10.00 % | 1.4000 ± 0.1000 | 2.0 |"]


def test_only_validation_chooses_and_only_among_settings_that_were_done():
    def best():
        group = report.best(report.groups_of(rows, [[]] * 3))
        return group and group.fields

    rows = [row(0, 0.1, 0.9, validation=0.5), row(0, 0.2, 0.6, validation=0.7), row(0, 0.3, 0.8, validation=0.6)]
    assert best() == {"optimizer.learning_rate": 0.2}
    table = report.table(report.groups_of(rows, [[]] * 3))
    assert [line[1] for line in table] == ["trials", "1", "1, best on validation", "1"]
    rows[1]["status"] = "diverged"
    assert best() == {"optimizer.learning_rate": 0.3}
    for each in rows:
        del each["validation_loss"], each["validation_accuracy"]
    assert best() is None


def test_a_band_is_the_mean_and_deviation_of_the_trials_that_came_so_far():
    group, = report.groups_of([row(0, 0.1, 0.5), row(1, 0.1, 0.6)], [records([1, 2, 4]), records([3, 4])])
    assert group.band("train", "loss") == ([0.5, 1.0, 1.5], [2, 3, 4], [pytest.approx(2**0.5)] * 2 + [0])
    assert group.band("test", "loss") == ([], [], [])


def test_a_run_that_is_not_finite_leaves_a_report(tmp_path):
    rows = [row(seed, 0.1, accuracy) for seed, accuracy in ((0, float("nan")), (1, 0.5), (2, 0.6))]
    curves = [records([3, float("nan")]), records([3, 2]), records([3, 1])]
    assert report.write(tmp_path, rows, curves, CONFIG, RUN).exists()
    assert report.deviation([1.0, float("nan")]) != report.deviation([1.0])
    assert report.deviation([1.0, 3.0]) == pytest.approx(2**0.5)


def test_files_of_the_report(tmp_path):
    rows = [row(0, rate, 0.5) for rate in ("<b>", "0.2")] + [row(1, "<b>", 0.6), row(1, "0.2", 0, "failed: <no>")]
    curves = [records([3, 2, 1]) + records([1], "test"), records([9, 0.5]), records([3, 2, 2]), []]
    path = report.write(tmp_path, rows, curves, CONFIG, RUN)
    page = path.read_text()
    assert page.count("<svg") == 4
    assert page.count("failed: &lt;no&gt;") == 1
    assert "<b>" not in page
    # Nothing is fetched: the only addresses are names of XML's dialects.
    assert not re.search(r"<(script|link|img|iframe)|url\((?!#)|(src|href)=\"(?!#)", page)
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 800
    assert (tmp_path / "table.md").read_text().startswith("| learning_rate | trials |")


def test_names_that_are_formulas_or_no_text(tmp_path):
    sources = [f"folder:{tmp_path}/caf\udce9", r"folder:/a$\frac{$"]
    made = sweep.Sweep(quickstart.get_config(), {"data.source": sources}, tmp_path)
    made.write()
    assert r"/caf\udce9," in (tmp_path / "sweep.csv").read_text("utf-8")
    rows = [{"seed": 0, "data.source": source} | {"test_loss": 1, "test_accuracy": 0.5, "seconds": 1, "status": "done"}
            for source in sources]
    report.write(tmp_path, rows, [records([3, 2, 1])] * 2, CONFIG | {"data": {"source": sources[1]}}, RUN)
    assert r"caf\udce9" in (tmp_path / "report.html").read_text("utf-8")
    assert r"caf\udce9" in (tmp_path / "table.md").read_text("utf-8")


def test_many_settings_and_settings_that_end_alike():
    assert [*report.short_names(["optimizer.name", "model.name", "model.width"]).values()] == [
        "optimizer.name", "model.name", "width"]
    assert len({*report.colors(40)}) == 40
