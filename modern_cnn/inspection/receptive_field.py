"""How much of the image a value sees, followed through a jaxpr one equation at a time.

Along each image axis (height, width) an array is described by a `View`. Convolution, pooling, padding, slicing and
reshaping each change it in a known way, so the extents are exact however a layer is written. Windows that hang over the
border count in full, as is usual (Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural
Networks"), so a receptive field can be larger than the image. What averages over the image sees all of it: group,
layer and instance normalisation do.
"""
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """The element at indices i sees the `size` pixels that begin at start + sum(jumps[a] * i[a] for every axis a).

    `jumps` has an entry for each axis of the array, 0 where moving along it does not move over the image.
    `size` is infinite where the element sees the whole image: where no axis moves over the image any more.
    """
    start: int
    size: float
    jumps: tuple[int, ...]

    def become(self, start: int, size: float, jumps: Iterable[int]) -> "View":
        jumps = tuple(jumps)
        return View(start, math.inf if any(self.jumps) and not any(jumps) else size, jumps)

    def window(self, axis: int, extent: int, stride: int = 1, low: int = 0) -> "View":
        """After a window of `extent` elements slid along `axis` in steps of `stride`, with `low` padded in front."""
        jump = self.jumps[axis]
        jumps = (*self.jumps[:axis], jump * stride, *self.jumps[axis + 1:])
        return self.become(self.start - low * jump, self.size + (extent - 1) * jump, jumps)

    def fold(self, axes: Sequence[int], shape: Sequence[int]) -> "View":
        """After all elements along `axes` came together; the axes stay, and do not move over the image any more."""
        view = self
        for axis in axes:
            view = view.window(axis, shape[axis], stride=0)
        return view

    def move(self, axes: Iterable[int | None]) -> "View":
        """With the axes in another order: axis a of the result was axes[a] before, or is new where that is None."""
        return self.become(self.start, self.size, (0 if a is None else self.jumps[a] for a in axes))


def join(views: Sequence[View]) -> View:
    """What several arrays of one shape see together. Windows that move differently are taken to see everything."""
    start, end = min(view.start for view in views), max(view.start + view.size for view in views)
    jumps = tuple(map(max, zip(*(view.jumps for view in views), strict=True)))
    return View(start, end - start if all(view.jumps == jumps for view in views) else math.inf, jumps)


def after(eqn, views: Sequence[View | None]) -> list[View]:
    """The views of an equation's outputs, from those of its inputs (None: a weight or a constant; not all are)."""
    name = eqn.primitive.name
    if name.startswith("reduce_window"):
        rule = _reduce_window
    else:
        rule = RULES.get(name, _reduce if name.startswith("reduce_") and "axes" in eqn.params else _pointwise)
    return [rule(eqn, views, out) for out in range(len(eqn.outvars))]


def _pointwise(eqn, views, out):
    """Also for operations that have no rule: where the axes over the image keep their lengths."""
    shape = eqn.outvars[out].aval.shape
    seen = [(var.aval.shape, view) for var, view in zip(eqn.invars, views, strict=True) if view]
    if all(len(old) == len(shape) and all(n == m or not jump for n, m, jump in zip(old, shape, view.jumps, strict=True))
           for old, view in seen):
        return join([view for _, view in seen])
    return View(0, math.inf, (0,) * len(shape))


def _convolution(eqn, views, out):
    spec, kernel = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
    if views[1] or any(d > 1 for d in eqn.params["lhs_dilation"]):  # no classifier correlates images or transposes
        return _pointwise(eqn, views, out)
    view = views[0].fold([spec.lhs_spec[1]], eqn.invars[0].aval.shape)
    for axis, k, stride, (low, _), dilation in zip(
            spec.lhs_spec[2:], spec.rhs_spec[2:], eqn.params["window_strides"], eqn.params["padding"],
            eqn.params["rhs_dilation"], strict=True):
        view = view.window(axis, (kernel[k] - 1) * dilation + 1, stride, low)
    return view.move(spec.lhs_spec[spec.out_spec.index(axis)] for axis in range(len(kernel)))


def _dot_general(eqn, views, out):
    contracted, batch = eqn.params["dimension_numbers"]
    ranks = [var.aval.ndim for var in eqn.invars]
    free = [[a for a in range(ranks[i]) if a not in (*contracted[i], *batch[i])] for i in (0, 1)]
    seen = []
    for i, other in ((0, 1), (1, 0)):
        if views[i]:
            new = [None] * len(free[other])
            axes = [*batch[i], *(free[0] + new if i == 0 else new + free[1])]
            seen.append(views[i].fold(contracted[i], eqn.invars[i].aval.shape).move(axes))
    return join(seen)


def _reduce_window(eqn, views, out):
    view = views[0]
    for axis, (size, stride, (low, _), dilation) in enumerate(zip(
            eqn.params["window_dimensions"], eqn.params["window_strides"], eqn.params["padding"],
            eqn.params["window_dilation"], strict=True)):
        view = view.window(axis, (size - 1) * dilation + 1, stride, low)
    return view


def _reduce(eqn, views, out):
    view, axes, shape = views[0], eqn.params["axes"], eqn.invars[0].aval.shape
    return view.fold(axes, shape).move(a for a in range(len(shape)) if a not in axes)


def _reshape(eqn, views, out):
    """An axis that is split keeps its place in the image; axes that are merged into one lose theirs."""
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
    view, strides = views[0], eqn.params["strides"] or (1,) * len(views[0].jumps)
    for axis, (first, stride) in enumerate(zip(eqn.params["start_indices"], strides, strict=True)):
        view = view.window(axis, 1, stride, -first)
    return view


def _pad(eqn, views, out):
    view = views[0]
    for axis, (low, _, interior) in enumerate(eqn.params["padding_config"]):
        if interior and view.jumps[axis]:
            return _pointwise(eqn, views, out)
        view = view.window(axis, 1, low=low)
    return view


def _concatenate(eqn, views, out):
    axis, first, moved = eqn.params["dimension"], 0, []
    for var, view in zip(eqn.invars, views, strict=True):
        if view:
            moved.append(view.window(axis, 1, low=first))
        first += var.aval.shape[axis]
    return join(moved)


def _stack(eqn, views, out):
    axis = eqn.params["axis"]
    return join([view.move([*range(axis), None, *range(axis, len(view.jumps))]) for view in views if view])


def _split(eqn, views, out):
    return views[0].window(eqn.params["axis"], 1, low=-sum(eqn.params["sizes"][:out]))


RULES = {
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "transpose": lambda eqn, views, out: views[0].move(eqn.params["permutation"]),
    "squeeze": lambda eqn, views, out: views[0].move(
        a for a in range(len(views[0].jumps)) if a not in eqn.params["dimensions"]),
}
