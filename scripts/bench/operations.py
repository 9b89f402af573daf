"""Where the time of a training step on a CPU goes: the operations of XLA, and those of PyTorch beside them."""
import gzip
import json
import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax

from modern_cnn.errors import UserError

INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*)")
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
OTHER = "bias, activation, other"
# kind -> pattern in the name of its operations: in XLA a path of modules, in PyTorch 'aten::...'. The first that fits
# counts. 'turned around' are arrays brought into the order that the gradient of a convolution or a product needs.
KINDS = {
    "turned around": r"/transpose$|/copy$",
    "convolutions, products": r"conv_general_dilated|dot_general|convolution|\bmm\b|addmm",
    "pooling": r"_pool|pool2d",
    "normalisation": r"norm",
    OTHER: "",
}


@dataclass(frozen=True)
class Operation:
    """One operation of a step: milliseconds, the shape of its result, and a convolution's 10^9 operations a second."""
    name: str
    kind: str
    shape: str
    ms: float
    gflops: float | None


def kind_of(name: str) -> str:
    """Return the key of KINDS for the name of an operation."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))


def xla_operations(compiled: jax.stages.Compiled, run: Callable[[], object], times: int = 1) -> list[Operation]:
    """Return the operations of a compiled step, longest first, as means over `times` steps.

    Args:
      compiled: the step.
      run: a function that runs it once, to its end.
      times: how often to run it.
    Raises:
      UserError: the trace holds no operations, as on a GPU; `scripts/train.py --profile` is for those.
    """
    instructions = {found[1]: found[2] for line in (compiled.as_text() or "").splitlines()
                    if (found := INSTRUCTION.match(line))}
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 3
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, create_perfetto_trace=True, profiler_options=options):
            for _ in range(times):
                run()
        file, = Path(directory).rglob("perfetto_trace.json.gz")
        trace = json.loads(gzip.decompress(file.read_bytes()))
    edges = [(event["ts"], event["name"]) for event in trace["traceEvents"]
             if event.get("ph") == "X" and event["name"].removeprefix("end: ") in instructions]
    if not edges:
        raise UserError("the profiler recorded no operations; --operations is for CPUs")
    found = [_operation(name, instructions, time / 1e3 / times) for name, time in _shares(edges).items()]
    return sorted(found, key=lambda operation: -operation.ms)


def _shares(edges: list[tuple[float, str]]) -> dict[str, float]:
    """Return the time of each operation; where several run at once, the time is divided among them.

    Args:
      edges: (time, 'NAME') where an operation begins and (time, 'end: NAME') where it ends.
    """
    shares: dict[str, float] = defaultdict(float)
    running, before = set(), 0.0
    for now, name in sorted(edges):
        for each in running:
            shares[each] += (now - before) / len(running)
        if name.startswith("end: "):
            running.discard(name.removeprefix("end: "))
        else:
            running.add(name)
        before = now
    return shares


def _operation(name: str, instructions: dict[str, str], ms: float) -> Operation:
    """Return the operation of an instruction of the program, {name: text}."""
    text = instructions[name]
    path, shape, gflops = _first(r'op_name="([^"]*)"', text) or name, SHAPE.search(text), None
    if " convolution(" in text:
        kernel = instructions[_first(r" convolution\(%[\w.\-]+, %([\w.\-]+)\)", text)]
        *window, channels, _ = _sizes(kernel)  # the order of dimensions is 01io, as in all our convolutions on CPUs
        gflops = 2 * math.prod(_sizes(text)) * math.prod(window) * channels / ms / 1e6
    if " dot(" in text:  # the gradient of a kernel; its name is that of the transposition that follows
        path = re.sub(r"/transpose$", "/dot_general", path)
    return Operation(_readable(path), kind_of(path), shape[0] if shape else "", ms, gflops)


def _readable(path: str) -> str:
    """Return 'backward: conv1/mul' for 'jit(train_step)/transpose(jvp(Net))/conv1/mul'."""
    inside = re.sub(r"checkpoint/|rematted_computation/|transpose\(\)/", "", re.split(r"jvp\(\w*\)+/", path)[-1])
    if "jvp(" not in path:
        return inside.removeprefix("jit(train_step)/")
    return f"{'backward' if 'transpose(jvp' in path else 'forward'}: {inside}"


def _first(pattern: str, text: str) -> str:
    """Return the first group of a pattern in a text, or ''."""
    found = re.search(pattern, text)
    return found[1] if found else ""


def _sizes(text: str) -> list[int]:
    """Return the dimensions of the first shape in a text."""
    return [int(size) for size in _first(SHAPE.pattern, text).split(",") if size]


def torch_operations(run: Callable[[], object], times: int = 1) -> dict[str, float]:
    """Return the milliseconds of each kind of PyTorch's operations in `run`, as means over `times` runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(times):
            run()
    total = dict.fromkeys(KINDS, 0.0)
    for entry in profiler.key_averages():
        total[kind_of(entry.key)] += entry.self_cpu_time_total / 1e3 / times
    return total


def by_kind(operations: list[Operation]) -> dict[str, float]:
    """Return the milliseconds of each kind."""
    total = dict.fromkeys(KINDS, 0.0)
    for operation in operations:
        total[operation.kind] += operation.ms
    return total
