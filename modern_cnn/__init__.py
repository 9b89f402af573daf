"""Convolutional networks that made the field, in JAX and Flax. Importing it sets and starts nothing."""
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the part of the package that notebooks use, when it is first asked for."""
    if name not in ("data", "functional", "layers", "models"):
        raise AttributeError(f"module 'modern_cnn' has no attribute {name!r}")
    return importlib.import_module(f"modern_cnn.{name}")


def load(workdir: str | Path) -> tuple[Any, dict[str, Any]]:
    """Return (module, variables) of a trained run: `module.apply(variables, images, train=False)` gives logits.

    `workdir` is the run's directory, or names a stored network: 'zoo:NAME' comes with the package (scripts/zoo.py lists
    them), 'hub:USER/NAME' is on the Hub, and a folder has what `push_to_hub` wrote. The variables are the best
    checkpoint on validation where the run had a validation split, else the last one; and the averages of the weights
    where the run kept them (config.optimizer.ema_decay). Images are float [N, H, W, C], normalised by `mean` and `std`
    of `data` in run.json: (pixels / 255 - mean) / std. Raise UserError if the directory is no workdir, holds no good
    checkpoint, or for an unknown name.
    """
    from modern_cnn.runs.load import load_run

    return load_run(workdir)[:2]


def from_pretrained(source: str | Path) -> tuple[Any, dict[str, Any]]:
    """Return (module, variables), as `load`, of a network that `push_to_hub` wrote, after a check of its digest.

    `source` is a repository of the Hugging Face Hub, 'USER/NAME' or 'USER/NAME@REVISION'; a folder; or a file
    NAME.safetensors, whose card is NAME.json or card.json beside it. What is on this machine comes first;
    'hub:USER/NAME' means the Hub in any case, here and for the --weights of every script. Raise UserError if there is
    no such thing, it cannot be fetched, or the weights are not those of the card.
    """
    from modern_cnn.runs.load import load_run
    from modern_cnn.zoo import located

    return load_run(located(source))[:2]


def push_to_hub(source: str | Path, repository: str = "", folder: str | Path = "") -> str:
    """Share a network: write model.safetensors, card.json and README.md, and upload them to the Hugging Face Hub.

    `source` is the workdir of a finished run, or names a stored network: 'zoo:NAME'. `repository` is 'USER/NAME', which
    is made if there is none, or 'USER/NAME@BRANCH'; the token is that of `hf auth login` or HF_TOKEN. With a `folder`
    the files are kept there; without a repository they are only written there. Return the address of the commit, or
    the folder. Raise UserError for a run that has not finished, no token, or what the Hub refuses.
    """
    from modern_cnn.reuse import share

    return share.push(source, repository, folder)


def train(config: Any, workdir: str | Path = "", **overrides: Any) -> Any:
    """Train a config as scripts/train.py does: `train("lenet:lenet_bn", epochs=5)`. See `runs.result.train`."""
    from modern_cnn.runs import result

    return result.train(config, workdir, **overrides)
