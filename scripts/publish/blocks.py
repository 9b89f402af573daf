"""A block or a network as boxes and arrows, read from its traced program: what is drawn is what is computed.

`trace` finds the layers and where their inputs come from, `modern_cnn.analysis.drawing` draws them.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import Jaxpr, Literal, jaxprs_in_params

from modern_cnn.functional import formulations

# Layers without variables, by the scope that functional/ gives them and by the primitive that computes them.
POOLS = {"max_pool": "max-pool", "avg_pool": "average pool", "global_avg_pool": "global average pool",
         "adaptive_avg_pool": "average pool", "local_response_norm": "local response norm"}
ACTIVATIONS = {"custom_jvp_call": "ReLU", "logistic": "sigmoid"}


@dataclass
class Node:
    """A layer, an activation, a sum or a concatenation; or a whole module, drawn as one box."""
    kind: str  # input, conv, dense, pool, norm, activation, add, concat, pad, module
    label: str
    shape: tuple[int, ...]  # of its output, without the batch
    inputs: list[int] = field(default_factory=list)  # the nodes that its inputs come from, by number


def trace(module: nn.Module, image_shape: Sequence[int], whole: Sequence[type[nn.Module]] = ()) -> list[Node]:
    """The nodes of `module` on one image [1, *image_shape] in evaluation, in the order in which they are computed.

    Args:
      module: a block, or a network: anything that takes one array and returns one.
      image_shape: (height, width, channels).
      whole: modules of these classes are one node each.
    """
    classes = {}

    def remember(call, args, kwargs, context):
        classes[context.module.path] = type(context.module)
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(remember), formulations.platform("gpu"):  # where every layer is one operation
        variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
        jaxpr = jax.make_jaxpr(lambda v, x: module.apply(v, x))(variables, images)
    params = flatten_dict(variables["params"])
    layers = {path[:-1]: "norm" if (*path[:-1], "scale") in params else "layer" for path in params}
    layers |= {path: "module" for path, kind in classes.items() if issubclass(kind, tuple(whole))}
    reader = _Reader(layers, tuple(image_shape))
    reader.read(jaxpr.jaxpr, [None] * len(jax.tree.leaves(variables)) + [0])
    return reader.nodes


class _Reader:
    """Reads equations in order; a value is the number of the node that made it, or None where no image is in it."""

    def __init__(self, layers: dict[tuple[str, ...], str], shape: tuple[int, ...]):
        self.layers = layers
        self.parts = {path[:i] for path in layers for i in range(len(path) + 1)}
        self.nodes = [Node("input", "", shape)]
        self.open = None  # the layer that the last equation belonged to, and so its node
        self.open_window = False  # whether that has had its window
        self.inside: dict[int, list[str]] = {}  # of a module drawn as one box: its convolutions

    def read(self, jaxpr: Jaxpr, inputs: Sequence[int | None], stack: tuple[str, ...] = ()) -> list[int | None]:
        """The values of its outputs. `stack` is the name stack around it."""
        values = dict(zip(jaxpr.invars, inputs, strict=True))
        for eqn in jaxpr.eqns:
            names = (*stack, *str(eqn.source_info.name_stack).split("/"))
            ins = [None if isinstance(atom, Literal) else values.get(atom) for atom in eqn.invars]
            inner = list(jaxprs_in_params(eqn.params))
            if len(inner) == 1 and eqn.primitive.name not in ACTIVATIONS and len(inner[0].invars) == len(ins):
                outs = self.read(inner[0], ins, names)
            else:
                outs = [self.enter(eqn, ins, names)] * len(eqn.outvars)
            values.update(zip(eqn.outvars, outs, strict=True))
        return [None if isinstance(atom, Literal) else values.get(atom) for atom in jaxpr.outvars]

    def enter(self, eqn, ins: list[int | None], names: tuple[str, ...]) -> int | None:
        """The node that an equation belongs to: that of its layer, a new one, or the one its input comes from."""
        sources = list(dict.fromkeys(i for i in ins if i is not None))
        if not sources:
            return None
        owner, kind = self.place(names)
        primitive, shape = eqn.primitive.name, eqn.outvars[0].aval.shape[1:]
        if owner is None and primitive in ACTIVATIONS:
            kind, label = "activation", ACTIVATIONS[primitive]
        elif owner is None and primitive in ("add", "concatenate") and len(sources) > 1:
            kind, label = ("add", "+") if primitive == "add" else ("concat", "concatenate channels")
        elif owner is None and primitive == "pad":
            kind, label = "pad", "zeros for new channels"
        elif owner is None:
            return sources[0]  # a reshape or the like
        else:
            label = ""
        window = kind == "pool" and primitive.startswith("reduce_window")
        if owner is None or owner != self.open or (window and self.open_window):  # two poolings in a row are two
            self.nodes.append(Node(kind, label, shape))
            self.open_window = False
        self.open, self.open_window = owner, self.open_window or window
        number = len(self.nodes) - 1
        node = self.nodes[number]
        node.shape = shape
        node.inputs += [i for i in sources if i != number and i not in node.inputs]
        if owner is not None:
            self.describe(node, number, eqn, owner)
        return number

    def place(self, names: tuple[str, ...]) -> tuple[tuple[str, ...] | None, str]:
        """The layer, function or whole module that a name stack is inside of, and its kind."""
        path = ()
        for name in names:
            name = name.partition(".")[0]
            if (*path, name) in self.parts:
                path = (*path, name)
                if path in self.layers:
                    return path, self.layers[path]
            elif name in POOLS:
                return (*path, name), "norm" if name.endswith("norm") else "pool"
        return None, ""

    def describe(self, node: Node, number: int, eqn, owner: tuple[str, ...]) -> None:
        """Writes what an equation tells about its layer."""
        primitive, params = eqn.primitive.name, eqn.params
        if node.kind == "module":
            convs = self.inside.setdefault(number, [])
            if primitive == "conv_general_dilated":
                convs.append(_convolution(eqn))
            node.label = "\n".join([_words(owner[-1]), *_counted(convs)])
        elif primitive == "conv_general_dilated":
            node.kind, node.label = "conv", _convolution(eqn)
        elif primitive == "dot_general" and node.kind != "pool":
            node.kind, node.label = "dense", f"dense, {node.shape[-1]}"
        elif node.kind == "norm":
            node.label = POOLS.get(owner[-1], "batch norm")
        elif primitive.startswith("reduce_window"):
            height, stride = params["window_dimensions"][1], params["window_strides"][1]
            node.label = f"{height}x{height} {POOLS[owner[-1]]}" + (f", stride {stride}" if stride > 1 else "")
        elif node.kind == "pool" and not node.label:
            node.label = POOLS[owner[-1]] + (f" to {node.shape[0]}x{node.shape[1]}" if owner[-1][0] == "a" else "")


def _convolution(eqn) -> str:
    """'3x3 conv, 64, stride 2'."""
    kernel, spec = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
    stride, groups = eqn.params["window_strides"][0], eqn.params["feature_group_count"]
    label = f"{kernel[spec[2]]}x{kernel[spec[3]]} conv, {kernel[spec[0]]}"
    return label + (f", stride {stride}" if stride > 1 else "") + (f", {groups} groups" if groups > 1 else "")


def _counted(labels: list[str]) -> list[str]:
    """Each label once with how often it is there; of more than two different ones their number alone."""
    counts = {label: labels.count(label) for label in labels}
    if len(counts) > 2:
        return [f"{len(labels)} convolutions"]
    return [label + (" (twice)" if count == 2 else f" ({count} times)" if count > 2 else "")
            for label, count in counts.items()]


def _words(name: str) -> str:
    """'stage1_block2' -> 'stage 1, block 2'; 'inception3a' -> 'inception 3a'."""
    return ", ".join(re.sub(r"(?<=[a-z])(?=\d)", " ", part) for part in name.split("_"))
