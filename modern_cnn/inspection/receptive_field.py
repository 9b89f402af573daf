"""Receptive fields, followed through a traced program one equation at a time.

Each operation changes in a known way what an array sees of the image, so the extents are exact however a layer is
written. Windows that hang over the border count in full, as is usual (Araujo, Norris and Sim 2019, "Computing Receptive
Fields of Convolutional Neural Networks"), so a receptive field can be larger than the image. A layer that averages over
the image sees all of it: group, layer and instance normalisation do.
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
    """The view of an array along one image axis: its element at indices i sees `size` pixels from start + jumps @ i."""
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
            height, width = ([v[axis] if isinstance(v, tuple) else None for v in inputs] for axis in (0, 1))
            return [(_output(eqn, height, out), _output(eqn, width, out)) for out in range(len(eqn.outvars))]
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


def _output(eqn: Any, views: Sequence[Any], out: int) -> View:
    """Return the view of output number `out` from those of the inputs (None: a weight or a constant; not all).

    What has no rule is an operation on elements, or sees the whole image if axes change; no classifier spreads pixels.
    """
    params, shapes, shape = eqn.params, [var.aval.shape for var in eqn.invars], eqn.outvars[out].aval.shape
    view, old = views[0], shapes[0]
    match eqn.primitive.name:
        case "conv_general_dilated" if views[1] is None and max(params["lhs_dilation"]) == 1:
            spec, kernel = params["dimension_numbers"], shapes[1]
            extents = [(kernel[axis] - 1) * d + 1
                       for axis, d in zip(spec.rhs_spec[2:], params["rhs_dilation"], strict=True)]
            view = view.move(spec.lhs_spec).window(  # batch, channels, then the axes of the image
                [1, old[spec.lhs_spec[1]], *extents], [1, 0, *params["window_strides"]],
                [0, 0, *(low for low, _ in params["padding"])])
            return view.move(map(spec.out_spec.index, range(len(kernel))))
        case "dot_general":
            contracted, batch = params["dimension_numbers"]
            seen = []
            for i, view in enumerate(views):
                if view:
                    free = [a for a in range(len(view.jumps)) if a not in (*contracted[i], *batch[i])]
                    new = [None] * (len(shape) - len(batch[i]) - len(free))
                    axes = [*batch[i], *(new + free if i else free + new)]
                    seen.append(view.fold(contracted[i], shapes[i]).move(axes))
            return join(seen)
        case "reduce_window_max" | "reduce_window_min" | "reduce_window_sum":
            size, dilation, padding = (np.array(params[part])
                                       for part in ("window_dimensions", "window_dilation", "padding"))
            return view.window((size - 1) * dilation + 1, params["window_strides"], padding[:, 0])
        case "reduce_max" | "reduce_min" | "reduce_sum" | "reduce_prod" | "reduce_and" | "reduce_or" | "reduce_xor":
            return view.fold(params["axes"], old).move(a for a in range(len(old)) if a not in params["axes"])
        case "squeeze":
            return view.move(a for a in range(len(old)) if a not in params["dimensions"])
        case "transpose":
            return view.move(params["permutation"])
        case "reshape":
            return _reshape(view, old, shape)
        case "broadcast_in_dim":
            source = {target: a for a, target in enumerate(params["broadcast_dimensions"]) if old[a] == shape[target]}
            return view.move(map(source.get, range(len(shape))))
        case "slice":
            return view.window(1, params["strides"] or 1, np.negative(params["start_indices"]))
        case "pad" if not any(jump and inside for jump, (*_, inside)
                              in zip(view.jumps, params["padding_config"], strict=True)):
            return view.window(low=[low for low, *_ in params["padding_config"]])
        case "concatenate":
            along = np.arange(len(shape)) == params["dimension"]
            starts = np.cumsum([0, *(other[params["dimension"]] for other in shapes[:-1])])
            return join([view.window(low=start * along) for view, start in zip(views, starts, strict=True) if view])
        case "split":
            return view.window(low=-sum(params["sizes"][:out]) * (np.arange(len(shape)) == params["axis"]))
        case "stack":
            axis = params["axis"]
            return join([view.move([*range(axis), None, *range(axis, len(old))]) for view in views if view])
    seen = [(other, view) for other, view in zip(shapes, views, strict=True) if view]
    if all(len(other) == len(shape) and all(n == m or not j for n, m, j in zip(other, shape, view.jumps, strict=True))
           for other, view in seen):
        return join([view for _, view in seen])
    return View(0, math.inf, (0,) * len(shape))


def _reshape(view: View, old: Sequence[int], new: Sequence[int]) -> View:
    """Return the view of a reshape: an axis that is split keeps its place in the image, merged axes lose theirs."""
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
