"""Convolutional networks that made the field, in JAX and Flax. Importing this sets and starts nothing."""
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def load(workdir: str | Path) -> tuple[Any, dict[str, Any]]:
    """(module, variables) of a trained run: `module.apply(variables, images, train=False)` gives logits.

    It is the best checkpoint on validation where the run had a validation split, else the last one, and the averages of
    its weights where the run kept them (config.optimizer.ema_decay). Images are float [N, H, W, C], normalised as
    run.json's data.mean and data.std say: (pixels / 255 - mean) / std.

    Raises:
      UserError: the directory is no workdir, or holds no good checkpoint.
    """
    from modern_cnn.runs import load as evaluation

    module, variables, _, _ = evaluation.load_run(workdir)
    return module, variables
