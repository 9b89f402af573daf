"""The pages of docs/ablations. Their text is written by hand; tables, pictures and machines come from the runs.

An experiment's directory holds a sweep, or several in directories of their own whose names tell them apart (with a
number in front, `1-`, where the order is not the alphabet's); `seconds`, with the seconds that each call of its script
took and what bash's `times` said after it; and `picture.png` where the experiment has drawn one itself.
"""
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modern_cnn import models
from modern_cnn.errors import UserError, lookup
from modern_cnn.inspection import summary
from modern_cnn.runs import log, workdir
from modern_cnn.settings import flatten
from modern_cnn.sweeps.seeds import Run, SeedGroup, group_seeds, markdown_table
from modern_cnn.sweeps.seeds import table as score_table
from scripts.publish import comparison, markers

SIZES = ("parameters", "MACs")  # shown where the networks differ in them
SCORES = (*SIZES, "train_loss", "train_accuracy", "test_accuracy")  # the first columns; other scores follow
HIDDEN = ("test_loss", "validation_loss", "validation_accuracy", "seconds")
PARAGRAPHS = ("Claim", "Source", "Here", "Full size", "Found")
_summarize = functools.cache(summary.summarize)  # many runs have the same network


def read(directory: Path) -> tuple[list[SeedGroup], dict[str, Any]]:
    """Return the runs of an experiment in groups, and the run.json of one. Raise UserError if nothing has run there."""
    sweeps = [path.parent for path in sorted([*directory.glob("sweep.json"), *directory.glob("*/sweep.json")])]
    if not sweeps:
        raise UserError(f"{directory} holds no sweep: run the experiment's script first")
    runs, machines = [], []
    for sweep in sweeps:
        content = workdir.read_json(sweep / "sweep.json")
        variant = {} if sweep == directory else {"variant": re.sub(r"^\d+-", "", sweep.name)}
        shared = flatten(content["config"])
        swept = dict.fromkeys(field for trial in content["trials"].values() for field in trial["fields"])
        for name, trial in content["trials"].items():
            path = sweep / "trials" / name
            fields = {field: trial["fields"].get(field, shared.get(field)) for field in swept}
            records = log.read_metrics(path / "metrics.jsonl")
            last = [record for record in records if record["split"] == "train"][-1:]
            scores = {f"train_{name}": record[name] for record in last for name in ("loss", "accuracy")}
            runs.append(Run(variant | fields, trial["result"] | scores | _size(path), records))
        machines += [path for path in (sweep / "run.json", *sweep.glob("trials/*/run.json")) if path.exists()]
    return group_seeds(runs), workdir.read_json(machines[0]) if machines else {}


def _size(path: Path) -> dict[str, int]:
    """Return parameters and multiply-accumulates of the network of a run; {} where no network was trained."""
    if not (path / "run.json").exists():
        return {}
    config, run = workdir.read_run(path)
    options = config["model"] | ({"aux_logits": False} if "aux_logits" in config["model"] else {})  # as it classifies
    network = models.build(**options, num_classes=run["data"]["num_classes"])
    found = _summarize(network, tuple(run["data"]["image_shape"]))
    return {"parameters": found.params, "MACs": found.macs}


def table(groups: Sequence[SeedGroup]) -> list[list[str]]:
    """Return a heading and a line for each group: the fields that tell it from the others, its size, its scores."""
    rows = [run.scores for group in groups for run in group.done]
    present = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, (int, float)))
    alike = [name for name in SIZES if len({row.get(name) for row in rows}) < 2]
    scores = {name: name.replace("_", " ") if name in SCORES else name for name in (*SCORES, *present)
              if name in present and name not in (*alike, *HIDDEN)}
    seconds = {"seconds": "seconds a trial"} if "seconds" in present else {}
    return score_table(groups, comparison.varying(groups), scores | seconds)


def publish(scripts: Path, runs: Path, docs: Path, names: Sequence[str] = ()) -> list[str]:
    """Write tables and pictures of experiments into their pages, and the index of all pages; return those written.

    A page that does not exist yet is begun, with paragraphs to fill in. Raise UserError if there is no such experiment,
    it has not run, or a page lacks a paragraph.

    Args:
      scripts, runs, docs: where the scripts, their runs and the pages are.
      names: the experiments to write; all that have run if there are none.
    """
    known = {path.stem: path for path in sorted(scripts.glob("*.sh"))}
    chosen = [lookup(known, name, "experiment").stem for name in names] or [
        name for name in known if (runs / name).is_dir()]
    for name in chosen:
        path, picture, drawn = docs / f"{name}.md", docs / f"{name}.png", runs / name / "picture.png"
        text = path.read_text() if path.exists() else "\n\n".join([
            f"# {name}", *(f"**{paragraph}.** To do." for paragraph in PARAGRAPHS),
            f"```\nbash scripts/ablations/{name}.sh\n```", "<!-- table -->\n<!-- /table -->", f"![{name}]({name}.png)",
            "<!-- machine -->\n<!-- /machine -->\n"])
        groups, run = read(runs / name)
        if drawn.exists():
            picture.write_bytes(drawn.read_bytes())
        else:
            comparison.draw(groups, picture, _title(text))
        parts = {"table": markdown_table(table(groups)), "machine": _machine(run, runs / name / "seconds")}
        if any(group.runs[0].records for group in groups):
            parts["table"] += "\nTrain: the mean over the last epoch as it went, with any dropout and augmentation."
        path.write_text(markers.fill(text, parts.__getitem__))
    index = docs / "README.md"
    index.write_text(markers.fill(index.read_text(), {"experiments": list_pages(docs)}.__getitem__))
    return chosen


def _title(page: str) -> str:
    return page.partition("\n")[0].removeprefix("# ")


def list_pages(docs: Path) -> str:
    """Return the table of all experiments: title and first finding. Raise UserError if a page lacks a paragraph."""
    lines = [["experiment", "what was found"]]
    for path in sorted({*docs.glob("*.md")} - {docs / "README.md"}):
        said = dict(re.findall(r"^\*\*([\w ]+)\.\*\* (.+?)\n\n", text := path.read_text(), re.DOTALL | re.MULTILINE))
        if lacking := [name for name in PARAGRAPHS if name not in said]:
            raise UserError(f"{path} lacks paragraphs that begin with **NAME.**; write those of: {', '.join(lacking)}")
        found = " ".join(said["Found"].split())
        lines.append([f"[{_title(text)}]({path.name})", re.split(r"(?<=\.) ", found)[0]])
    return markdown_table(lines)


def _machine(run: dict[str, Any], seconds: Path) -> str:
    """Return how long an experiment took, over all calls of its script, and on what."""
    words = seconds.read_text().split() if seconds.exists() else []
    wall = sum(int(word) for word in words if word.isdigit())
    times = [word.removesuffix("s").partition("m") for word in words if not word.isdigit()]  # 0m1.234s
    processor = sum(60 * int(minutes) + float(rest) for minutes, _, rest in times)
    took = log.duration(wall) + (f" ({log.duration(processor)} of processor time)" if processor else "")
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    return (f"Mean ± standard deviation over the trials that were done. Took {took} on {run.get('machine')}\n"
            f"({run.get('device')}): {versions}; commit {run.get('commit')}.")
