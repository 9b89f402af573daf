"""A trained network as a folder, or as a repository of the Hugging Face Hub: weights, card.json and README.md."""
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from modern_cnn import runtime, zoo
from modern_cnn.errors import UserError
from modern_cnn.reuse import provenance
from modern_cnn.runs import load, workdir
from modern_cnn.zoo import hub

log = logging.getLogger(__name__)

FILES = (zoo.WEIGHTS, zoo.CARD, "README.md")


class Licence(NamedTuple):
    """The licence of a data set: in words, as the Hub knows it, and which set of the Hub it is."""
    text: str
    identity: str
    dataset: str = ""


UNKNOWN = Licence("unknown", "unknown")
LICENCES = {  # by the names of provenance.data_name
    "Fashion-MNIST": Licence("MIT (Zalando SE)", "mit", "zalando-datasets/fashion_mnist"),
    "digits": Licence("CC BY 4.0 (UCI, optical recognition of handwritten digits)", "cc-by-4.0"),
    "CIFAR-10": Licence("none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
                        "unknown", "uoft-cs/cifar10"),
    "MNIST": Licence("CC BY-SA 3.0 (Y. LeCun, C. Cortes)", "cc-by-sa-3.0", "ylecun/mnist"),
}


def _public(source: str) -> str:
    """Return what anybody may read of the place of a network: the last part of a path."""
    return source if source.startswith((zoo.PREFIX, zoo.HUB)) else Path(source).name


def describe(directory: Path, data: str = "") -> dict[str, Any]:
    """Return the card of a finished run, without the digest of its weights; `data` names the data in words.

    It has no path of the machine that trained. Raise UserError if the run has not finished, or has imported weights.
    """
    config, run = workdir.read_run(directory)
    if "imported" in run:
        raise UserError(f"the weights in {directory} were imported: they have no score and no licence here; share a "
                        "run that was trained")
    for section in (config["finetune"], run.get("finetuned_from", {})):
        section["workdir"] = _public(section.get("workdir", ""))
    record = dict(provenance.read(directory))
    record["config"] |= {"finetune.workdir": config["finetune"]["workdir"], "data.manual_dir": ""}
    named, (kind, of_kind, _) = record["data"].removesuffix(provenance.FILES), config["data"]["source"].partition(":")
    licence, source = LICENCES.get(named, UNKNOWN), provenance.source_of(record)  # where anybody has it from
    if kind in ("folder", "csv"):  # whose name says nothing about the images
        licence, source = UNKNOWN, f"{kind}:{source}"
    elif of_kind and named not in LICENCES:
        source = f"{kind}:{named if kind == 'tfds' else source}"
    config["data"] |= {"source": source, "manual_dir": ""}
    run["data"] |= {"source": source, "origin": source}
    nearest = provenance.nearest_config(record, provenance.read_configs(runtime.tree()))
    record["config"] |= {"data.source": source}
    command = provenance.command(record, *nearest)
    count = run["data"]["sizes"]["test"]
    return {
        "network": record["network"], "parameters": record["parameters"],
        "options": {key: value for key, value in config["model"].items() if key != "name" and value is not None},
        "data": data or named, "licence": licence.text, "split": "test",
        "command": f"python scripts/train.py {command} --config.seed={record['seed']}", "seed": record["seed"],
        "commit": record["commit"], "steps": record["chosen"], "machine": record["machine"],
        "normalize": "(pixels / 255 - mean) / std, for each channel",
        "mean": run["data"]["mean"], "std": run["data"]["std"], "classes": run["data"]["class_names"],
        "digest": run["data"]["digest"], "config": config, "run": run,
        "accuracy": record["accuracy"], "correct": round(record["accuracy"] * count), "count": count,
        "loss": record["loss"],
    }


def readme(card: dict[str, Any], place: str) -> str:
    """Return the model card of the Hub: the metadata that its search reads, and how to use the network from a place."""
    licence = next((known for known in LICENCES.values() if known.text == card["licence"]), UNKNOWN)
    result = {"task": {"type": "image-classification"},
              "dataset": {"name": card["data"], "type": licence.dataset or card["data"], "split": card["split"]},
              "metrics": [{"type": "accuracy", "value": card["accuracy"]}]}
    header = {"library_name": "modern_cnn", "license": licence.identity, "pipeline_tag": "image-classification",
              "tags": ["jax", "flax", "modern_cnn", card["network"]], "metrics": ["accuracy"],
              "datasets": [licence.dataset] if licence.dataset else [],
              "model-index": [{"name": card["name"], "results": [result]}]}
    yaml = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items() if value)
    height, width, channels = card["run"]["data"]["image_shape"]
    accuracy = (f"{100 * card['accuracy']:.2f} %: {card['correct']:,} of the {card['count']:,} images of the "
                f"{card['split']} split")
    classes = ", ".join(card["classes"][:20]) + (", ..." if len(card["classes"]) > 20 else "")
    return f"""---
{yaml}
---
# {card["name"]}

`{card["network"]}` of modern_cnn (JAX, Flax), {card["parameters"]:,} parameters, trained on {card["data"]}.

| | |
|---|---|
| accuracy | {accuracy} |
| loss | {card["loss"]:.4f} |
| images | {height}x{width}, {channels} channel{"s" * (channels > 1)}, normalised as {card["normalize"]} |
| mean, std | {card["mean"]}, {card["std"]} |
| classes | {len(card["classes"]):,}: {classes} |
| licence of the data | {card["licence"]} |
| trained by | `{card["command"]}` |
| on | {card["machine"]}, commit {card["commit"]} |

## Use it

```python
import modern_cnn

module, variables = modern_cnn.from_pretrained("{place.removeprefix(zoo.HUB)}")
logits = module.apply(variables, images, train=False)  # float images [N, {height}, {width}, {channels}], normalised
```

```
python scripts/predict.py --weights={place} photos/
```

`card.json` holds all of this, the config of the training and the SHA-256 of the weights, which is checked.
"""


def write(source: str | Path, folder: Path, identity: str, store: str = "float32", data: str = "") -> dict[str, Any]:
    """Write FILES of a finished run or of a stored network, whose weights stay as they are; return the card.

    Raise UserError as `describe`, or if the folder holds other files.
    """
    name = zoo.named(source)
    content = zoo.card(name) if name else describe(Path(source), data)
    repository = hub.split(identity)[0] if identity else ""
    content |= {"name": content.get("name") or Path(repository or source).absolute().name}
    with workdir.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if others := sorted({path.name for path in folder.iterdir()} - {*FILES}):
            raise UserError(f"{folder} holds other files ({others[0]}): choose another folder")
        if name:
            shutil.copyfile(zoo.weights_path(name), folder / zoo.WEIGHTS)
            (folder / zoo.CARD).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        else:
            zoo.write(folder / zoo.WEIGHTS, folder / zoo.CARD, load.load_run(source).variables, content, store)
        content = zoo.card(str(folder.absolute()))
        (folder / "README.md").write_text(readme(content, f"{zoo.HUB}{identity}" if identity else folder.name), "utf-8")
    return content


def push(source: str | Path, identity: str = "", folder: str | Path = "", store: str = "float32",
         data: str = "") -> str:
    """Share a network: see `modern_cnn.push_to_hub`. Numbers are stored as `store`; `data` names the data in words."""
    if not identity and not folder:
        raise UserError("name a repository of the Hub, USER/NAME, or a folder to write to")
    if not identity:
        write(source, Path(folder), "", store, data)
        return str(folder)
    repository, revision = hub.split(identity)
    with hub.one_line(identity):
        import huggingface_hub  # pyright: ignore[reportMissingImports]

        if not huggingface_hub.get_token():
            raise UserError(f"{identity}: there is no token of the Hub: log in (hf auth login), or set HF_TOKEN")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        name = write(source, place, identity, store, data)["name"]
        with hub.one_line(identity):
            interface = huggingface_hub.HfApi(library_name="modern_cnn")
            interface.create_repo(repository, exist_ok=True)
            if revision:
                interface.create_branch(repository, branch=revision, exist_ok=True)
            commit = interface.upload_folder(repo_id=repository, folder_path=place, revision=revision,
                                             allow_patterns=[*FILES], commit_message=f"{name}, by modern_cnn")
    log.info("%s: %s", identity, commit.commit_url)
    return str(commit.commit_url)
