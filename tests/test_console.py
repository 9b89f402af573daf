"""A console that is closed, gone or cannot write ends no run, and costs the other scripts one line at most."""
import contextlib
import json
import os
import pty
import pwd
import runpy
import signal
import sys
from pathlib import Path

import pytest

from modern_cnn import cli, runtime

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ["train.py", f"--config={ROOT}/configs/mlp.py", "--config.data.source=digits", "--config.max_steps=2"]


def _closed() -> None:
    return None


def _no_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _hung_up() -> int:
    """Return a terminal whose window has been closed: writing gives EIO."""
    window, terminal = pty.openpty()
    os.close(window)
    return terminal


def _full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def _child(main, argv, folder, environment, streams) -> None:
    """Run a script, or `main`, in a child process with its stdout and stderr in files, but for `streams`."""
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = streams[name]() if name in streams else os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        if file is None:
            os.close(number)
        else:
            os.dup2(file, number)
        setattr(sys, name, None if file is None else open(number, "w", encoding="ascii", closefd=False))  # noqa: SIM115
    sys.argv = argv
    if main:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
        cli.run(main)
    with contextlib.closing(sys.stdout or contextlib.ExitStack()):  # as the end of Python would
        runpy.run_path(argv[0], run_name="__main__")


@pytest.fixture
def script(server, tmp_path):
    """Return script(name, *flags, stdout=_closed) -> (exit code, stdout, stderr)."""
    def run(name, *flags, main=None, **streams):
        environment = {key: os.environ[key] for key in os.environ if key.startswith("MODERN_CNN")}
        argv = [str(ROOT / "scripts" / name), *map(str, flags)]
        process = server.Process(target=_child, args=(main, argv, str(tmp_path), environment, streams))
        process.start()
        process.join(600)
        return process.exitcode, *((tmp_path / name).read_text() if name not in streams else ""
                                   for name in ("stdout", "stderr"))

    return run


@pytest.mark.parametrize(("stream", "state"), [
    ("stdout", _full), ("stderr", _closed),
    *(pytest.param(*other, marks=pytest.mark.slow) for other in (
        ("stdout", _closed), ("stdout", _no_reader), ("stdout", _hung_up), ("stderr", _no_reader),
        ("stderr", _hung_up), ("stderr", _full)))])
def test_a_run_does_not_need_its_console(script, state, stream, tmp_path):
    code, out, err = script(*TRAIN, f"--workdir={tmp_path / 'größe'}", **{stream: state})
    assert (code, err) == (0, "")
    assert (tmp_path / "größe" / "checkpoints" / "2").is_dir()
    assert stream == "stdout" or "workdir:" in out


def test_the_results_of_a_script_need_a_reader(script):
    listing = ("summarize.py", "--model=mlp")
    assert script(*listing, stdout=_no_reader) == (128 + signal.SIGPIPE, "", "")
    assert script(*listing, stdout=_closed) == (0, "", "")
    for state, why in ((_full, "No space left on device"), (_hung_up, "Input/output error")):
        code, _, err = script(*listing, stdout=state)
        assert (code, err) == (1, f"error: cannot read or write the output: {why}\n")
    assert script("summarize.py", "--model=lent", stderr=_no_reader)[0] == 1


def _interrupted_import(*_) -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("numpy.core.multiarray failed to import") from None


def test_an_interrupted_import_is_no_traceback(script):
    code, _, err = script("", main=_interrupted_import)
    assert (code, err) == (130, "error: interrupted\n")


def test_a_user_without_home_and_name_caches_nothing_and_is_told(monkeypatch, caplog, config, tmp_path):
    def nobody(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", "MODERN_CNN_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert runtime.cache_dir() == Path("/dev/null/modern_cnn")
    from modern_cnn.runs import loop

    config.epochs = 1
    loop.train_and_evaluate(config, tmp_path / "run")
    assert "could not be cached" in caplog.text
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert runtime.cache_dir() == Path("/x/modern_cnn")
    monkeypatch.setenv("MODERN_CNN_CACHE", "/y")
    assert runtime.cache_dir() == Path("/y")


def test_evaluate_writes_its_result_although_stderr_is_closed(script, tmp_path):
    assert script(*TRAIN, f"--workdir={tmp_path / 'run'}")[0] == 0
    code, out, _ = script("evaluate.py", f"--workdir={tmp_path / 'run'}", stderr=_closed)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["count"] == 360
