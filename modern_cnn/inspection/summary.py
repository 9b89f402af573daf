"""The layers of a network: shapes, parameters, multiply-accumulates, memory and receptive field.

The network is traced on shapes alone. Reading its equations instead of its layers counts what is computed: pooling by a
function has a row, a scanned block counts as often as it runs, and a convolution may be written as a matrix product.
"""
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import JaxprEqn

from modern_cnn.cli import text_table
from modern_cnn.errors import UserError
from modern_cnn.inspection.receptive_field import FieldInterpreter, Value, View
from modern_cnn.inspection.traced import Path, Place, inner, trace

# Layers without variables: by the name scope that functional/ gives them, and by equation where a network does without.
FUNCTIONS = {"max_pool": "pool", "avg_pool": "pool", "global_max_pool": "pool", "global_avg_pool": "pool",
             "adaptive_avg_pool": "pool", "local_response_norm": "norm"}
_REDUCTIONS = {"reduce_window_max": "max_pool", "reduce_window_sum": "avg_pool", "reduce_max": "global_max_pool",
               "reduce_sum": "global_avg_pool"}
# `running` are the running means and variances of batch normalisation, `field` is the receptive field.
_COLUMNS = ["layer", "kind", "output", "parameters", "running", "MACs", "output KiB", "field", "stride"]
_KERNELS = {2: "dense", 4: "conv", 6: "local"}  # the kind of a layer, by the number of axes of its kernel


@dataclass
class Row:
    """A layer, or parameters that no layer uses; for one image, and for all `calls` of the layer together."""
    name: str  # path of the module; for a function, path of the calling module and name of the function
    kind: str  # conv, dense, local (unshared weights), norm, pool, product (of two activations), other, unused
    output_shape: tuple[int, ...] | None = None  # without the batch
    params: int = 0
    bn_running_scalars: int = 0
    macs: int = 0  # multiply-accumulates of convolutions and matrix products; no bias, normalisation or activation
    activation_bytes: int = 0  # of the output
    receptive_field: tuple[int | str, ...] | None = None  # height and width in pixels; 'all': the whole image
    stride: tuple[int, ...] | None = None  # pixels of the image from one output to the next; 0 where each sees all
    calls: int = 0  # above 1 where a scan repeats the layer


@dataclass
class Summary:
    """The totals of a network, and its layers in the order in which they run, then parameters that no layer uses."""
    image_shape: tuple[int, int, int]
    params: int
    norm_params: int  # those of normalisation layers
    param_bytes: int
    bn_running_scalars: int
    macs: int
    activation_bytes: int
    receptive_field: tuple[int, int] | None  # the largest that is not the whole image
    layers: list[Row]


def summarize(module: nn.Module, image_shape: Sequence[int]) -> Summary:
    """Return the layers of a network and their totals for one image (height, width, channels) in evaluation.

    Raise UserError if the network cannot take such images, or if the layers that it runs depend on their content.
    """
    height, width, channels = image_shape
    images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    try:
        variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
        program = trace(lambda variables, images: module.apply(variables, images, train=False), variables, images)
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError, ArithmeticError, MemoryError) as e:
        raise UserError(f"the network cannot be built for {'x'.join(map(str, image_shape))} images: {e}") from e
    params: dict[Path, Any] = flatten_dict(variables.get("params", {}))
    stats: dict[Path, Any] = flatten_dict(variables.get("batch_stats", {}))
    layers = _Layers({path[:-1] for path in (*params, *stats)})
    layers.read(program)
    rows = layers.finish(params, stats, type(module).__name__)
    fields: list[Any] = [row.receptive_field for row in rows]
    return Summary(
        image_shape=(height, width, channels),
        norm_params=sum(leaf.size for path, leaf in params.items()
                        if (*path[:-1], "scale") in params or (*path[:-1], "mean") in stats),
        param_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in params.values()),
        receptive_field=max((field for field in fields if field and "all" not in field), default=None),
        layers=rows,
        **{total: sum(getattr(row, total) for row in rows)
           for total in ("params", "bn_running_scalars", "macs", "activation_bytes")})


class _Layers(FieldInterpreter):
    """The rows of a network's layers, filled equation by equation."""

    def __init__(self, owners: set[Path]):
        """Start without rows; `owners` are the paths of modules with variables of their own."""
        self.modules = {owner[:i] for owner in owners for i in range(len(owner) + 1)}
        self.layers = owners - {owner[:i] for owner in owners for i in range(len(owner))}  # those with none inside
        # By module and, where a function is the layer, its name and the position of the call's first equation.
        self.rows: dict[tuple[Path, str | None, tuple[int, ...]], Row] = {}
        self.call = None  # the module, function and step of the last equation's call
        self.row = Row("", "")  # of that call
        self.call_bytes, self.call_window = 0, False  # its output so far; whether it has had its window

    def visit(self, eqn: JaxprEqn, inputs: list[Value], place: Place) -> Sequence[Value]:
        """Add an equation on the image to the row of its layer, if it belongs to one."""
        outputs = super().visit(eqn, inputs, place)
        seen = [pair for pair in zip(eqn.outvars, outputs, strict=True) if isinstance(pair[1], tuple)]
        if inner(eqn) or not seen:  # it computes on weights alone
            return outputs
        macs = _macs(eqn, inputs)
        module, function = place.owner(self.modules, FUNCTIONS)
        if module in self.layers:
            function = None
        elif function is None and (macs or _pools(eqn, inputs)):
            function = _REDUCTIONS.get(eqn.primitive.name, eqn.primitive.name)
        elif function is None:
            self.call = None
            return outputs
        window = function is not None and eqn.primitive.name.startswith("reduce_window")
        call = module, function, place.step
        if self.call != call or (window and self.call_window):  # two windows in a row are two poolings
            self.call, self.call_bytes, self.call_window = call, 0, False
            kind = FUNCTIONS.get(function or "", "other")
            self.row = self.rows.setdefault((module, function, place.position if function else ()), Row("", kind))
            self.row.calls += 1
        self.call_window |= window
        if macs:
            self.row.macs += macs
            self.row.kind = _KERNELS.get(next((v for v in inputs if isinstance(v, int)), 0), "product")
        # The last output is the layer's, if no later equation of the call makes another.
        aval, views = cast(Any, seen[-1][0]).aval, cast(tuple[View, View], seen[-1][1])
        self.row.activation_bytes += aval.size * aval.dtype.itemsize - self.call_bytes
        self.call_bytes = aval.size * aval.dtype.itemsize
        self.row.output_shape = aval.shape[1:]
        self.row.receptive_field = tuple("all" if math.isinf(view.size) else int(view.size) for view in views)
        self.row.stride = tuple(max(view.jumps, default=0) for view in views)
        return outputs

    def finish(self, params: Mapping[Path, Any], stats: Mapping[Path, Any], root: str) -> list[Row]:
        """Return the rows with names and parameters (leaves by their paths), then rows for parameters of no layer."""
        calls, numbers = Counter(key[:2] for key in self.rows), Counter()
        for (module, function, _), row in self.rows.items():
            numbers[module, function] += 1
            number = numbers[module, function] if calls[module, function] > 1 else ""
            row.name = "/".join([*module, f"{function}{number}"] if function else module) or root
        ran = {module[:i] for module, _, _ in self.rows for i in range(len(module) + 1)}
        idle = {}
        for counter, leaves in (("params", params), ("bn_running_scalars", stats)):
            for path, leaf in leaves.items():
                row = self.rows.get((path[:-1], None, ()))
                if row is None:  # counts for the largest part of the network that does not run
                    part = next((path[:i] for i in range(len(path)) if path[:i] not in ran), None)
                    name = "/".join(part or path)
                    row = idle.setdefault(name, Row(name, "unused" if part else "other"))
                elif path[-1] in ("scale", "mean"):
                    row.kind = "norm"
                setattr(row, counter, getattr(row, counter) + leaf.size)
        return [*self.rows.values(), *idle.values()]


def _macs(eqn: Any, inputs: Sequence[Value]) -> int:
    """Return the multiply-accumulates of a convolution or a matrix product of the image with weights or with itself.

    Products with constants are no layers: convolutions that cut out patches, and matrices that average.
    """
    if eqn.primitive.name not in ("conv_general_dilated", "dot_general") or None in inputs:
        return 0
    (left, right), out = (var.aval for var in eqn.invars), eqn.outvars[0].aval
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        return out.size * math.prod(left.shape[axis] for axis in numbers[0][0])
    if any(d > 1 for d in eqn.params["lhs_dilation"]):  # transposed: each input pixel meets the whole kernel
        return left.size * right.size // left.shape[numbers.lhs_spec[1]]
    return out.size * right.size // right.shape[numbers.rhs_spec[0]]


def _pools(eqn: JaxprEqn, inputs: Sequence[Value]) -> bool:
    """Return whether the equation is a reduction over pixels of the image."""
    if eqn.primitive.name not in _REDUCTIONS or not isinstance(inputs[0], tuple):
        return False
    windows = eqn.params.get("window_dimensions", ())
    axes = eqn.params.get("axes", [axis for axis, size in enumerate(windows) if size > 1])
    return any(view.jumps[axis] for view in inputs[0] for axis in axes)


def allocated(compiled: Any) -> tuple[int, int]:
    """Return the bytes of a compiled program's arguments and results, which may share some, and of what is between."""
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return held, found.temp_size_in_bytes


def lines(summary: Summary) -> list[str]:
    """Return a line for each layer and one for the totals, then the totals in larger units, for 120 columns."""
    total = ["total", "", "", f"{summary.params:,}", f"{summary.bn_running_scalars:,}", f"{summary.macs:,}",
             f"{summary.activation_bytes / 1024:,.1f}", "", ""]
    head, *body, foot = text_table([_COLUMNS, *map(_cells, summary.layers), total], "ll" + "r" * 7)
    rule = "-" * max(map(len, [head, *body, foot]))
    notes = [["parameters", f"{scaled(summary.params)}, {scaled(summary.param_bytes, 'B', 1024)}"],
             ["computation", f"{scaled(summary.macs, 'MAC')} an image"],
             ["activations", f"{scaled(summary.activation_bytes, 'B', 1024)} an image, every output above once"]]
    if summary.norm_params:
        notes.insert(1, ["normalisation", f"{summary.norm_params:,} of the parameters; "
                                          f"{summary.bn_running_scalars:,} running means and variances"])
    if summary.receptive_field:
        notes.append(["receptive field", f"{extent(summary.receptive_field)} pixels, before layers that see all"])
    return [head, rule, *body, rule, foot, "", *text_table(notes)]


def scaled(number: float, unit: str = "", base: int = 1000) -> str:
    """Return a number with four digits and a prefix: 4089184256, 'MAC' -> '4.089 GMAC'; 999 -> '999'.

    A `base` of 1024 asks for binary prefixes: 102228128, 'B', 1024 -> '97.49 MiB'.
    """
    prefixes, power = ("", "k", "M", "G") if base == 1000 else ("", "Ki", "Mi", "Gi"), 0
    while number >= base and power < 3:
        number, power = number / base, power + 1
    digits = format(number, "#.4g").rstrip(".") if power else number
    return f"{digits} {prefixes[power]}{unit}".strip()


def extent(pair: Sequence[int | str]) -> str:
    """Return (height, width) in pixels as text: '43' for a square, else '43x21'."""
    return str(pair[0]) if pair[0] == pair[1] else "x".join(map(str, pair))


def _cells(row: Row) -> list[str]:
    name = row.name if row.calls < 2 else f"{row.name} x{row.calls}"
    numbers = [f"{n:,}" if n else "" for n in (row.params, row.bn_running_scalars, row.macs)]
    if row.output_shape is None or row.receptive_field is None or row.stride is None:  # parameters of no layer
        return [name, row.kind, "", *numbers, "", "", ""]
    stride = extent(row.stride) if any(row.stride) else ""
    return [name, row.kind, "x".join(map(str, row.output_shape)), *numbers, f"{row.activation_bytes / 1024:,.1f}",
            extent(row.receptive_field), stride]
