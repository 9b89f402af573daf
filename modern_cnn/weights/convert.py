"""Conversion between PyTorch's state dicts (torchvision's and the textbook's) and variables of our networks.

Kernels of convolutions go from [O, I, kh, kw] to [kh, kw, I, O], dense kernels from [out, in] to [in, out]. The rows of
a dense layer after a flattened map go from the order channels, height, width to height, width, channels.
"""
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from modern_cnn.errors import UserError
from modern_cnn.models import VARIANTS, build
from modern_cnn.weights.files import as_array
from modern_cnn.weights.names import TABLES

TORCHVISION = tuple(name for name, variant in VARIANTS.items() if variant.torchvision)  # it publishes their weights
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_TO_OURS = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # the axes, by an array's rank
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_Shape = tuple[int, ...]
Variables = dict[str, Any]


class _Entry(NamedTuple):
    """One array: its name and shape in PyTorch, and its path and shape here."""
    name: str
    shape: _Shape
    path: tuple[str, ...]
    our_shape: _Shape
    channels: int  # if the rows are a flattened map: the map's channels, else 0

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        """Return the array in our layout, as float32."""
        if self.channels:  # [out, C * H * W] -> [H * W * C, out]
            value = value.reshape(len(value), self.channels, -1).transpose(2, 1, 0).reshape(self.our_shape)
        else:
            value = value.transpose(_TO_OURS[value.ndim])
        return np.array(value, np.float32, order="C")

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        """Return the array in PyTorch's layout."""
        if self.channels:
            value = value.reshape(-1, self.channels, self.shape[0]).transpose(2, 1, 0).reshape(self.shape)
        else:
            value = value.transpose(_TO_TORCH[value.ndim])
        return np.array(value, order="C")


class _Match(NamedTuple):
    """A network with the classes, input channels and auxiliary heads of given arrays, and the arrays that it has."""
    module: nn.Module
    image_shape: tuple[int, int, int]
    entries: list[_Entry]


def _entries(name: str, module: Any, image_shape: tuple[int, int, int]) -> list[_Entry]:
    """Return all parameters and running statistics, from the first layer to the last, with blocks not stacked."""
    if type(module) not in TABLES:
        raise UserError(f"the network {name!r} has no names in PyTorch: its weights cannot be converted")
    module = module.clone(scan=False) if hasattr(module, "scan") else module
    try:
        variables: Any = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *image_shape))))
    except (ValueError, TypeError, ZeroDivisionError) as e:
        if isinstance(e, UserError):
            raise
        size = "x".join(map(str, image_shape))
        raise UserError(f"the network {name!r} cannot be built for {size} images: {e}") from e
    leaves: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(dict(variables))
    entries, channels = [], image_shape[-1]
    for theirs, layer in TABLES[type(module)](module, name.endswith("_d2l")):
        for leaf, their_leaf in _LEAVES.items():
            path = ("batch_stats" if leaf in ("mean", "var") else "params", *layer, leaf)
            if path not in leaves:
                continue
            our_shape = leaves.pop(path).shape
            shape = tuple(our_shape[axis] for axis in _TO_TORCH[len(our_shape)])
            flattened = leaf == "kernel" and layer[-1] == "dense1"  # in each family the layer after flattening
            entries.append(_Entry(f"{theirs}.{their_leaf}", shape, path, our_shape, channels if flattened else 0))
            if len(our_shape) == 4:
                channels = our_shape[-1]
    if leaves:
        raise UserError(f"the network {name!r} with these options has layers without names in PyTorch: "
                        f"{', '.join('/'.join(path) for path in leaves)}")
    return entries


def _check_shapes(what: str, wanted: Mapping[str, _Shape], given: Mapping[str, _Shape]) -> None:
    """Raise UserError that lists each array that is missing, unexpected or of another shape."""
    misshapen = [f"{name} {[*given[name]]} instead of {[*shape]}" for name, shape in wanted.items()
                 if given.get(name, shape) != shape]
    problems = {"missing": [name for name in wanted if name not in given],
                "unexpected": [name for name in given if name not in wanted], "of another shape": misshapen}
    found = [f"{len(names)} {label}: {', '.join(names)}" for label, names in problems.items() if names]
    if found:
        raise UserError(f"{what}; {'; '.join(found)}")


def _modern_names(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays without batch counters, and DenseNet's names of 2017 (`norm.1.weight`) as they are today."""
    old = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.(?:weight|bias|running_mean|running_var))")
    return {old.sub(r"\1\2", key): as_array(value) for key, value in state_dict.items()
            if not key.endswith("num_batches_tracked")}


def _match(name: str, image_size: int, options: Mapping[str, Any], has_aux: bool,
           shape_of: Callable[[_Entry], _Shape | None]) -> _Match:
    """Return the network that the shapes of the first and the last given kernel belong to.

    Args:
      has_aux: whether there are auxiliary heads among the given arrays; an option `aux_logits` overrules it.
      shape_of: the shape of the given array of an entry, in PyTorch's layout; None if it is missing.
    """
    module: Any = build(name, **options)
    if hasattr(module, "aux_logits") and options.get("aux_logits") is None:
        module = module.clone(aux_logits=has_aux)
    (height, width, channels), classes = VARIANTS[name].image_shape, VARIANTS[name].num_classes
    size = (image_size or height, image_size or width)
    guess = module.clone(num_classes=classes), (*size, channels)
    entries = _entries(name, *guess)
    kernels = [entry for entry in entries if entry.path[-1] == "kernel" and not entry.path[1].startswith("aux")]
    first, last = shape_of(kernels[0]), shape_of(kernels[-1])
    network = (module.clone(num_classes=last[0] if last else classes),
               (*size, first[1] if first and len(first) == 4 else channels))
    return _Match(*network, entries if network == guess else _entries(name, *network))


def _match_state(name: str, state_dict: Mapping[str, Any], image_size: int,
                 options: Mapping[str, Any]) -> tuple[_Match, dict[str, np.ndarray]]:
    """Return the network of a state dict, and the arrays by PyTorch's names of today."""
    state = _modern_names(state_dict)
    if options.get("aux_logits") is False:
        state = {key: value for key, value in state.items() if not key.startswith("aux")}
    match = _match(name, image_size, options, any(key.startswith("aux") for key in state),
                   lambda entry: state[entry.name].shape if entry.name in state else None)
    _check_shapes(f"this is no state dict of {name!r}", {entry.name: entry.shape for entry in match.entries},
                  {key: value.shape for key, value in state.items()})
    return match, state


def matching_network(name: str, state_dict: Mapping[str, Any], *, image_size: int = 0,
                     **options) -> tuple[nn.Module, tuple[int, int, int]]:
    """Return (network, image shape (H, W, C)) for the variables that `from_torchvision` returns for these arguments."""
    match, _ = _match_state(name, state_dict, image_size, options)
    return match.module, match.image_shape


def expected_normalize(name: str, channels: int) -> str:
    """Return the value of config.data.normalize that a network's weights from PyTorch expect.

    It is 'imagenet' for torchvision's weights, except 'symmetric' ([-1, 1]) for GoogLeNet: those weights came from
    TensorFlow, and torchvision maps normalised images back to that range (`transform_input`). It is 'unit' for others.
    """
    if name not in TORCHVISION or channels != 3:
        return "unit"
    return "symmetric" if name == "googlenet" else "imagenet"


def from_torchvision(name: str, state_dict: Mapping[str, Any], *, image_size: int = 0, **options) -> Variables:
    """Return our variables for a PyTorch state dict.

    Args:
      name: a key of `models.MODELS` whose layers are those of a network of torchvision or of the textbook's PyTorch
        code.
      state_dict: PyTorch's name -> array or CPU tensor, in PyTorch's layout, with auxiliary heads or without. Its
        arrays determine the number of classes and of input channels. `num_batches_tracked` is ignored.
      image_size: height and width of the images, for networks with a dense layer after the flattened map and no
        adaptive pooling (LeNet, the textbook's AlexNet and VGG); 0: the size that the network was published for.
      **options: options of the network, as for `models.build`, e.g. width=0.25 or scan=True. aux_logits=False leaves
        out the auxiliary heads of `state_dict`.
    Returns:
      {'params', 'batch_stats'} of float32 arrays, for the network that `matching_network` returns: it has
      aux_logits=False if there are no auxiliary heads in `state_dict`.
    Raises:
      UserError: the network is unknown, or arrays are missing, unexpected or of another shape; the message lists them.
    """
    match, state = _match_state(name, state_dict, image_size, options)
    variables = traverse_util.unflatten_dict({entry.path: entry.to_ours(state[entry.name]) for entry in match.entries})
    return stack_blocks(variables) if options.get("scan") else variables


def to_torchvision(name: str, variables: Mapping[str, Any], *, image_size: int = 0, **options) -> dict[str, np.ndarray]:
    """Return the PyTorch state dict for our variables: the inverse of `from_torchvision`, to the bit.

    Args:
      variables: as from `init`, with auxiliary heads or without, blocks stacked (`scan=True`) or not.
      name, image_size, **options: as for `from_torchvision`.
    Returns:
      PyTorch's name -> array in PyTorch's layout, without `num_batches_tracked`, which `load_state_dict` does not need.
    Raises:
      UserError: as `from_torchvision`, with our names.
    """
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(unstack_blocks(variables)).items()}
    if options.get("aux_logits") is False:
        flat = {path: leaf for path, leaf in flat.items() if not path[1].startswith("aux")}

    def shape_of(entry: _Entry) -> _Shape | None:
        leaf = flat.get(entry.path)
        if leaf is None or leaf.ndim != len(entry.shape):
            return None
        return tuple(leaf.shape[axis] for axis in _TO_TORCH[leaf.ndim])

    match = _match(name, image_size, options, any(path[1].startswith("aux") for path in flat), shape_of)
    _check_shapes(f"these are no variables of {name!r}", {"/".join(entry.path): entry.our_shape
                                                          for entry in match.entries},
                  {"/".join(path): leaf.shape for path, leaf in flat.items()})
    return {entry.name: entry.to_torch(flat[entry.path]) for entry in match.entries}


def stack_blocks(variables: Mapping[str, Any]) -> Variables:
    """Return variables for `scan=True`: `stage2_block2`, `stage2_block3`, ... stacked as `stage2_blocks`."""
    stacked: Variables = {}
    for collection, layers in variables.items():
        stacked[collection], repeated = {}, {}
        for name, layer in layers.items():
            match = re.fullmatch(r"(stage\d+_block)(\d+)", name)
            if match and int(match[2]) > 1:
                repeated.setdefault(f"{match[1]}s", {})[int(match[2])] = layer
            else:
                stacked[collection][name] = layer
        for name, blocks in repeated.items():
            in_order = [blocks[number] for number in sorted(blocks)]
            stacked[collection][name] = jax.tree.map(lambda *leaves: np.stack(leaves), *in_order)
    return stacked


def unstack_blocks(variables: Mapping[str, Any]) -> Variables:
    """Return variables for `scan=False`: the inverse of `stack_blocks`. Other variables are returned as they are."""
    unstacked: Variables = {}
    for collection, layers in variables.items():
        unstacked[collection] = {}
        for name, layer in layers.items():
            if not re.fullmatch(r"stage\d+_blocks", name):
                unstacked[collection][name] = layer
                continue
            for i in range(len(jax.tree.leaves(layer)[0])):
                block = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], layer)
                unstacked[collection][f"{name.removesuffix('s')}{i + 2}"] = block
    return unstacked
