"""Traced programs (jaxprs) of networks: the recursion into them that summaries, pictures and replays are built on.

A program has an equation for each function that a network calls, such as `nn.relu`, and the path of the calling module
in its name stack. So what reads programs needs no list of a network's layers.
"""
from collections.abc import Callable, Container, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from modern_cnn.errors import UserError
from modern_cnn.functional import formulations

Array = jax.Array | np.ndarray
Path = tuple[str, ...]  # of a module
Value = TypeVar("Value")

CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat", "remat2")  # hold a program and compute nothing else
LOOPS = ("scan", "while", "cond")


class Place(NamedTuple):
    """The place of an equation in a traced program."""
    names: Path = ()  # its name stack, outermost name first: modules, and the scopes of functions
    position: tuple[int, ...] = ()  # its number in its jaxpr, after the numbers of the equations around that jaxpr
    step: tuple[int, ...] = ()  # of each scan around it

    def owner(self, modules: Container[Path], functions: Container[str]) -> tuple[Path, str | None]:
        """Return the innermost of `modules` in the name stack, and the innermost of `functions`, or None."""
        module, function = (), None
        for name in self.names:
            name = name.partition(".")[0]  # Flax appends the method where it is not __call__
            if (*module, name) in modules:
                module = (*module, name)
            elif name in functions:
                function = name
        return module, function


TOP = Place()  # the whole program


class Interpreter(Generic[Value]):
    """The recursion into a traced program. A subclass defines what a value is and how an equation computes values."""

    def visit(self, eqn: JaxprEqn, inputs: list[Value], place: Place) -> Sequence[Value]:
        """Return the values of an equation's outputs. Where the equation holds a program, `enter` returns them."""
        raise NotImplementedError

    def constant(self, value: Any) -> Any:
        """Return the value of a number or an array that is part of the program; by default None."""
        return None

    def slice(self, value: Value, place: Place) -> Value:
        """Return what one step of a scan gets of a value that the scan loops over; by default the value itself."""
        return value

    def run(self, program: ClosedJaxpr, inputs: Sequence[Value], around: Place = TOP) -> list[Value]:
        """Return the values of the program's outputs. `around` is the place of the equation that holds it."""
        values = dict(zip(program.jaxpr.constvars, map(self.constant, program.consts), strict=True))
        values.update(zip(program.jaxpr.invars, inputs, strict=True))

        def read(atoms):
            return [self.constant(atom.val) if isinstance(atom, Literal) else values[atom] for atom in atoms]

        for number, eqn in enumerate(program.jaxpr.eqns):
            names = filter(None, str(eqn.source_info.name_stack).split("/"))
            place = Place((*around.names, *names), (*around.position, number), around.step)
            values.update(zip(eqn.outvars, self.visit(eqn, read(eqn.invars), place), strict=True))
        return read(program.jaxpr.outvars)

    def enter(self, eqn: Any, inputs: Sequence[Value], place: Place) -> list[Value]:
        """Return the values of an equation's outputs from the program that it holds: that of a jit, a remat, a scan.

        The body of a scan is run once for each step. Outputs that the scan stacks have their last step's value.
        """
        program: Any = inner(eqn)
        if eqn.primitive.name != "scan":
            return self.run(program, inputs, place)
        # Inputs are constants, the carry, then what is scanned over; outputs are the carry, then what is stacked. The
        # last of each lose or get an axis. The parameters that count them have other names in other versions of JAX.
        scanned = sum(var.aval.shape != own.shape for var, own in zip(eqn.invars, program.in_avals, strict=True))
        carried = sum(var.aval.shape == own.shape for var, own in zip(eqn.outvars, program.out_avals, strict=True))
        first, last = len(inputs) - carried - scanned, len(inputs) - scanned
        carry, slices = inputs[first:last], [self.slice(value, place) for value in inputs[last:]]
        outputs = []
        for step in range(eqn.params["length"]):
            outputs = self.run(program, [*inputs[:first], *carry, *slices], place._replace(step=(*place.step, step)))
            carry = outputs[:carried]
        return outputs


class Replay(Interpreter[jax.Array]):
    """The computation of a traced function on arrays, equation by equation, some of which a subclass may change."""

    def visit(self, eqn: JaxprEqn, inputs: list[jax.Array], place: Place) -> Sequence[jax.Array]:
        if eqn.primitive.name in LOOPS:  # a change inside of a loop would be lost
            raise UserError("this network runs its layers in a loop (model.scan=true), which hides their values: train "
                            "a network without model.scan to look into it")
        if eqn.primitive.name in CALLS:
            return self.enter(eqn, inputs, place)
        outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
        return outputs if eqn.primitive.multiple_results else [outputs]

    def constant(self, value: Any) -> jax.Array:
        return value


def trace(function: Callable, *arguments: Any) -> ClosedJaxpr:
    """Return the program of a function of arrays or shapes, as for a GPU: there every layer is one operation."""
    with formulations.platform("gpu"):
        # A function of its own: for `function` JAX may return an earlier program, which was traced for this machine.
        return jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)


def inner(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """Return the program that an equation holds and runs on its inputs. None: it holds none, or several."""
    held = [each for value in eqn.params.values() for each in (value if isinstance(value, tuple) else (value,))
            if isinstance(each, Jaxpr | ClosedJaxpr)]
    if len(held) != 1:
        return None
    program = held[0] if isinstance(held[0], ClosedJaxpr) else ClosedJaxpr(held[0], ())
    return program if len(program.jaxpr.invars) == len(eqn.invars) else None


def is_relu(eqn: JaxprEqn) -> bool:
    """Return whether an equation is `nn.relu`: a function with a derivative of its own around a jit of that name."""
    program = inner(eqn) if eqn.primitive.name == "custom_jvp_call" else None
    return program is not None and [own.params.get("name") for own in program.jaxpr.eqns] == ["relu"]
