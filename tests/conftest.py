"""Settings shared by all tests, and the scripts as processes."""
import gc
import importlib.metadata
import multiprocessing
import os
from pathlib import Path

import hypothesis
import pytest

from configs import base
from modern_cnn import runtime
from modern_cnn.errors import UserError
from tests.forked import Result, run_script

runtime.set_xla_flags()  # the programs that the scripts run are those that are tested
# But each is compiled for a few small runs: machine code that is made quickly is worth more than code that is quick.
# The weekly run sets FULL_COMPILE=1 and tests the code that users run. An unknown flag aborts the process.
QUICK_COMPILE = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK_COMPILE += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if not os.environ.get("FULL_COMPILE"):
    os.environ["XLA_FLAGS"] += QUICK_COMPILE

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of PyTorch: its threads wait busily for others, which workers need

# CI draws the same examples every time, so a red run can be repeated; at home every run draws new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("home", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "home")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded data and compiled programs of the tests go to a folder of their own, which starts empty.

    All workers share it: most tests train the same few programs, and each is compiled once.
    """
    root = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODERN_CNN_CACHE", str((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"))
        patch.delenv("MODERN_CNN_DATA", raising=False)
        runtime.configure()
        yield


@pytest.fixture(scope="session", autouse=True)
def rare_collections():
    """Tracing a network makes many objects: going through all modules again and again takes a sixth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def no_curves():
    """A run and a sweep draw no curves, which takes as long as their training; who looks at some asks for `curves`.

    Return {(module, name): what draws}.
    """
    from modern_cnn.runs import record
    from modern_cnn.sweeps import report

    stand_ins = {(record, "draw_curves"): lambda directory, title: directory / "curves.png",
                 (report, "draw"): lambda groups, path, title: None, (report, "_svg"): lambda groups, split, score: ""}
    real = {place: getattr(*place) for place in stand_ins}
    with pytest.MonkeyPatch.context() as patch:
        for place, stand_in in stand_ins.items():
            patch.setattr(*place, stand_in)
        yield real


@pytest.fixture
def curves(no_curves, monkeypatch):
    for place, draw in no_curves.items():
        monkeypatch.setattr(*place, draw)


_WRONG_ERRORS: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def errors_are_read():
    """Whatever test raises a UserError: its text is noted if it is more than one line, or more than 600 letters."""
    def note(self, *args):
        plain(self, *args)
        if len(str(self)) > 600 or len(str(self).splitlines()) > 1:
            _WRONG_ERRORS.append(str(self))

    plain = UserError.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserError, "__init__", note)
        yield


@pytest.fixture(autouse=True)
def errors_are_one_short_line(errors_are_read):
    """Fail the test that raised such an error."""
    yield
    wrong = _WRONG_ERRORS.copy()
    _WRONG_ERRORS.clear()
    assert not wrong


@pytest.fixture(scope="session")
def server():
    """Return a fork server that has imported this package and the slow libraries: a start takes 0.1 s, not 3.

    Importing sets no environment and starts no backend (test_house), so a script in it is as in a new process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modern_cnn.runs.loop", "modern_cnn.reuse.export", "modern_cnn.reuse.predict",
                                    "tensorboardX.event_file_writer", "matplotlib.pyplot",
                                    "matplotlib.backends.backend_agg", "ml_collections.config_flags", "torch",
                                    "pytest", "tests.forked"])
    return context


@pytest.fixture
def script(server, tmp_path):
    """Return script: script('train.py', '--flag', ...) -> Result, run in tmp_path."""
    def run(name, *flags):
        environment = {key: os.environ[key] for key in os.environ if key.startswith("MODERN_CNN")}
        argv = [str(Path(__file__).resolve().parents[1] / "scripts" / name), *map(str, flags)]
        process = server.Process(target=run_script, args=(argv, str(tmp_path), environment))
        process.start()
        process.join(600)
        out, err = tmp_path / "out", tmp_path / "err"
        result = Result(process.exitcode, out.read_text(), err.read_text())
        out.unlink()
        err.unlink()
        return result

    return run


@pytest.fixture
def config():
    """The config of a run that takes a second: an MLP with dropout on the 8x8 digits."""
    config = base.get_config()
    config.epochs = 3
    config.log_every_steps = 0
    config.model.name = "mlp"
    config.model.hidden_sizes = (16,)
    config.model.dropout_rate = 0.1
    config.data.source = "digits"
    config.data.batch_size = 128
    config.optimizer.momentum = 0.9
    return config
