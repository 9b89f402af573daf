"""Images from files to the compiled step: `sources` loads a data set, a feed makes batches, `augment` changes them."""
from pathlib import Path
from typing import Any

import numpy as np


def load(source: str, split: str = "test", like: str | Path = "", **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels) for `module.apply(variables, images, train=False)`: see `sources.load_arrays`."""
    from modern_cnn.data.sources import load_arrays

    return load_arrays(source, split, like, **fields)
