"""Files of weights: .safetensors and those of torch.save, from which only tensors are read and no program is run."""
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp  # it also teaches NumPy, and so safetensors, what bfloat16 is
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from modern_cnn.errors import UserError

_CONTAINERS = ("state_dict", "model_state_dict", "model")  # the keys of a state dict in checkpoints of training scripts


def as_array(value: Any) -> np.ndarray:
    """Return an array, PyTorch tensor or parameter as a NumPy array; floating point of any precision as float32."""
    if hasattr(value, "detach"):  # NumPy refuses a tensor that is bfloat16 or requires a gradient
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    value = np.asarray(value)
    return value.astype(np.float32, copy=False) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _load_torch(path: Path) -> Any:
    """Return what torch.save wrote. A pickle can run any program: only tensors and plain containers are loaded."""
    try:
        import torch
    except ImportError:
        raise UserError(f"cannot read {path}: {path.suffix} files need PyTorch: pip install torch, or convert the "
                        "file to .safetensors on a machine with PyTorch") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if foreign := re.search(r"(?:GLOBAL|function) (\S+)", str(e)):
            raise UserError(f"{path} holds more than tensors ({foreign[1]}), which could run any program, and is not "
                            "opened: save model.state_dict() alone, not the model") from None
        raise UserError(f"{path} is damaged, or holds more than tensors, and is not opened") from None


_READERS = {".safetensors": load_file, ".pth": _load_torch, ".pt": _load_torch}


def _tensors(content: Any) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict, or of a checkpoint that contains one."""
    content = content if isinstance(content, Mapping) else {}
    content = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content)
    state = {name: as_array(value) for name, value in content.items() if hasattr(value, "shape")}
    if all(name.startswith("module.") for name in state):  # torch.nn.DataParallel adds it
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Return PyTorch's name -> array in PyTorch's layout, floating point as float32.

    The file is .safetensors, or a .pth or .pt of torch.save, which needs PyTorch. It contains a state dict, or a
    checkpoint with one as 'state_dict', 'model_state_dict' or 'model'. Raise UserError if it does not exist, is of
    another kind, is damaged, or holds no tensors or more than tensors.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if not read:
        raise UserError(f"{path} is not a file of weights: its name must end in one of {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch warns of old files
            state = _tensors(read(path))
    except UserError:
        raise
    except PermissionError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from e
    except Exception as e:  # a damaged file can raise nearly anything
        raise UserError(f"{path} is damaged, or not a {path.suffix} file ({type(e).__name__}: {str(e)[:100]})") from e
    if not state:
        raise UserError(f"{path} holds no tensors")
    return state


def write_state_dict(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a .safetensors file, which `safetensors.torch.load_file` reads too.

    Raise UserError if the name does not end in .safetensors, or the file cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors")
    try:
        save_file(dict(state), path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as e:
        raise UserError(f"cannot write {path}: {e}") from e
