"""Measurements as tables: ours beside its peers, a row as soon as it is measured; and the operations of a step."""
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from modern_cnn.errors import UserError, lookup
from modern_cnn.runs import workdir
from modern_cnn.settings import Settings
from modern_cnn.sweeps.seeds import markdown_table
from scripts.bench import operations
from scripts.bench.epochs import compare_epochs
from scripts.bench.loading import compare_loading
from scripts.bench.steps import PEERS, SIZES, compare_steps, compile_step, make_case, torch_step
from scripts.bench.timing import write_measurements

COLUMNS = ("<16", "<16", "<20", ">32", ">10", ">12", ">8")  # side and width of each, as rows are printed one by one


def report_steps(names: Sequence[str], peers: Sequence[str], batch_size: int, dtype: str, rounds: int,
                 out: str) -> None:
    """Print the time of a training step of each network, ours and its peers'.

    Args:
      names: networks; none: those of SIZES.
      peers: keys of PEERS.
      batch_size, dtype: see `make_case`.
      rounds: turns of each.
      out: file for a JSON of the measurements, or ''.
    Raises:
      UserError: an unknown network or peer, or an `out` that cannot be written.
    """
    cases = [make_case(name, batch_size, dtype) for name in names or SIZES]
    _check(peers, PEERS, out)
    _report((compare_steps(case, peers, rounds) for case in cases), "ms a step", dtype, rounds, out)


def report_epochs(config: Settings, peers: Sequence[str], rounds: int, out: str, *, loading: bool = False) -> None:
    """Print the time of an epoch of a config, ours and its peers'.

    Args:
      config: of a run.
      peers, rounds, out: see `report_steps`; the peers are 'torch', and for loading also 'tf.data'.
      loading: only the loading of a streamed folder's images.
    Raises:
      UserError: an unknown peer, a config that cannot be timed, or an `out` that cannot be written.
    """
    _check(peers, ["torch", "tf.data"] if loading else ["torch"], out)
    compare, dtype = (compare_loading, "uint8") if loading else (compare_epochs, "float32")
    _report((compare(config, peers, rounds) for _ in range(1)), "ms an epoch", dtype, rounds, out)


def _check(peers: Sequence[str], known: Collection[str], out: str) -> None:
    """Raise UserError for an unknown peer, or a file whose folder is missing."""
    for peer in peers:
        lookup(dict.fromkeys(known), peer, "peer")
    if out and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {Path(out).parent}")


def _report(measured: Iterable[list[dict[str, Any]]], unit: str, dtype: str, rounds: int, out: str) -> None:
    """Print records as rows and write them to `out`, as soon as they are measured."""
    print(f"{workdir.describe_machine()['machine']}, {jax.devices()[0].device_kind}; {dtype}; {rounds} turns of each; "
          "ms: median (fastest to slowest)")
    _print_row("network", "batch, image", "who", unit, "images/s", "ready after", "ours is")
    records = []
    for found in measured:
        records += found
        for record in found:
            _print_row(record["model"], f"{record['batch_size']}, {'x'.join(map(str, record['image_shape']))}",
                       record["who"],
                       f"{record['median_ms']:,.1f} ({record['min_ms']:,.1f} to {record['max_ms']:,.1f})",
                       f"{record['images_per_second']:,.0f}", f"{record['ready_s']:.1f} s",
                       f"{record['ours_is_faster']:.2f}x")
        write_measurements(out, results=records)


def _print_row(*cells: str) -> None:
    print(" ".join(map(format, cells, COLUMNS)), flush=True)


def report_operations(names: Sequence[str], batch_size: int, dtype: str, rounds: int, top: int = 5) -> None:
    """Print where the time of a network's step goes, ours and PyTorch's, and our longest operations, as markdown.

    Args:
      names, batch_size, dtype: see `report_steps`.
      rounds: steps that are averaged, after three that do not count.
      top: number of operations.
    Raises:
      UserError: an unknown network, no PyTorch, or a device whose operations cannot be traced.
    """
    for case in [make_case(name, batch_size, dtype) for name in names or SIZES]:
        (step, _), compiled = compile_step(case)
        peer, _ = torch_step(case)
        for _ in range(3):
            step()
            peer()
        found = operations.xla_operations(compiled, step, rounds)
        ours, theirs = operations.by_kind(found), operations.torch_operations(peer, rounds)
        rows = [["", "ours, ms", "PyTorch, ms"]]
        rows += [[kind, f"{ours[kind]:.1f}", f"{theirs[kind]:.1f}"] for kind in operations.KINDS]
        rows += [[f"**{cell}**" for cell in ("sum", f"{sum(ours.values()):.1f}", f"{sum(theirs.values()):.1f}")]]
        longest = [["ms", "GFLOP/s", "result", "operation"]]
        longest += [[f"{each.ms:.1f}", f"{each.gflops:.0f}" if each.gflops else "", f"`{each.shape}`", f"`{each.name}`"]
                    for each in found[:top]]
        print("", f"{case.name}, batch {case.batch_size}, {'x'.join(map(str, case.image_shape))}", "",
              markdown_table(rows), markdown_table(longest), sep="\n", flush=True)
