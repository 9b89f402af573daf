"""Stand-ins for wandb and mlflow, with the part of them that runs use and their servers' memory.

Every call is noted as (its name in the real package, arguments, keywords): test_loggers has them accepted by the real
signatures, where the packages are installed.
"""
import sys
import types
from importlib.machinery import ModuleSpec


class Fakes:
    """What was sent: `wandb` {id: run}, `mlflow` {id: run}; `calls`; and `fail`, names of calls that raise."""

    def __init__(self):
        self.wandb, self.mlflow, self.calls, self.fail = {}, {}, [], set()
        self.experiments = {}

    def note(self, name, /, *args, **named):
        self.calls.append((name, args, named))
        if name in self.fail:
            raise ConnectionError("the network is\ngone")

    def install(self, patch):
        """Put the fakes where the packages would be, and return self."""
        for module in (_wandb(self), *_mlflow(self)):
            module.__spec__ = ModuleSpec(module.__name__, None, origin="fake")
            patch.setitem(sys.modules, module.__name__, module)
        return self

    def rows(self, run):
        """The history of the one run of W&B, without what W&B adds."""
        return self.wandb[run]["history"]

    def points(self, run):
        """{(name, step): value} of a run of MLflow; a point that is there twice is an error."""
        metrics = self.mlflow[run]["metrics"]
        found = {(m.key, m.step): m.value for m in metrics}
        assert len(found) == len(metrics)
        return found


def _wandb(fakes):
    module = types.ModuleType("wandb")

    class Settings:
        def __init__(self, **named):
            fakes.note("wandb.Settings", **named)

    class Run:
        offline, url = False, "https://host/run"

        def __init__(self, run_id, config):
            self.id, self.kept = run_id, {"history": [], "config": config, "axes": {}, "exit": None}
            self.summary = {}
            self.kept["summary"] = self.summary
            fakes.wandb[run_id] = self.kept  # what was there is replaced

        def define_metric(self, name, **named):
            fakes.note("wandb.Run.define_metric", name, **named)
            self.kept["axes"][name] = named

        def log(self, data):
            fakes.note("wandb.Run.log", data)
            self.kept["history"].append(dict(data))

        def finish(self, **named):
            fakes.note("wandb.Run.finish", **named)
            self.kept["exit"] = named["exit_code"]

    def init(**named):
        fakes.note("wandb.init", **named)
        return Run(named["id"], named["config"])

    module.Settings, module.init = Settings, init
    return module


def _mlflow(fakes):
    package, entities, exceptions = (types.ModuleType(f"mlflow{end}") for end in ("", ".entities", ".exceptions"))

    class MlflowException(Exception):
        def __init__(self, text, error_code="INTERNAL_ERROR"):
            super().__init__(text)
            self.error_code = error_code

    def entity(kind, *fields):
        def make(*args):
            fakes.note(f"mlflow.entities.{kind}", *args)
            return types.SimpleNamespace(**dict(zip(fields, args, strict=True)))

        return make

    class MlflowClient:
        tracking_uri = "fake://"

        def __init__(self):
            fakes.note("mlflow.MlflowClient")

        def __getattr__(self, name):
            def call(*args, **named):
                fakes.note(f"mlflow.MlflowClient.{name}", *args, **named)
                return getattr(self, f"_{name}")(*args, **named)

            return call

        def _get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id=fakes.experiments[name]) if name in fakes.experiments else None

        def _create_experiment(self, name):
            return fakes.experiments.setdefault(name, str(len(fakes.experiments)))

        def _create_run(self, experiment, run_name):
            new = f"run{len(fakes.mlflow)}"
            fakes.mlflow[new] = {"experiment": experiment, "name": run_name, "metrics": [], "params": {}, "tags": {},
                                 "status": "RUNNING", "stage": "active"}
            return self._get_run(new)

        def _get_run(self, run):
            if run not in fakes.mlflow:
                raise MlflowException("no such run", "RESOURCE_DOES_NOT_EXIST")
            kept = fakes.mlflow[run]
            return types.SimpleNamespace(
                info=types.SimpleNamespace(run_id=run, lifecycle_stage=kept["stage"]),
                data=types.SimpleNamespace(metrics={m.key: m.value for m in kept["metrics"]}, params=kept["params"]))

        def _get_metric_history(self, run, name):
            return [m for m in fakes.mlflow[run]["metrics"] if m.key == name]

        def _log_batch(self, run, metrics=(), params=(), tags=()):
            kept = fakes.mlflow[run]
            assert len(metrics) <= 1000
            assert not {p.key for p in params} & kept["params"].keys()  # the real one refuses another value
            kept["metrics"] += metrics
            kept["params"] |= {p.key: p.value for p in params}
            kept["tags"] |= {t.key: t.value for t in tags}

        def _update_run(self, run, status):
            fakes.mlflow[run]["status"] = status

        def _set_terminated(self, run, status):
            fakes.mlflow[run]["status"] = status

    package.MlflowClient, package.entities, package.exceptions = MlflowClient, entities, exceptions
    entities.Metric = entity("Metric", "key", "value", "timestamp", "step")
    entities.Param, entities.RunTag = entity("Param", "key", "value"), entity("RunTag", "key", "value")
    exceptions.MlflowException = MlflowException
    return package, entities, exceptions
