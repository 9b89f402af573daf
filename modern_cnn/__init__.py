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

    `workdir` is the run's directory, or 'zoo:NAME' for a network that comes with the package (scripts/zoo.py lists
    them). The variables are the best checkpoint on validation where the run had a validation split, else the last one;
    and the averages of the weights where the run kept them (config.optimizer.ema_decay). Images are float [N, H, W, C],
    normalised by `mean` and `std` of `data` in run.json: (pixels / 255 - mean) / std. Raise UserError if the directory
    is no workdir, holds no good checkpoint, or for an unknown name.
    """
    from modern_cnn.runs.load import load_run

    return load_run(workdir)[:2]


def train(config: Any, workdir: str | Path = "", **overrides: Any) -> Any:
    """Train a config as scripts/train.py does: `train("lenet:lenet_bn", epochs=5)`. See `runs.result.train`."""
    from modern_cnn.runs import result

    return result.train(config, workdir, **overrides)
