"""Where the time of a training step on a CPU goes: the operations of XLA, and those of PyTorch beside them."""
import gzip
import json
import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from modern_cnn.errors import UserError
from modern_cnn.sweeps.report import markdown_table
from scripts.bench.steps import our_step, torch_step
from scripts.bench.timing import Case, along

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)", re.MULTILINE)
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
OTHER = "bias, activation, other"
# kind -> pattern in the name of its operations: in XLA a path of modules, in PyTorch 'aten::...'. The first that fits
# counts. 'transposes' are arrays brought into the order that the gradient of a convolution or a product needs.
KINDS = {
    "transposes": r"/transpose$|/copy$",
    "convolutions, products": r"conv_general_dilated|dot_general|convolution|\bmm\b|addmm",
    "pooling": r"_pool|pool2d",
    "normalisation": r"norm",
    OTHER: "",
}


class Operation(NamedTuple):
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
    """Return the operations of a compiled step, longest first, as means over `times` calls of `run`, a step each.

    Raise UserError if the trace holds no operations, as on a GPU; `scripts/train.py --profile` is for those.
    """
    instructions = dict(INSTRUCTION.findall(compiled.as_text() or ""))
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

    An edge is (time, 'NAME') where an operation begins and (time, 'end: NAME') where it ends.
    """
    shares, running, before = defaultdict(float), set(), 0.0
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
    """Return an instruction, called 'backward: conv1/mul' for 'jit(train_step)/transpose(jvp(Net))/conv1/mul'."""
    text = instructions[name]
    path = (re.findall(r'op_name="([^"]+)"', text) or [name])[0]
    shape, gflops = SHAPE.search(text), None
    if " convolution(" in text:
        kernel = instructions[re.findall(r" convolution\(%[\w.\-]+, %([\w.\-]+)\)", text)[0]]
        result, sizes = ([int(size) for size in SHAPE.findall(each)[0].split(",")] for each in (text, kernel))
        *window, channels, _ = sizes  # the order of dimensions is 01io, as in all our convolutions on CPUs
        gflops = 2 * math.prod(result) * math.prod(window) * channels / ms / 1e6
    if " dot(" in text:  # the gradient of a kernel; its name is that of the transposition that follows
        path = re.sub(r"/transpose$", "/dot_general", path)
    inside = re.sub(r"checkpoint/|rematted_computation/|transpose\(\)/", "", re.split(r"jvp\(\w*\)+/", path)[-1])
    if "jvp(" in path:
        inside = f"{'backward' if 'transpose(jvp' in path else 'forward'}: {inside}"
    return Operation(inside.removeprefix("jit(train_step)/"), kind_of(path), shape[0] if shape else "", ms, gflops)


def by_kind(operations: Sequence[Operation]) -> dict[str, float]:
    """Return the milliseconds of each kind."""
    return {kind: sum(operation.ms for operation in operations if operation.kind == kind) for kind in KINDS}


def torch_operations(run: Callable[[], object], times: int = 1) -> list[Operation]:
    """Return PyTorch's operations in `run` and their milliseconds, as means over `times` runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(times):
            run()
    return [Operation(entry.key, kind_of(entry.key), "", entry.self_cpu_time_total / 1e3 / times, None)
            for entry in profiler.key_averages()]


def report_operations(cases: Sequence[Case], rounds: int, top: int = 5) -> None:
    """Print where the time of each step goes, ours and PyTorch's, and our `top` longest operations, as markdown.

    Times are means over `rounds` steps, after three more. Raise UserError without PyTorch, or a trace of operations.
    """
    for case in along(cases, "networks"):
        ours, theirs = our_step(case), torch_step(case)
        for run in (ours.run, theirs.run) * 3:
            run()
        found = xla_operations(ours.compiled, ours.run, rounds)
        sums = by_kind(found), by_kind(torch_operations(theirs.run, rounds))
        rows = [["", "ours, ms", "PyTorch, ms"], *([kind, *(f"{ms[kind]:.1f}" for ms in sums)] for kind in KINDS),
                ["**sum**", *(f"**{sum(ms.values()):.1f}**" for ms in sums)]]
        longest = [["ms", "GFLOP/s", "result", "operation"],
                   *([f"{each.ms:.1f}", f"{each.gflops:.0f}" if each.gflops else "", f"`{each.shape}`",
                      f"`{each.name}`"] for each in found[:top])]
        print("", f"{case.model}, batch {case.batch_size}, {'x'.join(map(str, case.image_shape))}", "",
              markdown_table(rows), markdown_table(longest), sep="\n", flush=True)
