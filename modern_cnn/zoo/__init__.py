"""Trained weights that come with the package: modern_cnn/zoo/NAME.safetensors, and NAME.json, their card.

`zoo:NAME` stands for them wherever the workdir of a finished run is read.
"""
import hashlib
import json
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from modern_cnn.errors import UserError, lookup

PREFIX = "zoo:"
FOLDER = Path(__file__).resolve().parent


def named(workdir: str | Path) -> str:
    """Return NAME of zoo:NAME, and '' of the path of a directory."""
    return str(workdir).removeprefix(PREFIX) if str(workdir).startswith(PREFIX) else ""


def names() -> list[str]:
    """Return the names of all networks of the zoo."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def card(name: str) -> dict[str, Any]:
    """Return what is known of a network: 'network', 'accuracy', 'count', 'data', 'licence', 'command', ...

    'config' and 'run' are the config.json and run.json of its training. Raise UserError for an unknown name.
    """
    lookup(dict.fromkeys(names()), name, "zoo network")
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def weights(name: str) -> dict[str, Any]:
    """Return the variables of a network, as float32 arrays. Raise UserError if the file is not that of the card."""
    from modern_cnn.weights import files  # a training run, which asks for `named`, reads no weights

    path = FOLDER / f"{name}.safetensors"
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != card(name)["sha256"]:
        raise UserError(f"{path} is missing or damaged: install the package again")
    return unflatten_dict(files.read_state_dict(path), sep="/")


def write(name: str, variables: dict[str, Any], content: dict[str, Any], dtype: str) -> None:
    """Write a network, its numbers as `dtype`, and its card of this `content`."""
    from modern_cnn.weights import files

    path, flat = FOLDER / f"{name}.safetensors", flatten_dict(variables, sep="/")
    files.write_state_dict(path, {key: files.as_array(leaf).astype(dtype) for key, leaf in sorted(flat.items())})
    digest = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "stored_as": dtype}
    path.with_suffix(".json").write_text(json.dumps(content | digest, indent=1, ensure_ascii=False) + "\n", "utf-8")
