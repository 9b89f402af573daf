"""Checkpoints that are complete or are not used: Orbax writes them, and a digest inside each proves them.

A checkpoint has two parts. 'variables' are parameters and batch statistics, or their averages where a run keeps them:
all that evaluation needs. 'training' is what a resumed run needs too: optimiser, step, metrics since the last log line.
"""
import contextlib
import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from modern_cnn.errors import UserError, parse_json, some
from modern_cnn.runs import workdir as files
from modern_cnn.runs.log import read_metrics
from modern_cnn.training import devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.state import TrainState

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

log = logging.getLogger(__name__)

KEEP_NEWEST = 2  # the newest may be damaged: there is always one before it


@jax.jit
def _digest(tree: Any) -> jax.Array:
    """Return uint32 [leaves]: bits times odd numbers, summed modulo 2^32; all values count, their order does not."""
    def digest(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
        bits = bits.astype(jnp.uint32).ravel()
        weights = jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(2654435761) | jnp.uint32(1)
        return jnp.sum(bits * weights, dtype=jnp.uint32)

    return jnp.stack([digest(x) for x in jax.tree.leaves(tree)])


@jax.jit
def _finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def _reason(error: Exception) -> str:
    """Return why a checkpoint failed, in one line without the inner workings of TensorStore."""
    return " ".join(str(error).partition("See full TensorStore details")[0].split())[:250] or type(error).__name__


def rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Return what is higher for a better checkpoint: validation accuracy, then the smaller loss."""
    return float(metrics["accuracy"]), -float(metrics["loss"])


def stops_early(validated: Sequence[dict[str, float]], patience: int) -> bool:
    """Return whether the last `patience` evaluations, in order of steps, were none better than the best before them."""
    ranks = [rank(metrics) for metrics in validated]
    return 0 < patience < len(ranks) and max(ranks[-patience:]) <= max(ranks[:-patience])


def _ranks(workdir: Path) -> dict[int, tuple[float, float]]:
    """Return {step: rank} of validated checkpoints, by metrics.jsonl or else their own copies; warn of bad copies."""
    recorded = {record["step"]: rank(record) for record in read_metrics(workdir / "metrics.jsonl")
                if record["split"] == "validation"}
    ranks = {}
    for step in saved_steps(workdir):
        path, copy, why = workdir / "checkpoints" / str(step) / "metrics" / "metrics", None, "is another"
        try:
            copy = rank(parse_json(path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError) as e:
            why = "is gone" if isinstance(e, FileNotFoundError) else f"cannot be read: {_reason(e)}"
        ranks[step] = recorded.get(step, copy)
        if copy != ranks[step] or why.startswith("cannot"):
            log.warning("the validation result in %s %s; %s", path, why, "metrics.jsonl has it too" if step in recorded
                        else f"the checkpoint of step {step} counts as not validated")
    return {step: found for step, found in ranks.items() if found}


def _parts(state: TrainState, metrics: Metrics) -> dict[str, Any]:
    """Return the two parts of a checkpoint."""
    training = {"step": state.step, "opt_state": state.opt_state, "metrics": metrics}
    return {"variables": state.evaluation_variables,
            "training": training if state.ema is None else training | {"variables": state.variables}}


def saved_steps(workdir: Path) -> list[int]:
    """Return the steps that have a complete checkpoint, ascending. Raise UserError if they cannot be listed."""
    try:  # a checkpoint gets its plain name in the moment it is complete; the list of Orbax also has those under way
        return sorted(int(name) for name in os.listdir(workdir / "checkpoints") if name.isdecimal())
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UserError(f"cannot read {workdir / 'checkpoints'}: {e.strerror}") from e


def align(workdirs: Sequence[Path]) -> None:
    """Let runs that train together go on from the same step, where a kill came between their saves of one step.

    Who is ahead loses the newest checkpoint: it will be written again, equal to the bit, as nothing else would be.
    """
    steps = [[0, *saved_steps(workdir)] for workdir in workdirs]
    last = max(set.intersection(*map(set, steps)))
    if all(last in own[-2:] for own in steps):
        for workdir, own in zip(workdirs, steps, strict=True):
            if own[-1] > last:
                files.write_json(workdir / "checkpoints.json", {"steps": own[1:-1]})
                shutil.rmtree(workdir / "checkpoints" / str(own[-1]))


def _set_aside(directory: Path, damaged: dict[int, str]) -> None:
    """Move damaged checkpoints out of the way of new ones, without deleting them."""
    aside = directory.with_name("checkpoints_damaged")
    devices.wait_for_all("every process has seen the damage")
    for step, reason in damaged.items() if devices.leads() else ():
        aside.mkdir(exist_ok=True)
        log.warning("the checkpoint of step %d is damaged (%s); it was moved to %s", step, reason, aside)
        shutil.rmtree(aside / str(step), ignore_errors=True)
        (directory / str(step)).rename(aside / str(step))
    devices.wait_for_all("the damaged checkpoints are out of the way")


def _warn_of_gone(path: Path, steps: Sequence[int]) -> None:
    """Warn of checkpoints that checkpoints.json, at `path`, names and that are not among `steps`."""
    try:
        gone = [step for step in files.read_json(path)["steps"] if step not in steps]
        if gone:
            log.warning("checkpoints of %s are gone (step %s); those that are left count", path.parent,
                        some(map(str, gone)))
    except (UserError, KeyError, TypeError) as e:
        if path.exists():  # earlier versions wrote none
            log.warning("cannot tell whether a checkpoint is gone: %s", e)


@contextlib.contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    """Raise UserError for whatever Orbax and TensorStore raise in the block for a full or broken disk."""
    try:
        yield
    except Exception as e:
        steps = saved_steps(workdir)
        last = f"the last good checkpoint is step {steps[-1]}" if steps else "there is none yet"
        raise UserError(f"a checkpoint could not be written to {workdir / 'checkpoints'}: {_reason(e)}; {last}. Free "
                        "some space and run the same command again") from e


def _open(directory: Path, policy: "Checkpoints", written: Callable[[], None],
          read_only: bool) -> "ocp.CheckpointManager":
    """Return Orbax's manager, which keeps what `policy` preserves and calls `written` at the end of each save."""
    import orbax.checkpoint as ocp

    return ocp.CheckpointManager(directory, options=ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=lambda metrics: metrics["accuracy"],  # without it the metrics would not be written
        async_options=ocp.AsyncOptions(post_finalization_callback=written),
        lightweight_initialize=True,  # else Orbax reads the metrics of every step, and damaged ones would stop it
        cleanup_tmp_directories=not read_only, create=not read_only, read_only=read_only))


class Checkpoints:
    """The checkpoints of a workdir: the newest two, and the best on validation. checkpoints.json lists them."""

    def __init__(self, workdir: Path, *, read_only: bool = False):
        self._workdir, self._directory = workdir.absolute(), workdir.absolute() / "checkpoints"
        self._list, self._read_only = self._workdir / "checkpoints.json", read_only
        self._ranks, steps = _ranks(workdir), saved_steps(workdir)
        _warn_of_gone(self._list, steps)
        if not read_only:  # a kill may have come between a save and the removal of what it replaces
            for step in set(steps) - self._kept(steps) if devices.leads() else ():
                shutil.rmtree(self._directory / str(step), ignore_errors=True)
            devices.wait_for_all("what a kill left is removed")

    @functools.cached_property
    def _manager(self) -> "ocp.CheckpointManager":
        """Return what reads and writes, from the first use on: Orbax loads slowly, and a first step needs none."""
        return _open(self._directory, self, self._write_list, self._read_only)

    def _kept(self, steps: Sequence[int]) -> set[int]:
        """Return which of the steps, ascending, stay."""
        return {*steps[-KEEP_NEWEST:], *sorted(self._ranks.keys() & set(steps), key=lambda n: (self._ranks[n], n))[-1:]}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Return for each checkpoint whether Orbax, which calls this at each save, is to keep it."""
        kept = self._kept([each.step for each in checkpoints])
        return [each.step in kept for each in checkpoints]

    def _write_list(self) -> None:
        """Write which checkpoints there are; Orbax calls it when one is written, just before it gets its name."""
        steps = sorted({*saved_steps(self._workdir), self._saving})
        files.write_json(self._list, {"steps": sorted(self._kept(steps))})

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete. Raise UserError if it could not be written."""
        if "_manager" in vars(self):
            with _writing(self._workdir):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """End the threads that write; a checkpoint under way is finished, but its errors are lost without `wait`."""
        if "_manager" in vars(self):
            for end in (self._manager.wait_until_finished, self._manager.close):  # an error would stop the second
                with contextlib.suppress(Exception):
                    end()

    def _read(self, steps: Iterable[int], **templates: Any) -> tuple[int, dict[str, Any], dict[int, str]]:
        """Return (step, parts shaped as `templates`, what is wrong with those before) of the first good checkpoint."""
        import orbax.checkpoint as ocp

        wanted = {name: ocp.args.StandardRestore({
            "tree": tree, "digest": np.zeros(len(jax.tree.leaves(tree)), np.uint32)})
            for name, tree in templates.items()}
        damaged: dict[int, str] = {}
        for step in steps:
            try:
                parts = self._manager.restore(step, args=ocp.args.Composite(**wanted))
                for name in templates:
                    if not np.array_equal(_digest(parts[name]["tree"]), parts[name]["digest"]):
                        raise ValueError(f"the digest of its {name} does not fit them: some bits have changed")
                return step, {name: parts[name]["tree"] for name in templates}, damaged
            except Exception as e:  # any kind of damage, any exception
                damaged[step] = _reason(e)
        step, reason = max(damaged.items())
        raise UserError(f"no checkpoint in {self._directory} can be read (step {step}: {reason}); move that directory "
                        "away to start again from step 0")

    def result(self, template: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return (step, variables shaped as `template`) of the result: the best on validation, else the newest.

        A damaged checkpoint is passed over with a warning, for the next best. Raise UserError if none can be read.
        """
        self.wait()
        devices.wait_for_all("the checkpoints are written")
        ranks = {step: (self._ranks.get(step, (-1.0, 0.0)), step) for step in saved_steps(self._workdir)}
        if not ranks:
            raise UserError(f"{self._workdir} has no checkpoint yet")
        step, parts, damaged = self._read(sorted(ranks, key=lambda step: ranks[step], reverse=True), variables=template)
        for bad, reason in damaged.items():
            log.warning("the checkpoint of step %d is damaged (%s); it is passed over", bad, reason)
        return step, parts["variables"]

    def save(self, state: TrainState, metrics: Metrics, validation: dict[str, float] | None = None) -> bool:
        """Begin to write a checkpoint; return False, with nothing written, where a parameter is not finite.

        `state` is copied to the host before this returns, so the next step may donate it. `metrics` are those since the
        last log line. By `validation` the best checkpoint is kept. Raise UserError if this or the last was not written.
        """
        import orbax.checkpoint as ocp

        parts = _parts(state, metrics)
        if not _finite(parts["variables"]):
            return False
        self.wait()
        self._saving = int(state.step)
        if validation:
            self._ranks[self._saving] = rank(validation)
        with _writing(self._workdir):
            self._manager.save(self._saving, metrics=validation, force=True, args=ocp.args.Composite(**{
                name: ocp.args.StandardSave(jax.device_get({"tree": tree, "digest": _digest(tree)}))
                for name, tree in parts.items()}))  # Orbax takes much longer to write arrays of a device
        return True

    def restore(self, state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
        """Return state and metrics of the newest good checkpoint, shaped as those given; these, if there is none.

        A damaged one is reported, moved to `checkpoints_damaged/` and the one before taken. UserError: all are damaged.
        """
        steps = saved_steps(self._workdir)
        if not steps:
            return state, metrics
        step, parts, damaged = self._read(reversed(steps), **_parts(state, metrics))
        if damaged:
            _set_aside(self._directory, damaged)
            self._manager.reload()
            log.warning("going on from step %d instead", step)
        saved, done = parts["variables"], parts["training"]
        collections = done.get("variables", saved).copy()
        return state.replace(step=done["step"], params=collections.pop("params"), collections=collections,
                             opt_state=done["opt_state"], ema=None if state.ema is None else saved), done["metrics"]
