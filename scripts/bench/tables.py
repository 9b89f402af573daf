"""What was measured in turns as a table of text: a line each for ours and its peers; or the operations of a step."""
import importlib.metadata
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax

from modern_cnn.errors import UserError, lookup
from modern_cnn.runs import workdir
from scripts.bench import operations
from scripts.bench.epochs import compare_epochs
from scripts.bench.loading import compare_loading
from scripts.bench.steps import PEERS, SIZES, Case, compare, compile_step, torch_eager

log = logging.getLogger(__name__)

ROW = "%-16s %-16s %-16s %28s %10s %12s %8s"


def report(names: Sequence[str], peers: Sequence[str], batch_size: int, dtype: str, rounds: int, out: str,
           config=None, loading: bool = False) -> None:
    """Compares networks one after the other, each as a line of a table as soon as it is measured; `out` gets JSON.

    Args:
      config: of a run, whose epochs are timed then instead of steps; the other numbers are the config's own.
      loading: of those epochs, the loading of images alone.
    Raises:
      UserError: an unknown network or peer, or an `out` that cannot be written.
    """
    cases = [] if config else [Case.of(name, batch_size, dtype) for name in names or SIZES]
    known = {"torch", "tf.data"} if loading else {"torch"} if config else PEERS
    for peer in peers:
        lookup(dict.fromkeys(known), peer, "peer")
    if out and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {Path(out).parent}")
    log.info("%s", workdir.describe_machine()["machine"] + f", {jax.devices()[0].device_kind}; {dtype}; "
             f"{rounds} turns of each; ms: median (fastest to slowest)")
    log.info(ROW, "network", "batch, image", "who", "ms an epoch" if config else "ms a step", "images/s", "ready after",
             "ours is")
    records = []
    of_config = compare_loading if loading else compare_epochs
    for measure in [partial(of_config, config)] if config else [partial(compare, case) for case in cases]:
        for record in measure(peers, rounds):
            records.append(record)
            size = f"{record['batch_size']}, {'x'.join(map(str, record['image_shape']))}"
            spread = f"{record['median_ms']:,.1f} ({record['min_ms']:,.1f} to {record['max_ms']:,.1f})"
            log.info(ROW, record["model"], size, record["who"], spread, f"{record['images_per_second']:,.0f}",
                     f"{record['ready_s']:.1f} s", f"{record['ours_is_faster']:.2f}x")
        if out:
            machine = workdir.describe_machine()
            if "torch" in sys.modules:
                machine["versions"]["torch"] = importlib.metadata.version("torch")
            with workdir.disk_errors(Path(out)):
                workdir.write_json(Path(out), {**machine, "results": records})


def report_operations(names: Sequence[str], batch_size: int, dtype: str, rounds: int, top: int = 5) -> None:
    """For each network where the time of its step goes, ours and PyTorch's, and our longest operations.

    Means over `rounds` steps, after three that do not count.
    """
    for case in [Case.of(name, batch_size, dtype) for name in names or SIZES]:
        step, _, compiled = compile_step(case)
        peer, _ = torch_eager(case)
        for _ in range(3):
            step(), peer()
        found = operations.of_xla(compiled, step, rounds)
        kinds, theirs = operations.by_kind(found), operations.of_torch(peer, rounds)
        log.info("\n%s, batch %d, %s\n", case.name, case.batch_size, "x".join(map(str, case.image_shape)))
        log.info("| | ours, ms | PyTorch, ms |\n|---|---|---|")
        for kind in [*operations.KINDS, operations.OTHER]:
            log.info("| %s | %.1f | %.1f |", kind, kinds[kind], theirs[kind])
        log.info("| **sum** | **%.1f** | **%.1f** |\n", kinds.total(), theirs.total())
        log.info("| ms | GFLOP/s | result | operation |\n|---|---|---|---|")
        for each in found[:top]:
            log.info("| %.1f | %s | `%s` | `%s` |", each.ms, f"{each.gflops:.0f}" if each.gflops else "", each.shape,
                     each.name)
