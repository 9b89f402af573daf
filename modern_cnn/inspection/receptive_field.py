"""Receptive fields, followed through a traced program one equation at a time.

Along each image axis (height, width) a `View` says what an array sees of the image. Convolution, pooling, padding,
slicing and reshaping each change it in a known way, so the extents are exact however a layer is written. Windows that
hang over the border count in full, as is usual (Araujo, Norris and Sim 2019, "Computing Receptive Fields of
Convolutional Neural Networks"), so a receptive field can be larger than the image. A layer that averages over the image
sees all of it: group, layer and instance normalisation do.
"""
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from modern_cnn.errors import UserError
from modern_cnn.inspection.traced import Array, Interpreter, Place, inner, trace


@dataclass(frozen=True)
class View:
    """The pixels that the elements of an array see along one image axis.

    The element at indices i sees `size` pixels from start + sum(jumps[a] * i[a] for every axis a) on.
    """
    start: int  # the first pixel that element 0 sees; negative where that is padding
    size: float  # infinite where each element sees the whole image, because no axis moves over the image any more
    jumps: tuple[int, ...]  # pixels from one element to the next for each axis; 0: it does not move over the image

    def become(self, start: int, size: float, jumps: Iterable[int]) -> "View":
        """Return a view with these values, of the whole image where no axis moves over the image any more."""
        jumps = tuple(map(int, jumps))
        return View(int(start), math.inf if any(self.jumps) and not any(jumps) else size, jumps)

    def window(self, extent: Any = 1, stride: Any = 1, low: Any = 0) -> "View":
        """Return the view of a sliding window of `extent` elements, `low` padded in front: of all axes, or of each."""
        low, more, stride, jumps = np.broadcast_arrays(low, np.subtract(extent, 1), stride, self.jumps)
        return self.become(self.start - low @ jumps, self.size + int(more @ jumps), jumps * stride)

    def fold(self, axes: Sequence[int], shape: Sequence[int]) -> "View":
        """Return the view of all elements along `axes` together; the axes stay and do not move over the image."""
        folded = np.isin(range(len(shape)), axes)
        return self.window(np.where(folded, shape, 1), np.where(folded, 0, 1))

    def move(self, axes: Iterable[int | None]) -> "View":
        """Return the view with its axes reordered: axis a of the result was axes[a], or is new where that is None."""
        return self.become(self.start, self.size, (0 if a is None else self.jumps[a] for a in axes))


def join(views: Sequence[View]) -> View:
    """Return what arrays of one shape see together: the whole image where their windows move differently."""
    start, end = min(view.start for view in views), max(view.start + view.size for view in views)
    jumps = tuple(map(max, zip(*(view.jumps for view in views), strict=True)))
    return View(start, end - start if all(view.jumps == jumps for view in views) else math.inf, jumps)


# What a value of the program sees, by height and width; of a weight, its number of axes; None: of a constant.
Value = tuple[View, View] | int | None
_IMAGES = (View(0, 1, (0, 1, 0, 0)), View(0, 1, (0, 0, 1, 0)))  # each pixel sees itself


class FieldInterpreter(Interpreter[Value]):
    """The receptive field of every value of a traced function of (variables, images)."""

    def read(self, program: ClosedJaxpr) -> list[Value]:
        """Return what the outputs see. The last input are the images [N, H, W, C], the others are variables."""
        return self.run(program, [*(var.aval.ndim for var in program.jaxpr.invars[:-1]), _IMAGES])

    def visit(self, eqn: JaxprEqn, inputs: list[Value], place: Place) -> Sequence[Value]:
        if eqn.primitive.name in ("cond", "while"):
            raise UserError(f"{'/'.join(place.names) or 'the network'} has a {eqn.primitive.name}: what it computes "
                            "depends on the image, so its layers cannot be counted")
        if inner(eqn):
            return self.enter(eqn, inputs, place)
        if any(isinstance(value, tuple) for value in inputs):
            rule: Callable[..., View] = _RULES.get(eqn.primitive.name, _pointwise)
            height, width = ([v[axis] if isinstance(v, tuple) else None for v in inputs] for axis in (0, 1))
            return [(rule(eqn, height, out), rule(eqn, width, out)) for out in range(len(eqn.outvars))]
        return [max((axes for axes in inputs if isinstance(axes, int)), default=None)] * len(eqn.outvars)

    def slice(self, value: Value, place: Place) -> Value:
        if isinstance(value, tuple):
            raise UserError(f"{'/'.join(place.names) or 'the network'} scans over the image: only the layers of a scan "
                            "over layers can be counted")
        return value and value - 1


def views(function: Callable[[Any, Array], Any], variables: Any, images: Array) -> tuple[View, View]:
    """Return what the first output of `function(variables, images [N, H, W, C])` sees along height and width."""
    found = FieldInterpreter().read(trace(function, variables, images))[0]
    if not isinstance(found, tuple):
        raise ValueError("the first output of this function does not depend on the images")
    return found


# The rules return the view of output number `out` from those of the inputs (None: a weight or a constant; not all).
def _pointwise(eqn, views, out):
    """Return the views of an operation on elements, or of one without a rule: the whole image if axes change."""
    shape = eqn.outvars[out].aval.shape
    seen = [(var.aval.shape, view) for var, view in zip(eqn.invars, views, strict=True) if view]
    if all(len(old) == len(shape) and all(n == m or not jump for n, m, jump in zip(old, shape, view.jumps, strict=True))
           for old, view in seen):
        return join([view for _, view in seen])
    return View(0, math.inf, (0,) * len(shape))


def _convolution(eqn, views, out):
    spec, params, kernel = eqn.params["dimension_numbers"], eqn.params, eqn.invars[1].aval.shape
    if views[1] or any(d > 1 for d in params["lhs_dilation"]):  # no classifier correlates images or transposes
        return _pointwise(eqn, views, out)
    channels = eqn.invars[0].aval.shape[spec.lhs_spec[1]]
    extents = [(kernel[axis] - 1) * d + 1 for axis, d in zip(spec.rhs_spec[2:], params["rhs_dilation"], strict=True)]
    view = views[0].move(spec.lhs_spec).window(  # batch, channels, then the axes of the image
        [1, channels, *extents], [1, 0, *params["window_strides"]], [0, 0, *(low for low, _ in params["padding"])])
    return view.move(spec.out_spec.index(axis) for axis in range(len(kernel)))


def _dot_general(eqn, views, out):
    contracted, batch = eqn.params["dimension_numbers"]
    seen = []
    for i, view in enumerate(views):
        if view:
            free = [a for a in range(len(view.jumps)) if a not in (*contracted[i], *batch[i])]
            new = [None] * (eqn.outvars[0].aval.ndim - len(batch[i]) - len(free))
            axes = [*batch[i], *(new + free if i else free + new)]
            seen.append(view.fold(contracted[i], eqn.invars[i].aval.shape).move(axes))
    return join(seen)


def _reduce_window(eqn, views, out):
    size, dilation, padding = (np.array(eqn.params[part])
                               for part in ("window_dimensions", "window_dilation", "padding"))
    return views[0].window((size - 1) * dilation + 1, eqn.params["window_strides"], padding[:, 0])


def _reduce(eqn, views, out):
    view, axes, shape = views[0], eqn.params["axes"], eqn.invars[0].aval.shape
    return view.fold(axes, shape).move(a for a in range(len(shape)) if a not in axes)


def _reshape(eqn, views, out):
    """Return the view of a reshape: an axis that is split keeps its place in the image, merged axes lose theirs."""
    view, old, new = views[0], eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    jumps = [0] * len(new)
    sources, targets = ([a for a, n in enumerate(shape) if n > 1] for shape in (old, new))
    while sources:
        merged, split = [sources.pop(0)], [targets.pop(0)]
        while (have := math.prod(old[a] for a in merged)) != (want := math.prod(new[a] for a in split)):
            if have < want:
                merged.append(sources.pop(0))
            else:
                split.append(targets.pop(0))
        if len(merged) > 1:
            view = view.fold(merged, old)
        for i, axis in enumerate(split):
            jumps[axis] = view.jumps[merged[0]] * math.prod(new[a] for a in split[i + 1:])
    return view.become(view.start, view.size, jumps)


def _broadcast(eqn, views, out):
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    source = {target: axis for axis, target in enumerate(eqn.params["broadcast_dimensions"])
              if old[axis] == new[target]}
    return views[0].move(source.get(axis) for axis in range(len(new)))


def _slice(eqn, views, out):
    return views[0].window(1, eqn.params["strides"] or 1, np.negative(eqn.params["start_indices"]))


def _pad(eqn, views, out):
    low, _, interior = np.transpose(eqn.params["padding_config"])
    return _pointwise(eqn, views, out) if any(interior * views[0].jumps) else views[0].window(low=low)


def _along(axis, low, view):
    """Return a view of an array that begins `low` elements further along an axis."""
    return view.window(low=[low if a == axis else 0 for a in range(len(view.jumps))])


def _concatenate(eqn, views, out):
    axis = eqn.params["dimension"]
    ends = np.cumsum([var.aval.shape[axis] for var in eqn.invars])
    return join([_along(axis, end - var.aval.shape[axis], view)
                 for var, view, end in zip(eqn.invars, views, ends, strict=True) if view])


def _stack(eqn, views, out):
    axis = eqn.params["axis"]
    return join([view.move([*range(axis), None, *range(axis, len(view.jumps))]) for view in views if view])


def _split(eqn, views, out):
    return _along(eqn.params["axis"], -sum(eqn.params["sizes"][:out]), views[0])


_RULES = {
    "conv_general_dilated": _convolution, "dot_general": _dot_general, "reshape": _reshape,
    "broadcast_in_dim": _broadcast, "slice": _slice, "pad": _pad, "concatenate": _concatenate, "stack": _stack,
    "split": _split, "transpose": lambda eqn, views, out: views[0].move(eqn.params["permutation"]),
    "squeeze": lambda eqn, views, out: views[0].move(
        a for a in range(len(views[0].jumps)) if a not in eqn.params["dimensions"]),
    **{f"reduce_window_{name}": _reduce_window for name in ("max", "min", "sum")},
    **{f"reduce_{name}": _reduce for name in ("max", "min", "sum", "prod", "and", "or", "xor")},
}
