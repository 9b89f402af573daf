"""Conversion between PyTorch's state dicts (torchvision's and the textbook's) and variables of our networks.

Kernels of convolutions go from [O, I, kh, kw] to [kh, kw, I, O], dense kernels from [out, in] to [in, out]. The rows of
a dense layer after a flattened map go from the order channels, height, width to height, width, channels.
"""
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from modern_cnn.errors import UserError, some
from modern_cnn.models import VARIANTS, build
from modern_cnn.weights.files import as_array
from modern_cnn.weights.names import TABLES

TORCHVISION = tuple(name for name, variant in VARIANTS.items() if variant.torchvision)  # it publishes their weights
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_TO_TORCH = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0), 1: (0,)}  # our axes in PyTorch's order, by an array's rank
_AUX = re.compile(r"(\w+/)?aux")  # how the names of auxiliary heads begin, PyTorch's and ours
_COUNTERS = ("num_batches_tracked", "n_averaged")  # of batch normalisation and of AveragedModel; nothing needs them
log = logging.getLogger(__name__)
_Shape = tuple[int, ...]
Variables = dict[str, Any]


class _Entry(NamedTuple):
    """One array: its name and shape in PyTorch, and its path and shape here."""
    name: str
    shape: _Shape
    path: str
    our_shape: _Shape
    split: _Shape  # our shape, but [H * W, C, out] where the rows are a flattened map

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        """Return the array in our layout, as float32."""
        axes = _TO_TORCH[len(self.split)]
        value = value.reshape(_permute(self.split)).transpose(np.argsort(axes)).reshape(self.our_shape)
        return np.array(value, np.float32, order="C")

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        """Return the array in PyTorch's layout."""
        return np.array(value.reshape(self.split).transpose(_TO_TORCH[len(self.split)]).reshape(self.shape), order="C")


def _permute(shape: _Shape) -> _Shape:
    """Return the shape in PyTorch of an array of ours."""
    return tuple(shape[axis] for axis in _TO_TORCH[len(shape)])


def _table(name: str, module: Any) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Return pairs (PyTorch's name of a layer, our path), some of them for layers that the network does not have."""
    if type(module) not in TABLES:
        raise UserError(f"the network {name!r} has no names in PyTorch: its weights cannot be converted")
    return TABLES[type(module)](module, name.endswith("_d2l"))


def _entries(name: str, module: Any, image_shape: tuple[int, int, int]) -> list[_Entry]:
    """Return all parameters and running statistics, from the first layer to the last, with blocks not stacked."""
    table = _table(name, module)
    module = module.clone(scan=False) if hasattr(module, "scan") else module
    try:
        variables: Any = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *image_shape))))
    except UserError:
        raise
    except (ValueError, TypeError, ZeroDivisionError) as e:
        size = "x".join(map(str, image_shape))
        raise UserError(f"the network {name!r} cannot be built for {size} images: {e}") from e
    leaves: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    entries, channels = [], image_shape[-1]
    for theirs, layer in table:
        for leaf, their_leaf in _LEAVES.items():
            path = next((path for collection in ("params", "batch_stats")
                         if (path := "/".join((collection, *layer, leaf))) in leaves), "")
            if not path:
                continue
            shape = split = leaves.pop(path).shape
            if leaf == "kernel" and layer[-1] == "dense1":  # in each family the layer after flattening
                split = (-1, channels, shape[-1])
            entries.append(_Entry(f"{theirs}.{their_leaf}", _permute(shape), path, shape, split))
            channels = shape[-1] if len(shape) == 4 else channels
    if leaves:
        raise UserError(f"the network {name!r} with these options has layers without names in PyTorch: {some(leaves)}")
    return entries


def _match(name: str, given: Mapping[str, np.ndarray], ours: bool, image_size: int | tuple[int, int],
           options: Mapping[str, Any]) -> tuple[nn.Module, tuple[int, int, int], list[_Entry]]:
    """Return (network, image shape, its arrays) for the shapes of the first and the last of the given kernels.

    `given` holds our arrays by path, or PyTorch's by name. Among them are auxiliary heads or not; the option
    `aux_logits` overrules that. Raise UserError for arrays that are missing, unexpected or of another shape.
    """
    module: Any = build(name, **options)
    shapes = {key: array.shape for key, array in given.items()
              if options.get("aux_logits") is not False or not _AUX.match(key)}
    if hasattr(module, "aux_logits") and options.get("aux_logits") is None:
        module = module.clone(aux_logits=any(map(_AUX.match, shapes)))
    (height, width, channels), classes = VARIANTS[name].image_shape, VARIANTS[name].num_classes
    size = image_size if isinstance(image_size, tuple) else (image_size or height, image_size or width)
    guess = module.clone(num_classes=classes), (*size, channels)
    entries = _entries(name, *guess)

    def shape_of(entry: _Entry) -> _Shape:  # in PyTorch; if it is not given or makes no sense, that of the guess
        shape = shapes.get(entry.path if ours else entry.name, ())
        if len(shape) != len(entry.shape):
            return entry.shape
        return _permute(shape) if ours else shape

    kernels = [entry for entry in entries if entry.path.endswith("/kernel") and not _AUX.match(entry.path)]
    network = module.clone(num_classes=shape_of(kernels[-1])[0]), (*size, shape_of(kernels[0])[1])
    entries = entries if network == guess else _entries(name, *network)
    wanted = {entry.path if ours else entry.name: entry.our_shape if ours else entry.shape for entry in entries}
    problems = {"missing": [key for key in wanted if key not in shapes],
                "unexpected": [key for key in shapes if key not in wanted],
                "of another shape": [f"{key} {[*shapes[key]]} instead of {[*shape]}" for key, shape in wanted.items()
                                     if shapes.get(key, shape) != shape]}
    found = [f"; {len(keys)} {label}: {some(keys, 130)}" for label, keys in problems.items() if keys]
    if found:
        raise UserError(f"{'these are no variables' if ours else 'this is no state dict'} of {name!r}{''.join(found)}")
    return *network, entries


def own_names(name: str, state_dict: Mapping[str, Any], **options) -> dict[str, np.ndarray]:
    """Return the arrays of a network by its own names, and log what was changed.

    One prefix of the names is taken off, under which more of the network's layers are than without it: DataParallel's
    `module.`, `_orig_mod.` of torch.compile, Lightning's `model.`, and any other. Arrays without it are left out, and
    counters too. DenseNet's names of 2017 (`norm.1.weight`) become those of today. Raise UserError if two prefixes fit.
    """
    layers = {layer for layer, _ in _table(name, build(name, **options))}
    old = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.(?:weight|bias|running_mean|running_var))")
    state = {old.sub(r"\1\2", key): as_array(value) for key, value in state_dict.items() if not key.endswith(_COUNTERS)}
    prefixes = Counter({"": 0})
    for key in state:
        parts = key.split(".")[:-1]
        prefixes.update("".join(f"{part}." for part in parts[:i]) for i in range(len(parts))
                        if ".".join(parts[i:]) in layers)
    best = [prefix for prefix, count in prefixes.items() if count == max(prefixes.values())]
    if "" in best:
        return state
    if len(best) > 1:
        raise UserError(f"the names fit {name!r} after each of the prefixes {some(best)}: keep the arrays of one alone")
    kept = {key.removeprefix(best[0]): value for key, value in state.items() if key.startswith(best[0])}
    others = [key for key in state if not key.startswith(best[0])]
    log.info("the names of the weights begin with %r, which is left out%s", best[0],
             f"; so are the arrays without it: {some(others)}" if others else "")
    return kept


def matching_network(name: str, state_dict: Mapping[str, Any], *, image_size: int | tuple[int, int] = 0,
                     **options) -> tuple[nn.Module, tuple[int, int, int]]:
    """Return (network, image shape (H, W, C)) for the variables that `from_torchvision` returns for these arguments."""
    return _match(name, own_names(name, state_dict, **options), False, image_size, options)[:2]


def expected_normalize(name: str, channels: int) -> str:
    """Return the value of config.data.normalize that a network's weights from PyTorch expect.

    It is 'imagenet' for torchvision's weights, except 'symmetric' ([-1, 1]) for GoogLeNet: those weights came from
    TensorFlow, and torchvision maps normalised images back to that range (`transform_input`). It is 'symmetric' too for
    MobileNet, as timm's weights have it, and 'unit' for others.
    """
    if channels == 3 and name in ("googlenet", "mobilenet_v1"):
        return "symmetric"
    return "imagenet" if channels == 3 and name in TORCHVISION else "unit"


def from_torchvision(name: str, state_dict: Mapping[str, Any], *, image_size: int | tuple[int, int] = 0,
                     **options) -> Variables:
    """Return our variables {'params', 'batch_stats'}, float32, for a PyTorch state dict.

    They are those of the network that `matching_network` returns. Raise UserError if the network is unknown, or arrays
    are missing, unexpected or of another shape; the message has the first of them.

    Args:
      name: a key of `models.MODELS` whose layers are those of torchvision's network, or of the textbook's in PyTorch.
      state_dict: PyTorch's name -> array or CPU tensor, in PyTorch's layout, with auxiliary heads or without. Its
        arrays determine the number of classes and of input channels. `own_names` says what it does with prefixes.
      image_size: side of the images or their (height, width), for networks with a dense layer after the flattened map
        and no adaptive pooling (LeNet, the textbook's AlexNet and VGG); 0: the size that the network was published for.
      **options: as for `models.build`, e.g. width=0.25 or scan=True. aux_logits=False leaves out the auxiliary heads of
        `state_dict`; by default the network has them if `state_dict` does.
    """
    state = own_names(name, state_dict, **options)
    *_, entries = _match(name, state, False, image_size, options)
    variables = unflatten_dict({entry.path: entry.to_ours(state[entry.name]) for entry in entries}, "/")
    return stack_blocks(variables) if options.get("scan") else variables


def to_torchvision(name: str, variables: Mapping[str, Any], *, image_size: int | tuple[int, int] = 0,
                   **options) -> dict[str, np.ndarray]:
    """Return the PyTorch state dict for our variables: the inverse of `from_torchvision`, to the bit.

    `variables` are as from `init`, with auxiliary heads or without, blocks stacked (`scan=True`) or not; the other
    arguments and the errors are those of `from_torchvision`. The arrays are in PyTorch's layout. `num_batches_tracked`
    is left out: `load_state_dict` does not need it.
    """
    flat = {path: np.asarray(leaf) for path, leaf in flatten_dict(unstack_blocks(variables), sep="/").items()}
    *_, entries = _match(name, flat, True, image_size, options)
    return {entry.name: entry.to_torch(flat[entry.path]) for entry in entries}


def stack_blocks(variables: Mapping[str, Any]) -> Variables:
    """Return variables for `scan=True`: `stage2_block2`, `stage2_block3`, ... stacked as `stage2_blocks`."""
    stacked, blocks = {}, {}
    for (collection, layer, *rest), leaf in flatten_dict(dict(variables)).items():
        match = re.fullmatch(r"(stage\d+_block)(\d+)", layer)
        if match and int(match[2]) > 1:
            blocks.setdefault((collection, f"{match[1]}s", *rest), {})[int(match[2])] = leaf
        else:
            stacked[collection, layer, *rest] = leaf
    for path, leaves in blocks.items():
        stacked[path] = np.stack([leaves[number] for number in sorted(leaves)])
    return {key: {} for key in variables} | unflatten_dict(stacked)  # a collection may be empty


def unstack_blocks(variables: Mapping[str, Any]) -> Variables:
    """Return variables for `scan=False`: the inverse of `stack_blocks`. Other variables are returned as they are."""
    unstacked = {}
    for (collection, layer, *rest), leaf in flatten_dict(dict(variables)).items():
        if re.fullmatch(r"stage\d+_blocks", layer):
            for number, block in enumerate(np.asarray(leaf), start=2):
                unstacked[collection, f"{layer.removesuffix('s')}{number}", *rest] = block
        else:
            unstacked[collection, layer, *rest] = leaf
    return {key: {} for key in variables} | unflatten_dict(unstacked)  # a collection may be empty
