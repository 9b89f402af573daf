"""Weights from PyTorch and back: torchvision's state dicts, and the textbook's, to our variables, and the reverse.

Convolution kernels go from [O, I, kh, kw] to [kh, kw, I, O] and dense ones from [out, in] to [in, out]; the rows of a
dense layer that follows a flattened map go from channels, height, width to height, width, channels.
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
from modern_cnn.models import INPUTS, build
from modern_cnn.weights.tables import TABLES

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
TO_OURS = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # the axes, by an array's rank
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
Variables = dict[str, Any]


class Entry(NamedTuple):
    """One array: its name and shape in PyTorch, its path and shape here."""
    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    ours: tuple[int, ...]
    channels: int  # of the map whose flattening these rows are; 0 where they are none


def _entries(name: str, module: nn.Module, image_shape: tuple[int, int, int]) -> list[Entry]:
    """Every parameter and running statistic of a network, in PyTorch's order of layers."""
    if type(module) not in TABLES:
        raise UserError(f"the network {name!r} has no counterpart in PyTorch's names")
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False))
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(dict(variables)).items()}
    entries, channels = [], image_shape[-1]
    for theirs, layer in TABLES[type(module)](module, name.endswith("_d2l")):
        for leaf, their_leaf in LEAVES.items():
            path = ("batch_stats" if leaf in ("mean", "var") else "params", *layer, leaf)
            if path not in shapes:
                continue
            ours = shapes[path]
            shape = tuple(ours[axis] for axis in TO_TORCH[len(ours)])
            flattened = leaf == "kernel" and layer[-1] == "dense1"  # in every family the layer after flattening
            entries.append(Entry(f"{theirs}.{their_leaf}", shape, path, ours, channels if flattened else 0))
            if len(ours) == 4:
                channels = ours[-1]
    return entries


def _refuse(what: str, wanted: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]]) -> None:
    """Raises UserError that lists by name everything that is missing, unexpected or of another shape."""
    misshapen = [f"{name} {[*given[name]]} instead of {[*shape]}" for name, shape in wanted.items()
                 if given.get(name, shape) != shape]
    problems = {"missing": [name for name in wanted if name not in given],
                "unexpected": [name for name in given if name not in wanted], "of another shape": misshapen}
    told = [f"{len(names)} {label}: {', '.join(names)}" for label, names in problems.items() if names]
    if told:
        raise UserError(f"{what}; {'; '.join(told)}")


def _modern_names(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name, without the batch counters; DenseNet's names of 2017 (`norm.1.weight`) as they are today."""
    old = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))")
    return {old.sub(r"\1\2", key): np.asarray(value) for key, value in state_dict.items()
            if not key.endswith("num_batches_tracked")}


def _describe(name: str, image_size: int, options: dict[str, Any], has_aux: bool,
              shape_of: Callable[[Entry], tuple[int, ...] | None]) -> list[Entry]:
    """The entries of a network with the classes and input channels that the arrays at hand have.

    Args:
      shape_of: the shape that an entry should have, in PyTorch's layout, by the arrays at hand; None where it is not
        among them.
    """
    module = build(name, **options)
    if hasattr(module, "aux_logits"):
        module = module.clone(aux_logits=has_aux)
    (height, width, channels), num_classes = INPUTS[name]
    size = (image_size or height, image_size or width)
    entries = _entries(name, module.clone(num_classes=num_classes), (*size, channels))
    kernels = [entry for entry in entries if entry.path[-1] == "kernel" and not entry.path[1].startswith("aux")]
    first, last = shape_of(kernels[0]), shape_of(kernels[-1])
    channels = first[1] if first and len(first) == 4 else channels
    num_classes = last[0] if last else num_classes
    return _entries(name, module.clone(num_classes=num_classes), (*size, channels))


def from_torchvision(name: str, state_dict: Mapping[str, Any], *, image_size: int = 0, **options) -> Variables:
    """Our variables from a PyTorch state dict.

    Args:
      name: a network of `models.MODELS` that has the layers of one of torchvision's or of the textbook's PyTorch code.
      state_dict: PyTorch's name -> array or CPU tensor, in PyTorch's layout. Auxiliary heads may be there or not.
        `num_batches_tracked` is ignored. The number of classes and of input channels are taken from it.
      image_size: height and width of the images, where dense layers follow the flattened map without adaptive pooling
        (the textbook's AlexNet and VGG, LeNet); 0: the network's own in `models.INPUTS`.
      **options: of the network, as for `models.build`, e.g. width=0.25 or scan=True.
    Returns:
      {'params', 'batch_stats'} of float32 arrays, for `build(name, num_classes, **options)`; `aux_logits=False` there
      where the auxiliary heads were not in `state_dict`.
    Raises:
      UserError: no such network, or entries that are missing, unexpected or of another shape: all of them, by name.
    """
    state = _modern_names(state_dict)
    scan = options.pop("scan", False)
    has_aux = any(key.startswith("aux") for key in state)
    entries = _describe(name, image_size, options, has_aux,
                        lambda entry: state[entry.name].shape if entry.name in state else None)
    _refuse(f"this is no state dict of {name!r}", {entry.name: entry.shape for entry in entries},
            {key: value.shape for key, value in state.items()})
    flat = {}
    for entry in entries:
        value = state[entry.name].astype(np.float32)
        if entry.channels:  # [out, C * H * W] -> [H * W * C, out]
            value = value.reshape(len(value), entry.channels, -1).transpose(2, 1, 0).reshape(entry.ours)
        else:
            value = value.transpose(TO_OURS[value.ndim])
        flat[entry.path] = np.ascontiguousarray(value)
    variables = traverse_util.unflatten_dict(flat)
    return stack_blocks(variables) if scan else variables


def to_torchvision(name: str, variables: Mapping[str, Any], *, image_size: int = 0, **options) -> dict[str, np.ndarray]:
    """The state dict of PyTorch's network from our variables: `from_torchvision` backwards, to the bit.

    Args:
      variables: as `init` makes them, with auxiliary heads or without, blocks stacked (`scan=True`) or not.
      name, image_size, **options: as for `from_torchvision`.
    Returns:
      PyTorch's name -> array in PyTorch's layout; no `num_batches_tracked`, which `load_state_dict` can spare.
    Raises:
      UserError: as `from_torchvision`, with our names.
    """
    options.pop("scan", None)
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(unstack_blocks(variables)).items()}
    has_aux = any(path[1].startswith("aux") for path in flat)
    entries = _describe(name, image_size, options, has_aux, lambda entry: tuple(
        flat[entry.path].shape[axis] for axis in TO_TORCH[flat[entry.path].ndim]) if entry.path in flat else None)
    _refuse(f"these are no variables of {name!r}", {"/".join(entry.path): entry.ours for entry in entries},
            {"/".join(path): leaf.shape for path, leaf in flat.items()})
    state = {}
    for entry in entries:
        value = flat[entry.path]
        if entry.channels:
            value = value.reshape(-1, entry.channels, entry.shape[0]).transpose(2, 1, 0).reshape(entry.shape)
        else:
            value = value.transpose(TO_TORCH[value.ndim])
        state[entry.name] = np.ascontiguousarray(value)
    return state


def stack_blocks(variables: Mapping[str, Any]) -> Variables:
    """Variables for `scan=True`: `stage2_block2`, `stage2_block3`, ... become `stage2_blocks` with a first axis."""
    stacked: Variables = {}
    for collection, layers in variables.items():
        blocks: dict[str, dict[int, Any]] = {}
        stacked[collection] = {}
        for name, layer in layers.items():
            match = re.fullmatch(r"(stage\d+)_block(\d+)", name)
            if match and int(match[2]) > 1:
                blocks.setdefault(match[1], {})[int(match[2])] = layer
            else:
                stacked[collection][name] = layer
        for stage, numbered in blocks.items():
            in_order = [numbered[number] for number in sorted(numbered)]
            stacked[collection][f"{stage}_blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *in_order)
    return stacked


def unstack_blocks(variables: Mapping[str, Any]) -> Variables:
    """`stack_blocks` backwards; variables that are not stacked come back as they are."""
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
