"""The names that PyTorch and the golden arrays have for our variables."""
import re

import numpy as np

from modern_cnn import weights
from tests.golden.weights import golden_state
from tests.models.torch_nets import torch_net

# These chains have no table in `weights`: their n-th convolution in PyTorch's order is conv<n>, and so on.
CHAINS = ("mlp", "lenet_relu", "lenet_relu_bn")
LEAVES = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}

# The files of golden arrays, and their networks.
STORED = {"d2l_lenet": "lenet", "d2l_bn_lenet": "lenet_bn", "seed_lenet": "lenet_relu", "alexnet_s96": "alexnet",
          "seed_vgg13": "vgg13_cifar", "resnet18": "resnet18", "d2l_resnet18": "resnet18_d2l",
          "seed_resnet18": "resnet18_cifar"}
# The golden arrays of two networks of the TensorFlow text were made under other names than torchvision's.
RENAMED = {
    "resnet18_cifar": {r"^conv1\.": "0.0.", r"^bn1\.": "0.1.", r"^layer(.*\.conv\d)\.": r"\1.m.", r"^layer": "",
                       r"downsample\.0": "down", r"^fc": "7"},
    "vgg13_cifar": {r"^features\.": "", r"^classifier\.0": "26", r"^classifier\.3": "28", r"^classifier\.6": "30"},
}


def published_name(network, key):
    """Return a parameter's name in the state dict that the golden arrays belong to."""
    for pattern, name in RENAMED.get(network, {}).items():
        key = re.sub(pattern, name, key)
    return key


def golden_weights(name, twin, seed=0):
    """Return ({name in the golden arrays: PyTorch's}, state dict of PyTorch's network by the golden rule)."""
    names = {published_name(name, key): key for key in twin.state_dict()}
    state = golden_state({published: twin.state_dict()[key].shape for published, key in names.items()}, seed)
    return names, {names[published]: value for published, value in state.items()}


def chain_paths(name):
    """Return {PyTorch's name: (our path, channels of the map that the layer flattens, or 0)} of a chain."""
    numbers, paths, channels = {"conv": 0, "dense": 0, "norm": 0}, {}, 0
    for key, tensor in torch_net(name, in_channels=1).state_dict().items():
        leaf = key.rpartition(".")[2]
        if leaf == "weight":
            kind = {4: "conv", 2: "dense", 1: "norm"}[tensor.ndim]
            numbers[kind] += 1
        layer, flattened = f"{kind}{numbers[kind]}", 0
        if leaf == "weight" and kind == "conv":
            channels = len(tensor)
        elif leaf == "weight" and layer == "dense1":
            flattened = channels
        ours = "scale" if (kind, leaf) == ("norm", "weight") else LEAVES.get(leaf)
        if ours:
            paths[key] = ("batch_stats" if ours in ("mean", "var") else "params", layer, ours), flattened
    return paths


def to_ours(name, state, **options):
    """Return our variables for a PyTorch state dict."""
    if name not in CHAINS:
        return weights.from_torchvision(name, state, **options)
    variables = {}
    for key, ((collection, layer, leaf), channels) in chain_paths(name).items():
        value = np.asarray(state[key])
        if channels:  # PyTorch flattens channels, height, width; we flatten height, width, channels
            value = value.reshape(len(value), channels, -1).swapaxes(1, 2).reshape(len(value), -1)
        value = value.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim])
        variables.setdefault(collection, {}).setdefault(layer, {})[leaf] = value
    return variables


def to_torch(name, variables, **options):
    """Return the PyTorch state dict for our variables, without a change of dtype."""
    if name not in CHAINS:
        return weights.to_torchvision(name, variables, **options)
    state = {}
    for key, ((collection, layer, leaf), channels) in chain_paths(name).items():
        value = np.asarray(variables[collection][layer][leaf])
        value = value.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim])
        if channels:
            value = value.reshape(len(value), -1, channels).swapaxes(1, 2).reshape(len(value), -1)
        state[key] = value
    return state
