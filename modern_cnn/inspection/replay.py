"""A traced network computed again, equation by equation: to do some of it differently, or to reach into its middle.

The networks call functions such as `nn.relu` and `functional.max_pool`, which no module can be asked about; in the
traced program every one of them is there. So what is built on this needs no list of a network's layers.
"""
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxprs_in_params

from modern_cnn.errors import UserError, lookup

INLINED = ("jit", "pjit", "closed_call", "checkpoint", "remat", "remat2")  # replayed from the inside
LOOPS = ("scan", "while", "cond")
Rule = Callable[[JaxprEqn, list[jax.Array]], list[jax.Array] | None]


def plain(module: nn.Module) -> nn.Module:
    """The same network without rematerialisation, which is of use in training alone and hides a layer's values."""
    return module.clone(remat=False) if getattr(module, "remat", False) else module


def _captured(module: nn.Module, variables: Any, images: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """({name: value}, logits): the sown stages first, then what every module inside returned at its last call."""
    logits, new = plain(module).apply(variables, images, train=False, capture_intermediates=True,
                                      mutable=["intermediates"])
    found = {path: value[-1] for path, value in flatten_dict(new["intermediates"]).items() if path != ("__call__",)}
    stages = {"/".join(path): value for path, value in found.items() if path[-1] != "__call__"}
    inside = {"/".join(path[:-1]): value for path, value in found.items() if path[-1] == "__call__"}
    return {name: value for name, value in (stages | inside).items() if hasattr(value, "shape")}, logits


def layers(module: nn.Module, variables: Any, images: jax.Array) -> dict[str, tuple[int, ...]]:
    """{name: shape [N, ...]} of all that can be looked at: 'stage1', ..., then modules, 'block1/conv1'."""
    found = jax.eval_shape(lambda v, x: _captured(module, v, x)[0], variables, images)
    return {name: found[name].shape for name in sorted(found, key=lambda name: (not name.startswith("stage"), name))}


def with_layer(module: nn.Module, layer: str) -> Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]:
    """(variables, images [N, H, W, C]) -> (value of the layer [N, ...], logits [N, K]), in evaluation mode.

    Raises:
      UserError: when called, for a layer that the network has not got.
    """
    def function(variables, images):
        found, logits = _captured(module, variables, images)
        return lookup(found, layer, "layer"), logits

    return function


def replay(closed: ClosedJaxpr, arguments: Sequence[jax.Array], rule: Rule = lambda eqn, inputs: None,
           added: dict[Var, jax.Array] | None = None) -> list[jax.Array]:
    """What a traced function returns, some of its equations computed differently.

    Args:
      closed: of `jax.make_jaxpr`.
      arguments: the leaves of the function's arguments.
      rule: (equation, its inputs) -> its outputs, or None to leave it as it is.
      added: to be added to a value of the function where it is made; the gradient of this is that of the value.
    Raises:
      UserError: the program has loops; what `rule` would do inside of them would be lost.
    """
    return _replay(closed.jaxpr, closed.consts, arguments, rule, added or {})


def _replay(jaxpr: Jaxpr, consts, arguments, rule, added) -> list[jax.Array]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(atoms):
        return [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]

    for eqn in jaxpr.eqns:
        inputs = read(eqn.invars)
        outputs = rule(eqn, inputs)
        if outputs is None:
            outputs = _compute(eqn, inputs, rule, added)
        for var, value in zip(eqn.outvars, outputs, strict=True):
            values[var] = value + added[var] if var in added else value
    return read(jaxpr.outvars)


def _compute(eqn: JaxprEqn, inputs, rule, added) -> list[jax.Array]:
    if eqn.primitive.name in LOOPS:
        raise UserError("this network runs its layers in a loop (model.scan=true), which cannot be looked into; train "
                        "it without")
    if eqn.primitive.name in INLINED:
        (inner,) = jaxprs_in_params(eqn.params)
        return _replay(inner, getattr(eqn.params["jaxpr"], "consts", ()), inputs, rule, added)
    outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]
