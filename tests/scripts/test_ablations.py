"""The experiments: each script asks for what exists, and the pages show what its runs measured."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
from absl import flags
from matplotlib.figure import Figure
from ml_collections import config_flags

from modern_cnn import settings
from modern_cnn.errors import UserError
from modern_cnn.sweeps.grid import parse
from modern_cnn.sweeps.report import Run, SeedGroup
from modern_cnn.sweeps.sweep import Sweep
from scripts.ablations import computed
from scripts.publish import ablations, pages

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "ablations"
SCRIPTS = sorted((ROOT / "scripts" / "ablations").glob("*.sh"))


def commands(script, folder):
    """The arguments of every call of Python that a script makes."""
    fake = folder / "python"
    fake.write_text('#!/bin/bash\nmkdir -p "$WORKDIR"\nprintf "%s\\0" "$@" >> "$CALLS"\nprintf "\\n\\0" >> "$CALLS"\n')
    fake.chmod(0o755)
    calls = folder / "calls"
    subprocess.run(["bash", script], check=True, env=os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls), "WORKDIR": str(folder / "work")})
    return [call.split("\0")[:-1] for call in calls.read_text().removesuffix("\n\0").split("\n\0")]


def written(page, folder):
    """The script that a page shows, in a folder as the project's."""
    script = folder / "scripts" / "ablations" / "shown.sh"
    script.parent.mkdir(parents=True)
    script.write_text(re.findall(r"```bash\n(.+?)```", page.read_text(), re.DOTALL)[0])
    (script.parents[1] / "experiment.sh").write_text((ROOT / "scripts/experiment.sh").read_text())
    return script


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections' way to read a config file
@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / "docs/experiment.md"], ids=lambda path: path.stem)
def test_a_script_asks_for_what_exists(script, tmp_path, monkeypatch):
    """Fields, values, networks and their options, at every point of its grids: 3 seeds, in the folder it is given."""
    monkeypatch.chdir(ROOT)
    script = script if script.suffix == ".sh" else written(script, tmp_path)
    calls = commands(script, tmp_path)
    assert re.fullmatch(r"\d+\n(\d+m[\d.]+s \d+m[\d.]+s\n){2}", (tmp_path / "work" / "seconds").read_text())
    assert calls
    for program, *arguments in calls:
        assert any(argument.startswith(f"--workdir={tmp_path / 'work'}") for argument in arguments)
        if program == "scripts/ablate.py":
            continue
        assert program in ("scripts/sweep.py", "scripts/train.py")
        values = flags.FlagValues()
        config = config_flags.DEFINE_config_file("config", flag_values=values)
        sweeps = flags.DEFINE_multi_string("sweep", [], "", flag_values=values)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        monkeypatch.setattr(sys, "argv", [program, *arguments])  # where ml_collections looks for overrides
        values(sys.argv)
        if program == "scripts/train.py":  # what others start from
            assert not sweeps.value
            settings.read(config.value)
            continue
        fields = parse(sweeps.value, config.value)
        assert fields["seed"] == [0, 1, 2]
        grid = Sweep(config.value, fields, tmp_path / "none")
        assert len(grid.trials) >= 3
        for trial in grid.trials[::3]:
            settings.read(grid.config_of(trial))


def test_a_script_that_fails_writes_no_seconds(tmp_path):
    (tmp_path / "python").write_text("#!/bin/bash\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(["bash", SCRIPTS[0]], check=False, env=os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "WORKDIR": str(tmp_path)})
    assert done.returncode == 3
    assert not (tmp_path / "seconds").exists()


def test_every_experiment_has_a_page():
    assert len(SCRIPTS) >= 18
    for script in SCRIPTS:
        assert os.access(script, os.X_OK)
        title, _, page = script.read_text().splitlines()[1].rpartition(": ")
        assert page == f"docs/ablations/{script.stem}.md"
        text = (PAGES / f"{script.stem}.md").read_text()
        assert text.startswith(f"{title}\n\n**Claim.** ")
        assert f"bash scripts/ablations/{script.stem}.sh" in text
        assert "| trials |" in text[text.index("<!-- table -->"):text.index("<!-- /table -->")]
        assert re.search(r"Took .* on Linux", text[text.index("<!-- machine -->"):text.index("<!-- /machine -->")])
        assert matplotlib.image.imread(PAGES / f"{script.stem}.png").shape[2] == 4


def test_the_index_is_up_to_date():
    index = (PAGES / "README.md").read_text()
    assert index == pages.fill(index, {"experiments": ablations.list_pages(PAGES)}.__getitem__)
    assert all(f"]({script.stem}.md) |" in index for script in SCRIPTS)


def write_sweep(directory, trials, config=None):
    """{fields as JSON: (result, train loss and accuracy)} as a sweep leaves them."""
    named = {}
    for i, (fields, result, train) in enumerate(trials):
        named[f"trial{i}"] = {"fields": fields, "result": result}
        run = directory / "trials" / f"trial{i}"
        run.mkdir(parents=True)
        if train:
            (run / "metrics.jsonl").write_text("".join(json.dumps(
                {"step": 9 * epoch, "epoch": epoch, "split": "train", "loss": train[0] / epoch, "accuracy": train[1]})
                + "\n" for epoch in (1, 2)))
    (directory / "sweep.json").write_text(json.dumps({"config": config or {}, "trials": named}))


def done(accuracy, seconds=2.0):
    return {"status": "done", "seconds": seconds, "test_loss": 1.0, "test_accuracy": accuracy}


PAGE = """# Deep against shallow

**Claim.** Deeper is better.

**Source.** A text, section 1.

**Here.** Small.

**Full size.** --large

**Found.** It is not,
by 0.3. For the rest see below.

<!-- table -->
old
<!-- /table -->

Written by hand.

<!-- machine -->
<!-- /machine -->
"""


@pytest.fixture
def places(tmp_path):
    """(scripts, runs, docs), with a page and what its script left: two networks at two rates, one trial diverged."""
    scripts, runs, docs = (tmp_path / name for name in ("scripts", "runs", "docs"))
    scripts.mkdir()
    docs.mkdir()
    (scripts / "depth.sh").touch()
    (docs / "depth.md").write_text(PAGE)
    (docs / "README.md").write_text("# Ablations\n\n<!-- experiments -->\n<!-- /experiments -->\n")
    config = {"optimizer": {"learning_rate": 0.1}}
    for name, first in (("1-deep", 0.5), ("2-shallow", 0.8)):
        write_sweep(runs / "depth" / name, [
            ({"seed": 0}, done(first), (2.0, 0.25)), ({"seed": 1}, done(first + 0.1), (3.0, 0.5)),
            ({"seed": 0, "optimizer.learning_rate": 0.3}, done(0.25), (2.0, 0.5)),
            ({"seed": 1, "optimizer.learning_rate": 0.3}, {"status": "diverged: at step 3", "seconds": 1.0}, None),
        ], config)
    (runs / "depth" / "seconds").write_text("61\n0m0.010s 0m0.005s\n1m40.000s 0m4.500s\n9\n")
    (runs / "depth" / "1-deep" / "run.json").write_text(json.dumps(
        {"versions": {"jax": "1.2"}, "machine": "a machine", "device": "cpu", "commit": "abc"}))
    return scripts, runs, docs


def test_the_table_has_means_and_deviations_over_the_seeds(places):
    found, run = ablations.read(places[1] / "depth")
    assert run["commit"] == "abc"
    assert ablations.table(found) == [
        ["variant", "learning rate", "trials", "train loss", "train accuracy", "test accuracy", "seconds a trial"],
        # 2/2 and 3/2 in the second epoch: their mean and sample deviation
        ["deep", "0.1", "2", "1.2500 ± 0.3536", "37.50 ± 17.68 %", "55.00 ± 7.07 %", "2.0"],
        ["deep", "0.3", "1 of 2", "1.0000", "50.00 %", "25.00 %", "2.0"],
        ["shallow", "0.1", "2", "1.2500 ± 0.3536", "37.50 ± 17.68 %", "85.00 ± 7.07 %", "2.0"],
        ["shallow", "0.3", "1 of 2", "1.0000", "50.00 %", "25.00 %", "2.0"]]


def test_an_experiment_without_a_success_has_an_empty_line(tmp_path):
    write_sweep(tmp_path, [({"seed": 0}, {"status": "failed: x", "seconds": 1.0}, None)])
    found, _ = ablations.read(tmp_path)
    assert ablations.table(found) == [["trials"], ["0 of 1"]]
    ablations.draw_picture(found, tmp_path / "picture.png", "nothing")


def test_publishing_keeps_the_text_and_fills_in_the_rest(places):
    scripts, runs, docs = places
    (scripts / "other.sh").touch()
    assert ablations.publish(scripts, runs, docs) == ["depth"]
    page = (docs / "depth.md").read_text()
    for said in ("| shallow | 0.1 | 2 |", "Took 1 min 10 s (1 min 45 s of processor time)",
                 "a machine\n(cpu): jax 1.2; commit abc"):
        assert said in page
    assert "old" not in page
    assert pages.fill(page, {"table": "old", "machine": ""}.__getitem__) == PAGE
    assert matplotlib.image.imread(docs / "depth.png").shape[2] == 4
    assert "| [Deep against shallow](depth.md) | It is not, by 0.3. |" in (docs / "README.md").read_text()
    before = page, (docs / "depth.png").read_bytes()
    ablations.publish(scripts, runs, docs, ["depth"])
    assert ((docs / "depth.md").read_text(), (docs / "depth.png").read_bytes()) == before
    with pytest.raises(UserError, match="no experiment 'dpeth'"):
        ablations.publish(scripts, runs, docs, ["dpeth"])
    with pytest.raises(UserError, match="other holds no sweep"):
        ablations.publish(scripts, runs, docs, ["other"])


def test_a_page_that_is_not_there_is_begun_and_a_picture_that_is_there_is_taken(places):
    scripts, runs, docs = places
    computed.contour_experiment(runs / "depth2")
    (scripts / "depth2.sh").touch()
    ablations.publish(scripts, runs, docs, ["depth2"])
    assert (docs / "depth2.png").read_bytes() == (runs / "depth2" / "picture.png").read_bytes()
    page = (docs / "depth2.md").read_text()
    assert "| alike | 3 | 9.84 ± 0.87 |" in page
    assert re.findall(r"\*\*(.+?)\.\*\* To do\.\n\n", page) == ["Claim", "Source", "Here", "Full size", "Found"]
    assert "\nbash scripts/ablations/depth2.sh\n" in page


def test_a_page_that_does_not_say_what_it_found_is_refused(places):
    scripts, runs, docs = places
    (docs / "depth.md").write_text(PAGE.replace("**Found.** It is not,\n", "").replace("Source", "Sauce"))
    with pytest.raises(UserError, match=r"depth\.md lacks .*: Source, Found"):
        ablations.publish(scripts, runs, docs)


def test_the_axis_is_the_first_of_three_numbers():
    def axis(field, *values):
        return ablations.axis_of([SeedGroup({"model.norm": "x", field: value}, []) for value in values])

    assert axis("seedless", 1, 2.5, 4) == "seedless"
    assert axis("model.stage_sizes", [1, 1], [2, 2], [3, 3]) == "model.stage_sizes"
    assert axis("model.name", "resnet20", "resnet32", "resnet56") == "model.name"
    for values in ((1, 2), (True, False), ("batch", "none", "layer"), ("lenet", "resnet20", "vgg11")):
        assert axis("field", *values) is None
    assert axis("model.branches", [1, 2, 3], [1, 2], [2, 3]) is None  # the sum of branches' numbers means nothing


def test_rows_show_scores_and_the_sizes_in_which_networks_differ(tmp_path, monkeypatch):
    """Plain numbers, on a logarithmic axis where the sizes are far apart."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: figures.append(figure))
    groups = [SeedGroup({"norm": name}, [Run({}, done(0.5) | {"train_loss": 1.0, "parameters": size, "MACs": macs})])
              for name, size, macs in (("batch", 2e4, 1e6), ("none", 1e6, 1.05e6))]
    ablations.draw_picture(groups, tmp_path / "picture.png", "norms")
    accuracy, _, parameters = panels = figures[0].axes
    assert [axes.get_xlabel() for axes in panels] == ["test accuracy (%)", "train loss (nats)", "parameters"]
    assert [tick.get_text() for tick in accuracy.get_yticklabels()] == ["norm batch", "norm none"]
    group = SeedGroup({"variant": "drawn", "model.name": "lenet", "model.norm": "", "model.scan": True}, [])
    fields = {"variant": "variant", "model.name": "network", "model.norm": "norm", "model.scan": "scan"}
    assert ablations._label(group, fields) == "drawn, lenet, norm none, scan True"
    figures[0].draw_without_rendering()
    assert parameters.get_xscale() == "log"
    assert {"30k", "100k", "300k", "1M"} <= {tick.get_text() for tick in parameters.get_xticklabels()}


@pytest.mark.parametrize(("field", "values", "label", "ticks", "scale"), [
    ("model.name", ["resnet56", "resnet20", "resnet32"], "depth", ["20", "32", "56"], "linear"),
    ("model.stage_sizes", [[1, 1], [2, 2], [3, 3]], "blocks", ["2", "4", "6"], "linear"),
    ("max_steps", [12, 60, 300], "max steps", ["12", "60", "300"], "log")])
def test_an_axis_names_the_values_that_were_tried(field, values, label, ticks, scale):
    axes = Figure().subplots()
    groups = [SeedGroup({field: value}, [Run({field: value}, done(0.5))]) for value in values]
    ablations.draw_against(axes, groups, field, "test_accuracy")
    assert (axes.get_xlabel(), [tick.get_text() for tick in axes.get_xticklabels()], axes.get_xscale()) == (
        label, ticks, scale)
    assert [*axes.get_xticks()] == [int(tick) for tick in ticks]
