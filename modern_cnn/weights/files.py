"""Files of weights: .safetensors and those of torch.save, from which only tensors are read and no program is run."""
import logging
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp  # it also teaches NumPy, and so safetensors, what bfloat16 is
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from modern_cnn.errors import UserError, some

_LFS = b"version https://git-lfs"
log = logging.getLogger(__name__)
# The keys of a state dict in checkpoints of training scripts; the first that is there is read.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "params")


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


_READERS = {".safetensors": load_file} | dict.fromkeys((".pth", ".pt", ".tar", ".bin", ".ckpt", ".th"), _load_torch)


def _mappings(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (its path of keys, its named tensors) of each mapping in a checkpoint that holds some."""
    waiting, seen = [("", content)], set()
    for path, value in waiting:
        if isinstance(value, Mapping) and id(value) not in seen and path.count("/") < 4:
            seen.add(id(value))  # a file can hold a mapping that holds itself
            named = {key: part for key, part in value.items() if isinstance(key, str)}  # an optimiser has numbers
            if tensors := {key: part for key, part in named.items() if hasattr(part, "shape")}:
                yield path, tensors
            waiting += [(f"{path}/{key}".lstrip("/"), part) for key, part in named.items()]


def _tensors(path: Path, content: Any) -> dict[str, np.ndarray]:
    """Return the tensors of the mapping that holds most; if several hold about as many, of the first of _CONTAINERS."""
    found = dict(_mappings(content))
    most = [key for key in found if 2 * len(found[key]) > max(map(len, found.values()))]
    known = [key for name in _CONTAINERS for key in most if key.rpartition("/")[2] == name]
    if len(most) > 1 and not known:
        raise UserError(f"{path} holds several sets of weights ({some(key or '/' for key in most)}): save one alone")
    chosen = (known or most or [""])[0]
    if chosen:
        others = [key for key in most if key != chosen]
        log.info("%s: the weights under %s are read%s", path, chosen, f", not {some(others)}" if others else "")
    return {name: as_array(value) for name, value in found.get(chosen, {}).items()}


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Return PyTorch's name -> array in PyTorch's layout, floating point as float32.

    The file is .safetensors, or one of torch.save (.pth, .pt, .tar, .bin, .ckpt or .th), which needs PyTorch. It
    contains a state dict, or a checkpoint with one in it. Raise UserError if it does not exist, is of another kind, is
    damaged, or holds no tensors, several sets of them or more than tensors.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if not read:
        raise UserError(f"{path} is not a file of weights: its name must end in one of {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise UserError(f"{path} is a pointer of git-lfs to the weights, not the weights: run git lfs pull")
        with warnings.catch_warnings(action="ignore"):  # PyTorch warns of old files
            state = _tensors(path, read(path))
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
    """Write arrays to a .safetensors file. Raise UserError if its name ends otherwise, or it cannot be written."""
    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors")
    try:
        save_file(dict(state), path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as e:
        raise UserError(f"cannot write {path}: {e}") from e
