"""Images from files to the compiled step: `sources` loads a data set, a feed makes batches, `augment` changes them."""
from pathlib import Path
from typing import Any

import numpy as np


def load(source: str, split: str = "test", like: str | Path = "", **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels) for `module.apply(variables, images, train=False)`: see `arrays.load_arrays`."""
    from modern_cnn.data.arrays import load_arrays

    return load_arrays(source, split, like, **fields)


def from_arrays(*args: Any, **options: Any) -> Any:
    """Return a data set of your own NumPy arrays, for `training.program.Program`: see `arrays.from_arrays`."""
    from modern_cnn.data import arrays

    return arrays.from_arrays(*args, **options)
