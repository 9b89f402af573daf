"""Checkpoints that are complete or are not used: Orbax writes them, and a digest inside each proves them.

A checkpoint has two parts. 'variables' are parameters and batch statistics, or their averages where a run keeps them:
all that evaluation needs. 'training' holds optimiser, step, the metrics since the last log line and, beside averages,
the variables themselves, so that a resumed run is the same run.
"""
import json
import logging
import shutil
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from modern_cnn.errors import UserError
from modern_cnn.training import devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)

KEEP_NEWEST = 2  # the newest may be damaged: there is always one before it


def _leaf_digest(x: jax.Array) -> jax.Array:
    """Return a uint32 that changes with every single value: the bits, times odd numbers, summed modulo 2^32."""
    bits = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    bits = bits.astype(jnp.uint32).ravel()
    weights = jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(2654435761) | jnp.uint32(1)
    return jnp.sum(bits * weights, dtype=jnp.uint32)


@jax.jit
def _digest(tree: Any) -> jax.Array:
    """Return uint32 [number of leaves]. Integer sums do not depend on the order, so all devices and shardings agree."""
    return jnp.stack([_leaf_digest(x) for x in jax.tree.leaves(tree)])


@jax.jit
def _finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)
                      if jnp.issubdtype(x.dtype, jnp.floating)]).all()


def _reason(error: Exception) -> str:
    """Return why a checkpoint failed, in one line without the inner workings of TensorStore."""
    return " ".join(str(error).partition("See full TensorStore details")[0].split())[:250] or type(error).__name__


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Return what is higher for a better checkpoint: validation accuracy, then the smaller loss."""
    return metrics["accuracy"], -metrics["loss"]


def _parts(state: TrainState, metrics: Metrics) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (variables, training) of a checkpoint."""
    training = {"step": state.step, "opt_state": state.opt_state, "metrics": metrics}
    return state.evaluation_variables, training if state.ema is None else training | {"variables": state.variables}


def _validation(directory: Path, step: int) -> dict[str, float] | None:
    """Return the validation metrics of a checkpoint: None if there are none, {} if they cannot be read."""
    path = directory / str(step) / "metrics" / "metrics"
    if not path.exists():
        return None
    try:
        metrics = json.loads(path.read_bytes())
        return metrics if {"accuracy", "loss"} <= metrics.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _unreadable(directory: Path, damaged: dict[int, str]) -> UserError:
    newest = max(damaged)
    return UserError(f"no checkpoint in {directory} can be read (step {newest}: {damaged[newest]}); move that "
                     "directory away to start again from step 0")


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


def _read(manager: ocp.CheckpointManager, step: int, **templates: Any) -> dict[str, Any]:
    """Return the named parts of a checkpoint, shaped as `templates`. Raise whatever a damaged file causes."""
    wanted = {name: {"tree": tree, "digest": np.zeros(len(jax.tree.leaves(tree)), np.uint32)}
              for name, tree in templates.items()}
    restored = manager.restore(step, args=ocp.args.Composite(
        **{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}))
    for name in templates:
        if not np.array_equal(_digest(restored[name]["tree"]), restored[name]["digest"]):
            raise ValueError(f"the digest of its {name} does not fit them: some bits have changed")
    return {name: restored[name]["tree"] for name in templates}


def saved_steps(workdir: Path) -> list[int]:
    """Return the steps that have a complete checkpoint, ascending."""
    # A checkpoint gets its plain name in the moment it is complete; the list of Orbax also has those under way.
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


class Checkpoints:
    """The checkpoints of a workdir: the newest two, and the best on validation."""

    def __init__(self, workdir: Path, *, read_only: bool = False):
        self._workdir = workdir.absolute()
        self.directory = self._workdir / "checkpoints"
        if not read_only:  # Orbax reads the metrics of every step when it opens, and damaged ones would stop it
            damaged = {step: "its validation metrics cannot be read" for step in self.steps()
                       if _validation(self.directory, step) == {}}
            if damaged and len(damaged) == len(self.steps()):
                raise _unreadable(self.directory, damaged)
            _set_aside(self.directory, damaged)
        self._open(read_only)

    def _open(self, read_only: bool) -> None:
        policies, rank = ocp.checkpoint_managers, cast(Any, _rank)  # annotated as a float, but anything that sorts does
        self._manager = ocp.CheckpointManager(self.directory, options=ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([
                policies.LatestN(KEEP_NEWEST),
                policies.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False)]),
            best_fn=rank,  # without it the metrics would not be written
            lightweight_initialize=read_only, cleanup_tmp_directories=not read_only, create=not read_only,
            read_only=read_only))

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete. Raise UserError if it could not be written."""
        try:
            self._manager.wait_until_finished()
        except Exception as e:  # Orbax and TensorStore raise many kinds for a full or broken disk
            raise self._unwritten(e) from e

    def close(self) -> None:
        """End the threads that write; a checkpoint under way is finished, but its errors are lost without `wait`."""
        self._manager.close()

    def _unwritten(self, error: Exception) -> UserError:
        last = f"the last good checkpoint is step {self.steps()[-1]}" if self.steps() else "there is none yet"
        return UserError(f"a checkpoint could not be written to {self.directory}: {_reason(error)}; {last}. Free some "
                         "space and run the same command again")

    def steps(self) -> list[int]:
        """Return the steps that have a complete checkpoint, ascending."""
        return saved_steps(self._workdir)

    def result(self, template: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return (step, variables shaped as `template`) of the result: the best on validation, else the newest.

        A damaged checkpoint is passed over with a warning, for the next best.

        Raises:
          UserError: there is no checkpoint, or none that can be read.
        """
        self.wait()
        devices.wait_for_all("the checkpoints are written")
        ranks = {step: (_rank(found) if (found := _validation(self.directory, step)) else (-1.0, 0.0), step)
                 for step in self.steps()}
        damaged: dict[int, str] = {}
        for step in sorted(ranks, key=lambda step: ranks[step], reverse=True):
            try:
                return step, _read(self._manager, step, variables=template)["variables"]
            except Exception as e:  # any kind of damage, any exception
                damaged[step] = _reason(e)
                log.warning("the checkpoint of step %d is damaged (%s); it is passed over", step, damaged[step])
        if not damaged:
            raise UserError(f"{self._workdir} has no checkpoint yet")
        raise _unreadable(self.directory, damaged)

    def save(self, state: TrainState, metrics: Metrics, validation: dict[str, float] | None = None) -> bool:
        """Begin to write a checkpoint and return; the device may go on.

        Args:
          state: is copied to the host before this returns, so the next step may donate it.
          metrics: counted since the last log line.
          validation: 'accuracy' and 'loss', by which the best checkpoint is kept.
        Returns:
          False, with nothing written, where a parameter is not finite.
        Raises:
          UserError: this checkpoint or the one before could not be written.
        """
        variables, training = _parts(state, metrics)
        if not _finite(variables):
            return False
        try:
            self._manager.save(int(state.step), metrics=validation, force=True, args=ocp.args.Composite(
                variables=ocp.args.StandardSave({"tree": variables, "digest": _digest(variables)}),
                training=ocp.args.StandardSave({"tree": training, "digest": _digest(training)})))
        except Exception as e:
            raise self._unwritten(e) from e
        return True

    def restore(self, state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
        """Return state and metrics of the newest good checkpoint, shaped as those given; these, if there is none.

        A damaged checkpoint is reported and moved aside to `checkpoints_damaged/`, and the one before is taken.

        Raises:
          UserError: there are checkpoints but none can be read.
        """
        variables, training = _parts(state, metrics)
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                parts = _read(self._manager, step, variables=variables, training=training)
            except Exception as e:  # any kind of damage, any exception
                damaged[step] = _reason(e)
                continue
            if damaged:
                self._manager.close()
                _set_aside(self.directory, damaged)
                self._open(read_only=False)
                log.warning("going on from step %d instead", step)
            saved, done = parts["variables"], parts["training"]
            collections = done.get("variables", saved).copy()
            ema = None if state.ema is None else saved
            return state.replace(step=done["step"], params=collections.pop("params"), collections=collections,
                                 opt_state=done["opt_state"], ema=ema), done["metrics"]
        if damaged:
            raise _unreadable(self.directory, damaged)
        return state, metrics
