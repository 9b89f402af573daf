"""Trained networks as two files, the weights and their card: those of the package, of folders and of the Hub.

modern_cnn/zoo/NAME.safetensors and NAME.json come with the package as zoo:NAME. A folder has them as model.safetensors
and card.json, and so has a repository on the Hub, hub:USER/NAME. Each stands for a network wherever the workdir of a
finished run is read.
"""
import hashlib
import json
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from modern_cnn.errors import UserError, lookup, parse_json

PREFIX, HUB = "zoo:", "hub:"
FOLDER = Path(__file__).resolve().parent
CARD, WEIGHTS = "card.json", "model.safetensors"


def named(workdir: str | Path) -> str:
    """Return by which name the functions here know a stored network, and '' of the workdir of a run.

    It is NAME of zoo:NAME, hub:USER/NAME as it is, and the absolute path of a folder or of a file of weights.
    """
    text, path = Path(workdir).as_posix(), Path(workdir)
    if text.startswith(PREFIX):
        return text.removeprefix(PREFIX)
    if text.startswith(HUB):
        return text
    stored = path.suffix == ".safetensors" or ((path / CARD).is_file() and not (path / "config.json").exists())
    return str(path.absolute()) if stored else ""


def located(source: str | Path) -> str:
    """Return what stands for `source` wherever a workdir is read: a place on this machine, or hub:USER/NAME.

    Raise UserError if it is neither.
    """
    from modern_cnn.zoo import hub

    text, path = str(source), Path(source).expanduser()
    if text.startswith((PREFIX, HUB)) or path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return text if text.startswith((PREFIX, HUB)) else str(path)
    if path.is_file():
        raise UserError(f"{source} is no .safetensors file; scripts/import_weights.py imports the files of PyTorch")
    if path.suffix == ".safetensors" or not hub.IDENTITY.fullmatch(text):
        raise UserError(f"there is no file or folder {source}, and a repository of the Hub is USER/NAME")
    return HUB + text


def names() -> list[str]:
    """Return the names of all networks of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def card_path(name: str) -> Path:
    """Return the card's file, which is fetched if it is the Hub's. Raise UserError for an unknown name."""
    if name.startswith(HUB):
        from modern_cnn.zoo import hub

        return hub.fetch(name.removeprefix(HUB), CARD)
    path = Path(name)
    if not path.is_absolute():
        lookup(dict.fromkeys(names()), name, "zoo network")
        return FOLDER / f"{name}.json"
    if path.suffix != ".safetensors":
        return path / CARD
    beside = path.with_suffix(".json")
    return beside if beside.exists() else path.with_name(CARD)


def card(name: str) -> dict[str, Any]:
    """Return what is known of a network: 'network', 'accuracy', 'count', 'data', 'licence', 'command', ...

    'config' and 'run' are the config.json and run.json of its training. Raise UserError for an unknown name, or a file
    that is no card.
    """
    path = card_path(name)
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{name} has no card: {path} is missing, which modern_cnn.push_to_hub writes beside the "
                        "weights") from None
    except (OSError, ValueError) as e:
        raise UserError(f"cannot read {path}: {e}") from e
    kinds = {"sha256": str, "steps": int, "config": dict, "run": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(content, dict)
             or not isinstance(content.get(key), kind)]
    if wrong:
        raise UserError(f"{path} is not the card of a network: it lacks {', '.join(wrong)}")
    return content


def weights_path(name: str) -> Path:
    """Return the file of weights. Raise UserError if it is missing, or its digest is not that of the card."""
    if name.startswith(HUB):
        from modern_cnn.zoo import hub

        path = hub.fetch_beside(name.removeprefix(HUB), card_path(name), WEIGHTS)
    elif Path(name).is_absolute():
        path = Path(name) if Path(name).suffix == ".safetensors" else Path(name) / WEIGHTS
    else:
        path = FOLDER / f"{name}.safetensors"
    expected, found = card(name)["sha256"], digest(path) if path.is_file() else "no file"
    if found != expected:
        again = "fetch or copy it again" if Path(name).is_absolute() or name.startswith(HUB) else (
            "install the package again")
        raise UserError(f"{path} is missing or damaged: {again} (SHA-256 expected {expected}, found {found})")
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights(name: str) -> dict[str, Any]:
    """Return the variables of a network, as float32 arrays. It raises as `weights_path`."""
    from modern_cnn.weights import files  # a training run, which asks for `named`, reads no weights

    return unflatten_dict(files.read_state_dict(weights_path(name)), sep="/")


def write(weights: Path, card: Path, variables: dict[str, Any], content: dict[str, Any], dtype: str) -> None:
    """Write the two files of a network: its numbers as `dtype`, and a card of this `content`."""
    from modern_cnn.weights import files

    flat = flatten_dict(variables, sep="/")
    files.write_state_dict(weights, {key: files.as_array(leaf).astype(dtype) for key, leaf in sorted(flat.items())})
    stored = {"sha256": digest(weights), "stored_as": dtype}
    card.write_text(json.dumps(content | stored, indent=1, ensure_ascii=False) + "\n", "utf-8")
