"""Every flag of every script: numbers have bounds, paths know the home, and nonsense is told in one line."""
import re
import runpy
from pathlib import Path

import pytest
from absl import flags

from modern_cnn import cli

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [path.stem for path in sorted((ROOT / "scripts").glob("*.py")) if path.stem != "__init__"]
PATHS = {"ablate.runs", "ablate.workdir", "benchmark.out", "evaluate.report", "evaluate.weights", "evaluate.workdir",
         "export.out", "export.weights", "export.workdir", "import_weights.classes", "import_weights.export",
         "import_weights.weights", "import_weights.workdir", "pages.accelerator", "predict.embeddings", "predict.out",
         "predict.weights", "predict.workdir", "sweep.workdir", "train.workdir", "visualize.other", "visualize.out",
         "visualize.weights", "visualize.workdir", "zoo.out", "zoo.weights", "zoo.workdir"}


def parsers(script):
    """Return {name: parser} of the flags that a script defines."""
    before = set(flags.FLAGS)
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))
        return {name: flags.FLAGS[name].parser for name in set(flags.FLAGS) - before}
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_number_is_without_bounds(script):
    for name, parser in parsers(script).items():
        if isinstance(parser, (flags.IntegerParser, flags.FloatParser, cli.Numbers)):
            for text in ("nan", "inf", "-inf", "-1", "1000000000000", "1e400", "x", "", "\u00b2", "1,", "1,x"):
                with pytest.raises(ValueError, match=r"\w"):  # absl adds the flag and the value
                    print(f"--{name}={text} is taken as {parser.parse(text)}")


def test_paths(monkeypatch):
    """The home is put for `~`; what is empty, an address, or the home of nobody is refused."""
    monkeypatch.setenv("HOME", "/home/me")
    found = {f"{script}.{name}": parser for script in SCRIPTS for name, parser in parsers(script).items()}
    assert {name for name, parser in found.items() if isinstance(parser, cli.Path)} == PATHS
    parse = cli.Path().parse
    assert [parse(text) for text in ("~/runs/x", "~", "a~b", "./~")] == ["/home/me/runs/x", "/home/me", "a~b", "./~"]
    for text, words in (("", "shell variable"), ("gs://a/b", "addresses do not work"), ("~nobody-here/x", "./~nob")):
        with pytest.raises(ValueError, match=re.escape(words)):
            parse(text)


def test_numbers():
    assert cli.Numbers(1).parse("300,1000") == [300, 1000] == cli.Numbers().parse([300, 1000])
