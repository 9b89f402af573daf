"""What a network is made of, layer by layer: shapes, parameters, multiply-accumulates, memory and receptive field.

The network is traced on shapes alone (no weights are made, nothing is computed) and the jaxpr is read: the module that
an equation belongs to stands in its name stack, where Flax writes the path. Reading equations instead of layers counts
what is computed: pooling by a function is in the table, a block that is scanned over counts as often as it runs, and a
convolution may be written as a matrix product.
"""
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import Jaxpr, Literal, jaxprs_in_params

from modern_cnn.errors import UserError
from modern_cnn.functional import formulations
from modern_cnn.inspection import receptive_field as receptive
from modern_cnn.inspection.receptive_field import View

Path = tuple[str, ...]
Value = tuple[View, View] | int | None  # of the image: what it sees; of a weight: the weight's rank; None: a constant

# Layers without variables: by the name scope that functional/ gives them, and by equation where a network does without.
FUNCTIONS = {"max_pool": "pool", "avg_pool": "pool", "global_max_pool": "pool", "global_avg_pool": "pool",
             "adaptive_avg_pool": "pool", "local_response_norm": "norm"}
REDUCTIONS = {"reduce_window_max": "max_pool", "reduce_window_sum": "avg_pool", "reduce_max": "global_max_pool",
              "reduce_sum": "global_avg_pool"}
PIXEL = (View(0, 1, (0, 1, 0, 0)), View(0, 1, (0, 0, 1, 0)))  # what a value of the images themselves sees
KERNELS = {2: "dense", 4: "conv", 6: "local"}  # what a layer is, by the rank of its kernel


@dataclass
class Row:
    """A layer, or parameters that no layer uses. For one image, and for all `calls` of the layer together."""
    name: str  # path of the module; of the calling module and the function where it is one
    kind: str  # conv, dense, local (unshared weights), norm, pool, product (of two activations), other, unused
    output_shape: tuple[int, ...] | None = None  # without the batch
    params: int = 0
    bn_running_scalars: int = 0
    macs: int = 0  # multiply-accumulates of convolutions and matrix products; no bias, normalisation or activation
    activation_bytes: int = 0  # of the output
    receptive_field: tuple[int | str, int | str] | None = None  # height and width in pixels; 'all': the whole image
    stride: tuple[int, int] | None = None  # pixels of the image from one output to the next; 0 where each sees all
    calls: int = 0  # above 1 where a scan repeats the layer


@dataclass
class Summary:
    """The totals; and the layers in the order in which they run, then the parameters that do not."""
    image_shape: tuple[int, int, int]
    params: int
    norm_params: int  # those of them that normalise
    param_bytes: int
    bn_running_scalars: int
    macs: int
    activation_bytes: int
    receptive_field: tuple[int, int] | None  # the largest that is not the whole image
    layers: list[Row]


def summarize(module: nn.Module, image_shape: Sequence[int]) -> Summary:
    """What `module.apply(variables, images, train=False)` does for one image.

    Args:
      module: a network as `models.build` makes them.
      image_shape: (height, width, channels).
    Raises:
      UserError: the network cannot take such images, or what it computes depends on their content.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
        with formulations.platform("gpu"):  # where every layer is one operation
            jaxpr = jax.make_jaxpr(lambda v, x: module.apply(v, x, train=False))(variables, images)
    except (ValueError, TypeError, AttributeError, ArithmeticError, MemoryError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"the network cannot be built for {'x'.join(map(str, image_shape))} images: {e}") from e
    reader = _Reader({path[:-1] for collection in variables.values() for path in flatten_dict(collection)})
    reader.read(jaxpr.jaxpr, [leaf.ndim for leaf in jax.tree.leaves(variables)] + [PIXEL])
    params, stats = (flatten_dict(variables.get(kind, {})) for kind in ("params", "batch_stats"))
    rows = reader.finish(params, stats, type(module).__name__)
    fields = [row.receptive_field for row in rows if row.receptive_field and "all" not in row.receptive_field]
    return Summary(
        image_shape=tuple(image_shape),
        params=sum(leaf.size for leaf in params.values()),
        norm_params=sum(leaf.size for path, leaf in params.items() if (*path[:-1], "scale") in params),
        param_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in params.values()),
        bn_running_scalars=sum(leaf.size for leaf in stats.values()),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        receptive_field=max(fields, default=None),
        layers=rows)


def views(function: Callable[[Any, jax.Array], Any], variables: Any, images: jax.Array) -> Value:
    """What the elements of the first output of `function(variables, images)` see, along the image's height and width.

    Args:
      images: [N, H, W, C].
    Returns:
      A View for the height, and one for the width.
    """
    with formulations.platform("gpu"):
        # A function of its own: JAX would find what `function` was traced to before, on this machine's platform.
        jaxpr = jax.make_jaxpr(lambda variables, images: function(variables, images))(variables, images)
    return _Reader(set()).read(jaxpr.jaxpr, [leaf.ndim for leaf in jax.tree.leaves(variables)] + [PIXEL])[0]


class _Reader:
    """Reads equations in order and enters them into rows."""

    def __init__(self, owners: set[Path]):
        """`owners`: the paths of modules with variables of their own."""
        self.modules = {owner[:i] for owner in owners for i in range(len(owner) + 1)}
        self.layers = owners - {owner[:i] for owner in owners for i in range(len(owner))}  # those with none inside
        self.rows: dict[tuple[Path, str | None, int], Row] = {}  # by module, function, and number of its call
        self.calls = Counter()  # of each function in each module
        self.open = None  # the call that the last equation belonged to
        self.open_bytes, self.open_window = 0, False  # its output so far; whether it has had its window

    def read(self, jaxpr: Jaxpr, inputs: Sequence[Value], stack: Path = (), step: tuple[int, ...] = ()):
        """The values of its outputs. `stack` is the name stack around it, `step` the steps of the scans around it."""
        values = dict(zip(jaxpr.invars, inputs, strict=True))

        def look_up(atoms):
            return [None if isinstance(atom, Literal) else values.get(atom) for atom in atoms]

        for eqn in jaxpr.eqns:
            names, ins = (*stack, *str(eqn.source_info.name_stack).split("/")), look_up(eqn.invars)
            inner = list(jaxprs_in_params(eqn.params))
            if eqn.primitive.name == "scan":
                outs = self.scan(eqn, inner[0], ins, names, step)
            elif eqn.primitive.name in ("cond", "while"):
                raise UserError(f"{'/'.join(names)} has a {eqn.primitive.name}: what it computes depends on the image")
            elif len(inner) == 1 and len(inner[0].invars) == len(ins):  # jit, remat and their kin
                outs = self.read(inner[0], ins, names, step)
            else:
                outs = _outputs(eqn, ins)
                self.enter(eqn, ins, outs, names, step)
            values.update(zip(eqn.outvars, outs, strict=True))
        return look_up(jaxpr.outvars)

    def scan(self, eqn, body, ins, names, step):
        """The body as often as it runs: each step sees more of the image than the one before."""
        # Inputs are constants, the carry and what is scanned over; outputs the carry and what is stacked up. Only what
        # loses or gets an axis differs in shape; the parameters that tell it too are called differently in each JAX.
        stacked = sum(var.aval.shape != inner.aval.shape for var, inner in zip(eqn.invars, body.invars, strict=True))
        carried = sum(var.aval.shape == inner.aval.shape for var, inner in zip(eqn.outvars, body.outvars, strict=True))
        first, last = len(ins) - carried - stacked, len(ins) - stacked
        fixed, carry, stacks = ins[:first], ins[first:last], ins[last:]
        if any(isinstance(value, tuple) for value in stacks):
            raise UserError(f"{'/'.join(names)} scans over the image, not over layers")
        slices = [rank and rank - 1 for rank in stacks]  # weights without the axis they are stacked on
        calls = self.calls
        for i in range(eqn.params["length"]):
            self.calls = calls.copy()  # each step makes the same calls
            outs = self.read(body, [*fixed, *carry, *slices], names, (*step, i))
            carry = outs[:len(carry)]
        return outs

    def enter(self, eqn, ins, outs, names, step):
        """Adds an equation to the row of its layer, if it belongs to one; what constants and weights make is free."""
        if not any(isinstance(value, tuple) for value in outs):
            return
        macs = _macs(eqn, ins)
        module, function = self.place(eqn, ins, names, macs)
        if function is None and module not in self.layers:
            self.open = None
            return
        window = function is not None and eqn.primitive.name.startswith("reduce_window")
        if self.open != (module, function, step) or (window and self.open_window):  # two poolings in a row are two
            self.open, self.open_bytes, self.open_window = (module, function, step), 0, False
            self.calls[module, function] += function is not None
            key = (module, function, self.calls[module, function])
            self.row = self.rows.setdefault(key, Row("", FUNCTIONS.get(function, "other")))
            self.row.calls += 1
        self.open_window |= window
        if macs:
            self.row.macs += macs
            self.row.kind = KERNELS.get(next((v for v in ins if isinstance(v, int)), None), "product")
        for var, views in zip(eqn.outvars, outs, strict=True):
            if isinstance(views, tuple):  # the layer's output, if no later equation of the call makes another
                size = var.aval.size * var.aval.dtype.itemsize
                self.row.activation_bytes += size - self.open_bytes
                self.open_bytes = size
                self.row.output_shape = var.aval.shape[1:]
                self.row.receptive_field = tuple("all" if math.isinf(v.size) else int(v.size) for v in views)
                self.row.stride = tuple(int(max(v.jumps, default=0)) for v in views)

    def place(self, eqn, ins, names, macs) -> tuple[Path, str | None]:
        """The module; and the function, where that is a layer."""
        module, function = (), None
        for name in names:
            name = name.partition(".")[0]  # Flax appends the method where it is not __call__
            if (*module, name) in self.modules:
                module = (*module, name)
            elif name in FUNCTIONS:
                function = name
        if module in self.layers:
            return module, None
        if function is None and _pools(eqn, ins):
            function = REDUCTIONS[eqn.primitive.name]
        if function is None and macs:
            function = eqn.primitive.name
        return module, function

    def finish(self, params, stats, root: str) -> list[Row]:
        """The rows with their names and parameters, and new ones for parameters of none. `root` names the network."""
        for (module, function, number), row in self.rows.items():
            number = number if (module, function, 2) in self.rows else ""
            row.name = "/".join([*module, f"{function}{number}"] if function else module) or root
        ran = {module[:i] for module, _, _ in self.rows for i in range(len(module) + 1)}
        idle = {}
        for counter, leaves in (("params", params), ("bn_running_scalars", stats)):
            for path, leaf in leaves.items():
                row = self.rows.get((path[:-1], None, 0))
                if row is None:  # counts for the largest part of the network that does not run
                    part = next((path[:i] for i in range(len(path)) if path[:i] not in ran), None)
                    name = "/".join(part or path)
                    row = idle.setdefault(name, Row(name, "unused" if part else "other"))
                elif path[-1] == "scale":
                    row.kind = "norm"
                setattr(row, counter, getattr(row, counter) + leaf.size)
        return [*self.rows.values(), *idle.values()]


def _outputs(eqn, ins: Sequence[Value]) -> list[Value]:
    if any(isinstance(value, tuple) for value in ins):
        axes = [receptive.after(eqn, [v[i] if isinstance(v, tuple) else None for v in ins]) for i in (0, 1)]
        return list(zip(*axes, strict=True))
    return [max((rank for rank in ins if rank is not None), default=None)] * len(eqn.outvars)


def _macs(eqn, ins: Sequence[Value]) -> int:
    """Multiply-accumulates of an equation on the image: of convolutions and matrix products with weights or itself.

    Products with constants are no layers: convolutions that cut out patches, and matrices that average.
    """
    if eqn.primitive.name not in ("conv_general_dilated", "dot_general") or None in ins:
        return 0
    (left, right), out = (var.aval for var in eqn.invars), eqn.outvars[0].aval
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        return out.size * math.prod(left.shape[axis] for axis in numbers[0][0])
    if any(d > 1 for d in eqn.params["lhs_dilation"]):  # transposed: each input pixel meets the whole kernel
        return left.size * right.size // left.shape[numbers.lhs_spec[1]]
    return out.size * right.size // right.shape[numbers.rhs_spec[0]]


def _pools(eqn, ins: Sequence[Value]) -> bool:
    """Whether the equation is a reduction over pixels of the image."""
    if eqn.primitive.name not in REDUCTIONS or not isinstance(ins[0], tuple):
        return False
    windows = eqn.params.get("window_dimensions", ())
    axes = [axis for axis, size in enumerate(windows) if size > 1] if windows else eqn.params["axes"]
    return any(view.jumps[axis] for view in ins[0] for axis in axes)
