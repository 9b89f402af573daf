"""Where the time of a training step on a CPU goes: XLA's operations by the clock, and PyTorch's beside them."""
import gzip
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax

from modern_cnn.errors import UserError

INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*)")
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
# kind -> what the name of such an operation has in it, in XLA's (a path of the network's modules) or in PyTorch's; the
# first that fits. Turned around: arrays brought into the order that a gradient's convolution or product wants.
KINDS = {
    "turned around": r"/transpose$|/copy$",
    "convolutions, products": r"conv_general_dilated|dot_general|convolution|\bmm\b|addmm",
    "pooling": r"_pool|pool2d",
    "normalisation": r"norm",
}
OTHER = "bias, activation, other"


@dataclass(frozen=True)
class Operation:
    """One operation of a step: milliseconds, the shape of its result, and 10^9 operations a second of a convolution."""
    name: str
    kind: str
    shape: str
    ms: float
    gflops: float | None


def kind_of(name: str) -> str:
    """The key of KINDS for an operation's name, or OTHER."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), OTHER)


def of_xla(compiled: jax.stages.Compiled, run: Callable[[], object], times: int = 1) -> list[Operation]:
    """The operations of a compiled step, longest first: the mean over `times` steps.

    Args:
      run: runs it once, to its end.
    Raises:
      UserError: the trace has none, as on a GPU, whose own profiler is `scripts/train.py --profile`.
    """
    instructions = {found[1]: found[2] for line in compiled.as_text().splitlines()
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


def _shares(edges: list[tuple[float, str]]) -> Counter:
    """How long each was at work, by when 'NAME' began and 'end: NAME' came: where several are under way, the time is
    divided among them."""
    shares, under_way, before = Counter(), set(), 0.0
    for now, name in sorted(edges):
        for each in under_way:
            shares[each] += (now - before) / len(under_way)
        if name.startswith("end: "):
            under_way.discard(name.removeprefix("end: "))
        else:
            under_way.add(name)
        before = now
    return shares


def _operation(name: str, instructions: dict[str, str], ms: float) -> Operation:
    text = instructions[name]
    path = re.search(r'op_name="([^"]*)"', text)
    shape, gflops = SHAPE.search(text), None
    if " convolution(" in text:
        kernel = SHAPE.search(instructions[re.search(r" convolution\(%[\w.\-]+, %([\w.\-]+)\)", text)[1]])
        *window, channels, _ = _sizes(kernel)  # of dimensions in the order 01io, as all of ours are on CPUs
        gflops = 2 * math.prod(_sizes(shape)) * math.prod(window) * channels / ms / 1e6
    path = path[1] if path else name
    if " dot(" in text:  # a kernel's gradient, named after the step that brought it into its final order
        path = re.sub(r"/transpose$", "/dot_general", path)
    return Operation(_readable(path), kind_of(path), shape[0] if shape else "", ms, gflops)


def _readable(path: str) -> str:
    """'jit(train_step)/transpose(jvp(Net))/conv1/mul' -> 'backward: conv1/mul'."""
    inside = re.sub(r"checkpoint/|rematted_computation/|transpose\(\)/", "", re.split(r"jvp\(\w*\)+/", path)[-1])
    if "jvp(" not in path:
        return inside.removeprefix("jit(train_step)/")
    return f"{'backward' if 'transpose(jvp' in path else 'forward'}: {inside}"


def _sizes(shape: re.Match) -> list[int]:
    return [int(size) for size in shape[1].split(",") if size]


def of_torch(run: Callable[[], object], times: int = 1) -> Counter:
    """{kind: milliseconds} of PyTorch's operations in `run`: the mean over `times` of it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(times):
            run()
    total = Counter()
    for entry in profiler.key_averages():
        total[kind_of(entry.key)] += entry.self_cpu_time_total / 1e3 / times
    return total


def by_kind(operations: list[Operation]) -> Counter:
    """{kind: milliseconds}."""
    total = Counter()
    for operation in operations:
        total[operation.kind] += operation.ms
    return total
