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
from modern_cnn.models import INPUTS, VARIANTS, build
from modern_cnn.weights.files import as_array
from modern_cnn.weights.names import TABLES

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
TO_OURS = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # the axes, by an array's rank
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
TORCHVISION = tuple(name for name, variant in VARIANTS.items() if variant.torchvision)
Variables = dict[str, Any]
Shape = tuple[int, ...]


class Entry(NamedTuple):
    """One array: its name and shape in PyTorch, its path and shape here."""
    name: str
    shape: Shape
    path: tuple[str, ...]
    ours: Shape
    channels: int  # of the map whose flattening these rows are; 0 where they are none


class Match(NamedTuple):
    """A network with the classes, input channels and auxiliary heads of some arrays, and every array it must have."""
    module: nn.Module
    image_shape: tuple[int, int, int]
    entries: list[Entry]


def _entries(name: str, module: nn.Module, image_shape: tuple[int, int, int]) -> list[Entry]:
    """Every parameter and running statistic of a network, its blocks not stacked, from the first layer to the last."""
    if type(module) not in TABLES:
        raise UserError(f"the network {name!r} has no counterpart in PyTorch's names")
    module = module.clone(scan=False) if hasattr(module, "scan") else module
    try:
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False))
    except (ValueError, TypeError, ZeroDivisionError) as e:
        if isinstance(e, UserError):
            raise
        size = "x".join(map(str, image_shape))
        raise UserError(f"the network {name!r} cannot be built for {size} images: {e}") from e
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(dict(variables)).items()}
    entries, channels = [], image_shape[-1]
    for theirs, layer in TABLES[type(module)](module, name.endswith("_d2l")):
        for leaf, their_leaf in LEAVES.items():
            path = ("batch_stats" if leaf in ("mean", "var") else "params", *layer, leaf)
            if path not in shapes:
                continue
            ours = shapes.pop(path)
            shape = tuple(ours[axis] for axis in TO_TORCH[len(ours)])
            flattened = leaf == "kernel" and layer[-1] == "dense1"  # in every family the layer after flattening
            entries.append(Entry(f"{theirs}.{their_leaf}", shape, path, ours, channels if flattened else 0))
            if len(ours) == 4:
                channels = ours[-1]
    if shapes:
        raise UserError(f"the network {name!r} with these options has layers without a name in PyTorch: "
                        f"{', '.join('/'.join(path) for path in shapes)}")
    return entries


def _refuse(what: str, wanted: dict[str, Shape], given: dict[str, Shape]) -> None:
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
    old = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.(?:weight|bias|running_mean|running_var))")
    return {old.sub(r"\1\2", key): as_array(value) for key, value in state_dict.items()
            if not key.endswith("num_batches_tracked")}


def _match(name: str, image_size: int, options: dict[str, Any], has_aux: bool,
           shape_of: Callable[[Entry], Shape | None]) -> Match:
    """The network that has the arrays at hand, as far as the first and the last layer tell.

    Args:
      has_aux: whether there are auxiliary heads among the arrays; an option `aux_logits` overrules it.
      shape_of: the shape of an entry in PyTorch's layout by the arrays at hand; None where it is not among them.
    """
    module = build(name, **options)
    if hasattr(module, "aux_logits") and options.get("aux_logits") is None:
        module = module.clone(aux_logits=has_aux)
    (height, width, channels), classes = INPUTS[name]
    size = (image_size or height, image_size or width)
    guess = module.clone(num_classes=classes), (*size, channels)
    entries = _entries(name, *guess)
    kernels = [entry for entry in entries if entry.path[-1] == "kernel" and not entry.path[1].startswith("aux")]
    first, last = shape_of(kernels[0]), shape_of(kernels[-1])
    network = (module.clone(num_classes=last[0] if last else classes),
               (*size, first[1] if first and len(first) == 4 else channels))
    return Match(*network, entries if network == guess else _entries(name, *network))


def _match_state(name: str, state_dict: Mapping[str, Any], image_size: int,
                 options: dict[str, Any]) -> tuple[Match, dict[str, np.ndarray]]:
    """The network of a state dict, and its arrays by PyTorch's names of today."""
    state = _modern_names(state_dict)
    if options.get("aux_logits") is False:
        state = {key: value for key, value in state.items() if not key.startswith("aux")}
    match = _match(name, image_size, options, any(key.startswith("aux") for key in state),
                   lambda entry: state[entry.name].shape if entry.name in state else None)
    _refuse(f"this is no state dict of {name!r}", {entry.name: entry.shape for entry in match.entries},
            {key: value.shape for key, value in state.items()})
    return match, state


def network_of(name: str, state_dict: Mapping[str, Any], *, image_size: int = 0,
               **options) -> tuple[nn.Module, tuple[int, int, int]]:
    """(network, image shape (H, W, C)) whose variables `from_torchvision` returns for the same arguments."""
    match, _ = _match_state(name, state_dict, image_size, options)
    return match.module, match.image_shape


def normalize_of(name: str, channels: int) -> str:
    """What a network's weights from PyTorch expect of pixels, in the words of config.data.normalize.

    That is ImageNet's mean and deviation for torchvision's, but [-1, 1] for its GoogLeNet: those weights came from
    TensorFlow, and torchvision turns normalised images back to that (`transform_input`).
    """
    if name not in TORCHVISION or channels != 3:
        return "unit"
    return "symmetric" if name == "googlenet" else "imagenet"


def from_torchvision(name: str, state_dict: Mapping[str, Any], *, image_size: int = 0, **options) -> Variables:
    """Our variables from a PyTorch state dict.

    Args:
      name: a network of `models.MODELS` that has the layers of one of torchvision's or of the textbook's PyTorch code.
      state_dict: PyTorch's name -> array or CPU tensor, in PyTorch's layout. Auxiliary heads may be there or not.
        `num_batches_tracked` is ignored. The number of classes and of input channels are taken from it.
      image_size: height and width of the images, where dense layers follow the flattened map without adaptive pooling
        (the textbook's AlexNet and VGG, LeNet); 0: the network's own in `models.INPUTS`.
      **options: of the network, as for `models.build`, e.g. width=0.25 or scan=True. aux_logits=False leaves out
        auxiliary heads that are there.
    Returns:
      {'params', 'batch_stats'} of float32 arrays, for `build(name, num_classes, **options)`; `aux_logits=False` there
      where the auxiliary heads were not in `state_dict`. `network_of` builds it.
    Raises:
      UserError: no such network, or entries that are missing, unexpected or of another shape: all of them, by name.
    """
    match, state = _match_state(name, state_dict, image_size, options)
    flat = {}
    for entry in match.entries:
        value = state[entry.name]
        if entry.channels:  # [out, C * H * W] -> [H * W * C, out]
            value = value.reshape(len(value), entry.channels, -1).transpose(2, 1, 0).reshape(entry.ours)
        else:
            value = value.transpose(TO_OURS[value.ndim])
        flat[entry.path] = np.array(value, np.float32, order="C")
    variables = traverse_util.unflatten_dict(flat)
    return stack_blocks(variables) if options.get("scan") else variables


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
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(unstack_blocks(variables)).items()}
    if options.get("aux_logits") is False:
        flat = {path: leaf for path, leaf in flat.items() if not path[1].startswith("aux")}

    def shape_of(entry):
        shape = flat[entry.path].shape if entry.path in flat else ()
        return tuple(shape[axis] for axis in TO_TORCH[len(shape)]) if len(shape) == len(entry.shape) else None

    match = _match(name, image_size, options, any(path[1].startswith("aux") for path in flat), shape_of)
    _refuse(f"these are no variables of {name!r}", {"/".join(entry.path): entry.ours for entry in match.entries},
            {"/".join(path): leaf.shape for path, leaf in flat.items()})
    state = {}
    for entry in match.entries:
        value = flat[entry.path]
        if entry.channels:
            value = value.reshape(-1, entry.channels, entry.shape[0]).transpose(2, 1, 0).reshape(entry.shape)
        else:
            value = value.transpose(TO_TORCH[value.ndim])
        state[entry.name] = np.array(value, order="C")
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
