"""From a PyTorch state dict of a plain Sequential to our variables, for the networks that are one chain of layers."""
import numpy as np


def our_names(shapes):
    """{PyTorch name: (collection, layer, leaf)}: the n-th convolution is conv<n>, and so with dense and norm."""
    kinds, numbers, names = {4: "conv", 2: "dense", 1: "norm"}, {}, {}
    for name, shape in shapes.items():
        leaf = name.rpartition(".")[2]
        if leaf == "weight":
            kind = kinds[len(shape)]
            numbers[kind] = numbers.get(kind, 0) + 1
        collection = "batch_stats" if leaf.startswith("running") else "params"
        ours = {"weight": "scale" if kind == "norm" else "kernel", "bias": "bias", "running_mean": "mean",
                "running_var": "var"}.get(leaf)
        if ours:
            names[name] = (collection, f"{kind}{numbers[kind]}", ours)
    return names


def our_variables(state):
    """{'params': ..., 'batch_stats': ...} from {PyTorch name: array}; gradients by the same names convert likewise."""
    shapes = {name: np.shape(value) for name, value in state.items()}
    channels = [shape[0] for shape in shapes.values() if len(shape) == 4]
    variables = {}
    for name, (collection, layer, leaf) in our_names(shapes).items():
        value = np.asarray(state[name])
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        elif layer == "dense1" and leaf == "kernel" and channels:
            rows = value.reshape(len(value), channels[-1], -1)  # PyTorch flattens C, H, W; we flatten H, W, C
            value = rows.transpose(2, 1, 0).reshape(-1, len(value))
        elif value.ndim == 2:
            value = value.T
        variables.setdefault(collection, {}).setdefault(layer, {})[leaf] = value
    return variables
