"""docs/notebooks/: each has its parts, runs from top to bottom, and holds what it shows."""
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
QUICKEST = ("01_lenet", "06_batch_norm", "09_inside")
HEADINGS = ("## The block by hand", "## Layer by layer", "## Train it", "## Look inside", "## Exercises")


def read(path):
    return nbformat.read(path, as_version=4)


def sources(notebook, kind):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def outputs(notebook):
    """The outputs of each cell of code."""
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_one_for_each_section():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_lenet", "02_alexnet", "03_vgg", "04_nin", "05_googlenet", "06_batch_norm", "07_resnet", "08_densenet",
        "09_inside"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_parts(path):
    notebook = read(path)
    text, code = ("\n".join(sources(notebook, kind)) for kind in ("markdown", "code"))
    assert text.startswith(f"# {int(path.stem[:2])}. ")
    assert "**The idea.**" in text
    assert [heading for heading in HEADINGS if f"\n{heading}\n" not in text] == []
    assert {"by_hand", "library"} <= set(re.findall(r"\w+", code))
    assert code.count("assert difference") == code.count('"largest difference:"') > 0
    assert "modern_cnn.train(" in code
    assert "{CHECKOUT}" in sources(notebook, "code")[0]
    exercises = re.findall(r"^(\d)\. (.+)$", text.partition("## Exercises")[2], re.MULTILINE)
    assert [number for number, _ in exercises] == ["1", "2", "3"]
    assert all(re.search("`[^`]+`", exercise) for _, exercise in exercises)  # a command, or what to change
    named = set(re.findall(r"scripts/[\w/]+\.(?:sh|py)", text))
    assert [script for script in named if not (ROOT / script).is_file()] == []
    assert any(script.startswith("scripts/ablations/") for script in named)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_outputs_are_stored(path):
    """And are small, without warnings, and without what differs from one machine or run to the next."""
    assert path.stat().st_size < 300_000
    notebook = read(path)
    for number, (code, found) in enumerate(zip(sources(notebook, "code"), outputs(notebook), strict=True), start=1):
        shows = re.search(r"^ *(print|plt\.show|Image)\(|modern_cnn\.train\(", code, re.MULTILINE)
        assert found or not shows or code.startswith("def "), f"cell {number} shows nothing"
        for output in found:
            assert output.output_type in ("stream", "display_data", "execute_result")
            assert output.get("name") != "stderr"
            text = output.get("text") or output.data.get("text/plain", "")
            assert not re.search(r"\bat 0x|(^|\s|['\"])(/[a-z]+){2}", text), text


@pytest.mark.parametrize("path", [
    pytest.param(path, id=path.stem, marks=() if path.stem in QUICKEST else pytest.mark.slow) for path in NOTEBOOKS])
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """From scratch, in another folder; the cells that show something are those that have a stored output."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read(path)
    stored = [[output.output_type for output in found] for found in outputs(notebook)]
    client = NotebookClient(notebook, timeout=600, coalesce_streams=True,
                            resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert [[output.output_type for output in found] for found in outputs(notebook)] == stored
