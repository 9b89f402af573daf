"""Training that opens no file: state, steps, metrics, optimisers, devices, and the programs that compile them."""
import importlib
import warnings
from typing import Any

MOVED = {"evaluation": "modern_cnn.runs.load", "loop": "modern_cnn.runs.loop"}  # since 0.1.0


def __getattr__(name: str) -> Any:
    """Return a module that has moved, with a warning."""
    if name not in MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is {MOVED[name]} now", DeprecationWarning, stacklevel=2)
    return importlib.import_module(MOVED[name])
