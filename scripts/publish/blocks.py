"""The layers of a block or a network and their connections, read from its traced program and written as a diagram."""
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from string import digits
from typing import Any, NamedTuple

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
# Kind and label of an equation outside of layers; `add` and `concatenate` of one image are none.
_OPERATIONS = {"relu": ("activation", "ReLU"), "logistic": ("activation", "sigmoid"), "add": ("add", "+"),
               "concatenate": ("concat", "concatenate channels"), "pad": ("pad", "zeros for new channels")}
_COLORS = {"conv": "#cfe2f7", "dense": "#e2d5f0", "pool": "#cfeccf", "norm": "#fdecb3", "activation": "#fbd5c1",
           "add": "#fff", "concat": "#e6e6e6", "pad": "#e6e6e6", "module": "#d9e7ee"}
_ATTACHED = {"norm", "activation"}  # share the box of a layer beside them, which is one of these kinds:
_LAYERS = {"conv", "dense", "pool", *_ATTACHED}


@dataclass
class Node:
    """A layer, an activation, a sum or a concatenation; or a whole module, drawn as one box."""
    kind: str  # a key of _COLORS, or input
    label: str
    shape: tuple[int, ...]  # of its output, without the batch
    inputs: list[int] = field(default_factory=list)  # numbers of the nodes that its inputs come from
    convolutions: list[str] = field(default_factory=list)  # inside of a whole module


class Panel(NamedTuple):
    """A column of a diagram: what `trace` takes, and the title above it."""
    title: str
    module: nn.Module
    image_shape: Sequence[int]
    whole: str = ""


def draw(panels: Sequence[Panel]) -> str:
    """Return panels side by side as a Mermaid diagram, in a fence that documentation sites show as a picture."""
    lines = ["```mermaid", "flowchart LR"]
    for n, panel in enumerate(panels):
        boxes = _boxes(trace(*panel[1:]), f"p{n}n")
        lines += [f'subgraph p{n}["{escape(panel.title)}"]', "direction TB", *boxes, "end"]
    lines += [" ~~~ ".join(f"p{n}" for n in range(len(panels)))]  # keeps their order
    lines += [f"classDef {kind} fill:{color},stroke:#444,color:#000" for kind, color in _COLORS.items()]
    return "\n".join([*lines, "classDef shape fill:none,stroke:none", "```"])


def _boxes(nodes: Sequence[Node], prefix: str) -> list[str]:
    """Return a line for each box and each arrow of a panel; arrows between layers have the shape of the array.

    Normalisation and activation share the box of the layer before them, or after them if the block begins with a norm.
    """
    uses, first = Counter(i for node in nodes for i in node.inputs), nodes[1].kind == "norm"
    home, texts, kinds, arrows = {}, {}, {}, []  # the number of a node's box; by that number, its lines and its colour
    for n, node in enumerate(nodes):
        home[n], before = n, nodes[node.inputs[0]] if len(node.inputs) == 1 and uses[node.inputs[0]] == 1 else None
        if before and {before.kind, node.kind} <= _LAYERS and (before if first else node).kind in _ATTACHED:
            home[n] = home[node.inputs[0]]
        else:
            arrows += [(home[i], n, f'|"{shape_text(nodes[i].shape)}"|' if i else "") for i in node.inputs]
        texts.setdefault(home[n], []).extend(node.label.split("\n"))
        if home[n] == n or node.kind not in _ATTACHED:
            kinds[home[n]] = node.kind
    lines = [f'{prefix}0["{shape_text(nodes[0].shape)}"]:::shape']
    for n, text in list(texts.items())[1:]:
        opening, closing = ('(("', '"))') if kinds[n] == "add" else ('["', '"]')
        lines.append(f"{prefix}{n}{opening}{'<br>'.join(map(escape, text))}{closing}:::{kinds[n]}")
    lines += [f"{prefix}{i} -->{shape} {prefix}{n}" for i, n, shape in arrows]
    return [*lines, f'{prefix}{home[len(nodes) - 1]} --> {prefix}{len(nodes)}["{shape_text(nodes[-1].shape)}"]:::shape']


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text: (28, 28, 6) -> '28x28x6'."""
    return "x".join(map(str, shape))


def trace(module: nn.Module, image_shape: Sequence[int], whole: str = "") -> list[Node]:
    """Return the nodes of a module for one image (height, width, channels) in evaluation, in the order of computation.

    The module is a block or a network of one input. With `whole` 'block', each module block1, block2, ... is one node.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    program = traced.trace(module.apply, variables, images)
    params = flatten_dict(variables["params"])
    layers = {path[:-1]: "norm" if (*path[:-1], "scale") in params else "layer" for path in params}
    layers |= {path[:i + 1]: "module" for path in params for i, name in enumerate(path) if name.rstrip(digits) == whole}
    graph = _Graph(layers, tuple(image_shape))
    graph.run(program, [None] * len(jax.tree.leaves(variables)) + [0])
    return graph.nodes


class _Graph(Interpreter[int | None]):
    """The nodes of a program. A value is the number of the node that made it, or None where no image is in it."""

    def __init__(self, layers: dict[Path, str], shape: tuple[int, ...]):
        """Start with the input's node. `layers` says the kind of the modules that are nodes, by their paths."""
        self.layers, self.nodes = layers, [Node("input", "", shape)]
        self.modules = {path[:i] for path in layers for i in range(len(path) + 1)}
        self.last, self.last_window = None, False  # the layer of the last equation; whether that has had its window

    def visit(self, eqn: JaxprEqn, inputs: list[int | None], place: Place) -> list[int | None]:
        if traced.inner(eqn) and not traced.is_relu(eqn):
            return self.enter(eqn, inputs, place)
        sources = list(dict.fromkeys(i for i in inputs if i is not None))
        return [self.node(eqn, sources, place) if sources else None] * len(eqn.outvars)

    def node(self, eqn: Any, sources: list[int], place: Place) -> int:
        """Return the node of an equation: that of its layer, a new one, or the one that its input comes from."""
        (owner, kind), label, node = self.layer(place), "", self.nodes[-1]
        primitive = "relu" if traced.is_relu(eqn) else eqn.primitive.name
        if owner is None:
            if primitive not in _OPERATIONS or (primitive in ("add", "concatenate") and len(sources) == 1):
                return sources[0]  # a reshape or the like
            kind, label = _OPERATIONS[primitive]
        window = kind == "pool" and primitive.startswith("reduce_window")
        if owner is None or owner != self.last or (window and self.last_window):  # two poolings in a row are two
            node, self.last_window = Node(kind, label, ()), False
            self.nodes.append(node)
        self.last, self.last_window = owner, self.last_window or window
        number = len(self.nodes) - 1
        node.shape = eqn.outvars[0].aval.shape[1:]
        node.inputs += [i for i in sources if i != number and i not in node.inputs]
        if owner is not None:
            _describe(node, eqn, owner[-1])
        return number

    def layer(self, place: Place) -> tuple[Path | None, str]:
        """Return the layer, function or whole module that an equation is inside of, or None, and its kind."""
        module, function = place.owner(self.modules, _FUNCTIONS)
        for end in range(1, len(module) + 1):
            if module[:end] in self.layers:
                return module[:end], self.layers[module[:end]]
        kind = "norm" if function == "local_response_norm" else "pool"
        return ((*module, function), kind) if function else (None, "")


def _describe(node: Node, eqn: Any, name: str) -> None:
    """Write what an equation says about its layer into the layer's node; `name` is the module's or the function's."""
    primitive, params, shape = eqn.primitive.name, eqn.params, node.shape
    convolution = _convolution(eqn) if primitive == "conv_general_dilated" else ""
    if node.kind == "module":  # 'stage1_block2' is stage 1, block 2
        node.convolutions += [convolution] * bool(convolution)
        counts = Counter(node.convolutions)
        inside = [label + {1: "", 2: " (twice)"}.get(count, f" ({count} times)") for label, count in counts.items()]
        node.label = "\n".join([re.sub(r"(?<=[a-z])(?=\d)", " ", name).replace("_", ", "), *(
            inside if len(counts) < 3 else [f"{counts.total()} convolutions"])])
    elif convolution:
        node.kind, node.label = "conv", convolution
    elif primitive == "dot_general" and node.kind != "pool":
        node.kind, node.label = "dense", f"dense, {shape[-1]}"
    elif node.kind == "norm":
        node.label = _FUNCTIONS.get(name, "batch norm")
    elif primitive.startswith("reduce_window"):
        height, stride = params["window_dimensions"][1], params["window_strides"][1]
        node.label = f"{height}x{height} {_FUNCTIONS[name]}" + (f", stride {stride}" if stride > 1 else "")
    elif node.kind == "pool" and not node.label:
        node.label = _FUNCTIONS[name] + (f" to {shape[0]}x{shape[1]}" if name == "adaptive_avg_pool" else "")


def _convolution(eqn: Any) -> str:
    """Return the label of a convolution: '3x3 conv, 64, stride 2'."""
    kernel, spec = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
    stride, groups = eqn.params["window_strides"][0], eqn.params["feature_group_count"]
    label = f"{kernel[spec[2]]}x{kernel[spec[3]]} conv, {kernel[spec[0]]}"
    return label + (f", stride {stride}" if stride > 1 else "") + (f", {groups} groups" if groups > 1 else "")
