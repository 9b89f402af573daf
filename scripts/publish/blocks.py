"""The layers of a block or a network and their connections, read from its traced program and drawn by `drawing`."""
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import JaxprEqn

from modern_cnn.inspection import traced
from modern_cnn.inspection.traced import Interpreter, Path, Place

# Labels of layers without variables, by the name scope that functional/ gives them.
_FUNCTIONS = {"max_pool": "max-pool", "avg_pool": "average pool", "global_avg_pool": "global average pool",
              "adaptive_avg_pool": "average pool", "local_response_norm": "local response norm"}


@dataclass
class Node:
    """A layer, an activation, a sum or a concatenation; or a whole module, drawn as one box."""
    kind: str  # input, conv, dense, pool, norm, activation, add, concat, pad, module
    label: str
    shape: tuple[int, ...]  # of its output, without the batch
    inputs: list[int] = field(default_factory=list)  # numbers of the nodes that its inputs come from


def trace(module: nn.Module, image_shape: Sequence[int], whole: Sequence[type[nn.Module]] = ()) -> list[Node]:
    """Return the nodes of a module for one image in evaluation, in the order in which they are computed.

    Args:
      module: a block or a network that takes one array and returns one.
      image_shape: (height, width, channels).
      whole: classes of modules that are to be one node each.
    """
    classes = {}

    def remember(call, args, kwargs, context):
        classes[context.module.path] = type(context.module)
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(remember):
        variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
        program = traced.trace(module.apply, variables, images)
    params = flatten_dict(variables["params"])
    layers = {path[:-1]: "norm" if (*path[:-1], "scale") in params else "layer" for path in params}
    layers |= {path: "module" for path, kind in classes.items() if issubclass(kind, tuple(whole))}
    graph = _Graph(layers, tuple(image_shape))
    graph.run(program, [None] * len(jax.tree.leaves(variables)) + [0])
    return graph.nodes


class _Graph(Interpreter[int | None]):
    """The nodes of a program. A value is the number of the node that made it, or None where no image is in it."""

    def __init__(self, layers: dict[Path, str], shape: tuple[int, ...]):
        """Start with the input's node. `layers` says the kind of the modules that are nodes, by their paths."""
        self.layers = layers
        self.modules = {path[:i] for path in layers for i in range(len(path) + 1)}
        self.nodes = [Node("input", "", shape)]
        self.last = None  # the layer that the last equation belonged to
        self.last_window = False  # whether that has had its window
        self.convolutions: dict[int, list[str]] = {}  # in each module that is one node

    def visit(self, eqn: JaxprEqn, inputs: list[int | None], place: Place) -> list[int | None]:
        if traced.inner(eqn) and not traced.is_relu(eqn):
            return self.enter(eqn, inputs, place)
        sources = list(dict.fromkeys(i for i in inputs if i is not None))
        return [self.node(eqn, sources, place) if sources else None] * len(eqn.outvars)

    def node(self, eqn: Any, sources: list[int], place: Place) -> int:
        """Return the node of an equation: that of its layer, a new one, or the one that its input comes from."""
        owner, kind = self.layer(place)
        primitive, shape, label = eqn.primitive.name, eqn.outvars[0].aval.shape[1:], ""
        if owner is None and traced.is_relu(eqn):
            kind, label = "activation", "ReLU"
        elif owner is None and primitive == "logistic":
            kind, label = "activation", "sigmoid"
        elif owner is None and primitive in ("add", "concatenate") and len(sources) > 1:
            kind, label = ("add", "+") if primitive == "add" else ("concat", "concatenate channels")
        elif owner is None and primitive == "pad":
            kind, label = "pad", "zeros for new channels"
        elif owner is None:
            return sources[0]  # a reshape or the like
        window = kind == "pool" and primitive.startswith("reduce_window")
        if owner is None or owner != self.last or (window and self.last_window):  # two poolings in a row are two
            self.nodes.append(Node(kind, label, shape))
            self.last_window = False
        self.last, self.last_window = owner, self.last_window or window
        number = len(self.nodes) - 1
        node = self.nodes[number]
        node.shape = shape
        node.inputs += [i for i in sources if i != number and i not in node.inputs]
        if owner is not None:
            self.describe(node, number, eqn, owner)
        return number

    def layer(self, place: Place) -> tuple[Path | None, str]:
        """Return the layer, function or whole module that an equation is inside of, or None, and its kind."""
        module, function = place.owner(self.modules, _FUNCTIONS)
        for end in range(1, len(module) + 1):
            if module[:end] in self.layers:
                return module[:end], self.layers[module[:end]]
        if function:
            return (*module, function), "norm" if function.endswith("norm") else "pool"
        return None, ""

    def describe(self, node: Node, number: int, eqn: Any, owner: Path) -> None:
        """Write what an equation says about its layer into the layer's node."""
        primitive, params = eqn.primitive.name, eqn.params
        if node.kind == "module":
            convs = self.convolutions.setdefault(number, [])
            if primitive == "conv_general_dilated":
                convs.append(_convolution(eqn))
            node.label = "\n".join([_words(owner[-1]), *_counted(convs)])
        elif primitive == "conv_general_dilated":
            node.kind, node.label = "conv", _convolution(eqn)
        elif primitive == "dot_general" and node.kind != "pool":
            node.kind, node.label = "dense", f"dense, {node.shape[-1]}"
        elif node.kind == "norm":
            node.label = _FUNCTIONS.get(owner[-1], "batch norm")
        elif primitive.startswith("reduce_window"):
            height, stride = params["window_dimensions"][1], params["window_strides"][1]
            node.label = f"{height}x{height} {_FUNCTIONS[owner[-1]]}" + (f", stride {stride}" if stride > 1 else "")
        elif node.kind == "pool" and not node.label:
            node.label = _FUNCTIONS[owner[-1]] + (f" to {node.shape[0]}x{node.shape[1]}" if owner[-1][0] == "a" else "")


def _convolution(eqn: Any) -> str:
    """Return the label of a convolution: '3x3 conv, 64, stride 2'."""
    kernel, spec = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
    stride, groups = eqn.params["window_strides"][0], eqn.params["feature_group_count"]
    label = f"{kernel[spec[2]]}x{kernel[spec[3]]} conv, {kernel[spec[0]]}"
    return label + (f", stride {stride}" if stride > 1 else "") + (f", {groups} groups" if groups > 1 else "")


def _counted(labels: list[str]) -> list[str]:
    """Return each label once, with its number; of more than two different ones only how many there are."""
    counts = {label: labels.count(label) for label in labels}
    if len(counts) > 2:
        return [f"{len(labels)} convolutions"]
    return [label + (" (twice)" if count == 2 else f" ({count} times)" if count > 2 else "")
            for label, count in counts.items()]


def _words(name: str) -> str:
    """Return a module's name as words: 'stage1_block2' -> 'stage 1, block 2'; 'inception3a' -> 'inception 3a'."""
    return ", ".join(re.sub(r"(?<=[a-z])(?=\d)", " ", part) for part in name.split("_"))
