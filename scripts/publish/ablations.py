"""The experiments of scripts/ablations: those that no sweep can be, and the pages that tell of all of them.

An experiment's directory holds a sweep, or several in directories of their own, whose names tell them apart (and begin
with a number, `1-`, where the alphabet is not their order); `seconds`, how long each call of its script took, and what
bash's `times` said after it; and `picture.png` where it has drawn one itself.
"""
import functools
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modern_cnn import models
from modern_cnn.data import sources
from modern_cnn.errors import UserError
from modern_cnn.inspection import summary
from modern_cnn.runs import log as logs
from modern_cnn.runs import workdir
from modern_cnn.sweeps import report
from modern_cnn.sweeps.report import Setting
from scripts.ablations import contours
from scripts.ablations import hog as handmade
from scripts.publish import comparison

SCORES = {"train_loss": "train loss", "train_accuracy": "train accuracy", "test_accuracy": "test accuracy",
          "seconds": "seconds a trial"}
UNTOLD = ("test_loss", "validation_loss", "validation_accuracy", "parameters", "MACs")
KEYS = ("claim", "source", "here", "full size", "found")  # what the comments of a script must say, in this order


# --- experiments

def _write(directory: Path, trials: Sequence[tuple[dict[str, Any], dict[str, float]]]) -> None:
    """Trials (fields, scores) as a sweep leaves them, and run.json."""
    directory.mkdir(parents=True, exist_ok=True)
    named = {",".join(f"{key}={value}" for key, value in fields.items()):
             {"fields": fields, "result": {"status": "done", **scores}} for fields, scores in trials}
    workdir.write_json(directory / "sweep.json", {"config": {}, "trials": named})
    workdir.write_json(directory / "run.json", workdir.describe_machine())


def contour_experiment(directory: Path, seeds: int = 3) -> None:
    """Gradient descent over well and badly scaled inputs, drawn from each seed."""
    descents = {(case, seed): contours.descend(contours.draw_inputs(case, seed))
                for case in contours.CASES for seed in range(seeds)}
    _write(directory, [({"inputs": case, "seed": seed}, {"condition": descent.condition, "steps": descent.steps})
                       for (case, seed), descent in descents.items()])
    contours.draw([(case, descents[case, 0]) for case in contours.CASES], directory / "picture.png")


def handmade_experiment(directory: Path, config, sizes: Sequence[int]) -> None:
    """A linear classifier on histograms of oriented gradients of so many training images, for each of `sizes`.

    Args:
      config: a `data` section; its train_size is replaced.
    """
    config = config.copy_and_resolve_references()
    config.train_size = max(sizes)
    splits = sources.load(config).splits
    test = handmade.hog(splits["test"][0]), splits["test"][1]
    trials = []
    for size in sizes:
        config.train_size = size
        images, labels = sources.load(config).splits["train"]
        train, held_out = handmade.linear_accuracy((handmade.hog(images), labels), test)
        trials.append(({"data.train_size": size}, {"train_accuracy": train, "test_accuracy": held_out}))
        _write(directory, trials)


# --- their results

def read(directory: Path) -> tuple[list[Setting], dict[str, Any]]:
    """(the settings of an experiment, the machine it ran on). Trials that differ in the seed alone are one setting.

    Raises:
      UserError: nothing has run there.
    """
    sweeps = [path.parent for path in sorted([*directory.glob("sweep.json"), *directory.glob("*/sweep.json")])]
    if not sweeps:
        raise UserError(f"{directory} holds no sweep: run the experiment's script first")
    trials, runs = [], []
    for sweep in sweeps:
        content = workdir.read_json(sweep / "sweep.json")
        variant = {} if sweep == directory else {"variant": re.sub(r"^\d+-", "", sweep.name)}
        swept = dict.fromkeys(field for trial in content["trials"].values() for field in trial["fields"])
        for name, trial in content["trials"].items():
            unset = {field: _default(content["config"], field) for field in swept if field not in trial["fields"]}
            fields = {field: (trial["fields"] | unset)[field] for field in swept}
            trials.append((variant | fields, trial["result"], sweep / "trials" / name))
        runs += [path for path in (sweep / "run.json", *sweep.glob("trials/*/run.json")) if path.exists()]
    columns = dict.fromkeys(field for fields, _, _ in trials for field in fields)
    settings: dict[str, Setting] = {}
    for fields, result, path in trials:
        values = {field: fields.get(field, "") for field in columns if field != "seed"}
        setting = settings.setdefault(json.dumps(values), Setting(values, [], []))
        setting.curves.append(logs.read_metrics(path / "metrics.jsonl"))
        setting.rows.append(result | _train_scores(setting.curves[-1]) | _size(path))
    return list(settings.values()), workdir.read_json(runs[0]) if runs else {}


def _default(config: dict[str, Any], field: str) -> Any:
    for part in field.split("."):
        config = config[part]
    return config


def _train_scores(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the last record of training."""
    training = [record for record in records if record["split"] == "train"]
    return {f"train_{name}": training[-1][name] for name in ("loss", "accuracy")} if training else {}


def _size(path: Path) -> dict[str, int]:
    """{'parameters', 'MACs' an image} of a run's network as it classifies; {} where no network was trained."""
    if not (path / "run.json").exists():
        return {}
    config, run = workdir.read_run(path)
    options = config["model"] | ({"aux_logits": False} if "aux_logits" in config["model"] else {})
    network = models.build(**options, num_classes=run["data"]["num_classes"])
    return _summary(network, tuple(run["data"]["image_shape"]))


@functools.cache
def _summary(network, image_shape: tuple[int, int, int]) -> dict[str, int]:
    found = summary.summarize(network, image_shape)
    return {"parameters": found.params, "MACs": found.macs}


def table(settings: Sequence[Setting]) -> list[list[str]]:
    """A heading and a line a setting: what tells it from the others, its size, mean and deviation of its scores."""
    fields = comparison.varying(settings)
    rows = [row for setting in settings for row in setting.done()]
    sizes = [name for name in ("parameters", "MACs") if len({row.get(name) for row in rows}) > 1]
    present = {name: None for row in rows for name, value in row.items() if isinstance(value, (int, float))}
    scores = [name for name in (*SCORES, *present) if name in present and name not in (*UNTOLD, "seconds")]
    scores = [*dict.fromkeys(scores), *(["seconds"] if "seconds" in present else [])]
    lines = [[*map(comparison.short_field, fields), "trials", *sizes, *(SCORES.get(name, name) for name in scores)]]
    for setting in settings:
        done, total = len(setting.done()), len(setting.rows)
        lines.append([*(comparison.short(setting.fields[field]) for field in fields),
                      str(total) if done == total else f"{done} of {total}",
                      *(_spread(setting, name) for name in (*sizes, *scores))])
    return lines


def _spread(setting: Setting, name: str) -> str:
    """Mean and the sample's standard deviation, in the score's unit; '' where trials have no such score."""
    if not setting.done() or any(name not in row for row in setting.done()):
        return ""
    mean, deviation = setting.mean(name), setting.deviation(name)
    if name in ("parameters", "MACs"):
        return f"{mean:,.0f}"
    scale, unit = (100, " %") if name.endswith("accuracy") else (1, "")
    digits = 4 if name.endswith("loss") else 1 if name == "seconds" else 0 if mean >= 100 else 2
    around = "" if deviation is None or name == "seconds" else f" ± {deviation * scale:,.{digits}f}"
    return f"{mean * scale:,.{digits}f}{around}{unit}"


# --- their pages

@dataclass(frozen=True)
class Script:
    """What the comments at the top of an experiment's script say: the title, and paragraphs by their first word."""
    name: str
    title: str
    paragraphs: dict[str, str]


def read_script(path: Path) -> Script:
    """Raises UserError where one of KEYS is missing."""
    head = re.match(r"#!.*\n((?:#.*\n)+)", path.read_text())
    title, *paragraphs = re.split(r"\n\s*\n", re.sub(r"(?m)^# ?", "", head[1]).strip() if head else "")
    found = {}
    for paragraph in paragraphs:
        key, _, text = " ".join(paragraph.split()).partition(": ")
        found[key.lower()] = text
    missing = [key for key in KEYS if not found.get(key)]
    if missing:
        raise UserError(f"the comments at the top of {path} lack: {', '.join(missing)}")
    return Script(path.stem, title.strip().rstrip("."), found)


def publish(scripts: Path, runs: Path, docs: Path, names: Sequence[str] = ()) -> list[str]:
    """Writes NAME.md and NAME.png of the experiments that have run, and the index of all.

    Args:
      scripts, runs, docs: where the scripts, their runs and the pages are.
      names: of the experiments to write; all that have run if there are none.
    Returns:
      The names of those written.
    """
    all_scripts = {path.stem: read_script(path) for path in sorted(scripts.glob("*.sh"))}
    unknown = [name for name in names if name not in all_scripts]
    if unknown:
        raise UserError(f"there is no experiment {unknown[0]!r} in {scripts}; known: {', '.join(all_scripts)}")
    docs.mkdir(parents=True, exist_ok=True)
    chosen = names or [name for name in all_scripts if (runs / name).is_dir()]
    for name in chosen:
        (docs / f"{name}.md").write_text(_page(all_scripts[name], runs / name, docs))
    lines = [["experiment", "what was found"]]
    lines += [[f"[{script.title}]({name}.md)" if (docs / f"{name}.md").exists() else script.title,
               script.paragraphs["found"]] for name, script in all_scripts.items()]
    (docs / "README.md").write_text(
        "# Ablations\n\nWhat the texts claim, as experiments that run in minutes on two cores:\n"
        "`bash scripts/ablations/NAME.sh`. These pages are written from the runs' own files, by\n"
        "`python scripts/ablate.py --what=publish`. Each says how long it took; beside some the machine did a\n"
        "little other work, so compare the processor time, which two cores share.\n\n"
        + report.markdown(lines))
    return list(chosen)


def _page(script: Script, directory: Path, docs: Path) -> str:
    settings, run = read(directory)
    picture = docs / f"{script.name}.png"
    if (directory / "picture.png").exists():
        picture.write_bytes((directory / "picture.png").read_bytes())
    else:
        comparison.draw(settings, picture, script.title)
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    trained = any(setting.curves and setting.curves[0] for setting in settings)
    note = "\nTrain: the mean over the last epoch as it went, with any dropout and augmentation.\n" if trained else ""
    said = "\n\n".join(textwrap.fill(f"**{key.capitalize()}.** {(text := script.paragraphs[key])[0].upper()}{text[1:]}",
                                     120, break_long_words=False, break_on_hyphens=False) for key in KEYS)
    return f"""# {script.title}

{said}

```
bash scripts/ablations/{script.name}.sh
```

{report.markdown(table(settings))}{note}
![{script.title}]({script.name}.png)

Mean ± standard deviation over the trials that were done. Took {_took(directory / "seconds")} on {run.get('machine')}
({run.get('device')}): {versions}; commit {run.get('commit')}.
"""


def _took(path: Path) -> str:
    """'9 min 42 s (11 min 03 s of processor time)', over all calls of an experiment's script."""
    words = path.read_text().split() if path.exists() else []
    wall = sum(int(word) for word in words if word.isdigit())
    times = [word.removesuffix("s").partition("m") for word in words if not word.isdigit()]  # 0m1.234s
    processor = sum(60 * int(minutes) + float(seconds) for minutes, _, seconds in times)
    return logs.duration(wall) + (f" ({logs.duration(processor)} of processor time)" if processor else "")
