"""Images from files to the compiled step: `sources` loads a data set, a feed makes batches, `augment` changes them."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]  # images uint8 [N, H, W, C], and labels of whole numbers [N]


def load(source: str, split: str = "test", like: str | Path = "", **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels) for `module.apply(variables, images, train=False)`: see `arrays.load_arrays`."""
    from modern_cnn.data.arrays import load_arrays

    return load_arrays(source, split, like, **fields)


def from_arrays(train: Pair, test: Pair, validation: Pair | None = None, *, class_names: Sequence[str] = (),
                normalize: str = "unit") -> Any:
    """Return a data set of your own NumPy arrays, for `training.program.Program`: see `arrays.from_arrays`."""
    from modern_cnn.data import arrays

    return arrays.from_arrays(train, test, validation, class_names=class_names, normalize=normalize)
