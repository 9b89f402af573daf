"""Files of weights: .safetensors, and what torch.save writes, of which tensors are read and no program is run."""
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp  # it also teaches NumPy, and so safetensors, what bfloat16 is
import numpy as np

from modern_cnn.errors import UserError

CONTAINERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict of a checkpoint


def as_array(value: Any) -> np.ndarray:
    """An array, or a PyTorch tensor or parameter, in NumPy; floating point of any precision becomes float32."""
    if hasattr(value, "detach"):  # NumPy takes no tensor of bfloat16, and none that requires a gradient
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    value = np.asarray(value)
    return value.astype(np.float32, copy=False) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _load_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _load_torch(path: Path) -> Any:
    """What torch.save wrote. A pickle can run any program, so only tensors and plain containers are let in."""
    try:
        import torch
    except ImportError:
        raise UserError(f"{path.suffix} files are read by PyTorch, which is not installed: pip install torch, or "
                        f"convert {path} to .safetensors where it is") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        foreign = re.search(r"(?:GLOBAL|function) (\S+)", str(e))
        if foreign:
            raise UserError(f"{path} holds more than tensors ({foreign[1]}) and is not opened, as that could run any "
                            "program; save model.state_dict() alone, not the model") from None
        raise UserError(f"{path} is damaged, or holds more than tensors; it is not opened") from None


READERS = {".safetensors": _load_safetensors, ".pth": _load_torch, ".pt": _load_torch}


def _tensors(content: Any) -> dict[str, np.ndarray]:
    """The tensors of a state dict, or of a training script's checkpoint around one."""
    content = content if isinstance(content, Mapping) else {}
    inner = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]
    state = {name: as_array(value) for name, value in (inner or [content])[0].items() if hasattr(value, "shape")}
    if all(name.startswith("module.") for name in state):  # of torch.nn.DataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """PyTorch's name -> array in PyTorch's layout, floating point as float32.

    Args:
      path: .safetensors, or .pth or .pt of torch.save, which PyTorch must be installed for. A state dict, or a
        checkpoint that holds one as 'state_dict', 'model_state_dict' or 'model'.
    Raises:
      UserError: no such file, another kind of file, a damaged one, one that holds no tensors, or more than tensors.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if not read:
        raise UserError(f"{path} is no file of weights that can be read: those end in {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of PyTorch, on the age of a file
            state = _tensors(read(path))
    except UserError:
        raise
    except PermissionError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from e
    except Exception as e:  # a damaged file can raise nearly anything
        raise UserError(f"{path} is damaged, or no {path.suffix} file ({type(e).__name__}: {str(e)[:100]})") from e
    if not state:
        raise UserError(f"{path} holds no tensors")
    return state


def write_state_dict(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a .safetensors file, which `safetensors.torch.load_file` reads too.

    Raises:
      UserError: another ending, or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors")
    try:
        save_file(dict(state), path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as e:
        raise UserError(f"cannot write {path}: {e}") from e


def sha256(path: str | Path) -> str:
    """By which a file is told from every other, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
