"""What is shown of a run: that it compiles, how long it will still take, and the axes of its curves."""
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from matplotlib.figure import Figure

from modern_cnn.runs import log
from modern_cnn.training.program import Plan

PLAN = Plan(batch_size=8, steps_per_epoch=10, total_steps=100, peak=0.1, schedule=lambda step: 0.1)


@pytest.mark.parametrize("first", [0, 40])
def test_the_time_left_is_that_of_steps_without_the_compilation(first, caplog, monkeypatch):
    """A minute of compilation, and then a step a second."""
    caplog.set_level("INFO", "modern_cnn")
    now = 0.0
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: now))
    progress = log.Progress(PLAN, first)
    for step in range(first + 1, first + 11):
        now = 60.0 + step - first
        progress.tick(step, jnp.zeros(()))
        if step in (first + 1, first + 10):
            progress.show(step, "train", [{"loss": 1.0, "accuracy": 0.5}], 8.0)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "compiling ..."
    assert said[1].endswith("8 images/s")  # nothing is known yet
    assert said[2].endswith(f"8 images/s, {log.duration(90 - first)} left")
    assert len(said) == 3


def test_a_log_without_records_says_every_minute_how_far_the_training_is(caplog, monkeypatch):
    """Fifty seconds of compilation, and then a step every 25 seconds, with one record."""
    caplog.set_level("INFO", "modern_cnn")
    now = 0.0
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: now))
    progress = log.Progress(PLAN)
    for step in range(1, 9):
        now = 25.0 + 25 * step
        progress.tick(step, jnp.zeros(()))
        if step == 4:
            progress.show(step, "train", [{"loss": 1.0, "accuracy": 0.5}], 8.0)
        else:
            progress.remind(step)
    said = caplog.messages
    assert said[:2] == ["compiling ...", f"step 2/100, {log.duration(98 * 25)} left"]
    assert "loss 1.0000" in said[2]
    assert said[3:] == [f"step 7/100, {log.duration(93 * 25)} left"]


def test_evaluations_and_checkpoints_are_no_training_time(monkeypatch):
    """A step a second, and after each of them a pause of nine."""
    now = 0.0
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: now))
    progress = log.Progress(PLAN)
    for step in range(1, 5):
        now += 1
        progress.tick(step, jnp.zeros(()))
        with progress.paused(jnp.zeros(())):
            now += 9
    assert progress.measure(4) == pytest.approx(8)
    assert progress.training_seconds == pytest.approx(4)


def starts_in(file):
    """Return the steps of the session starts in a file of TensorBoard's events."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    data, events = file.read_bytes(), []
    while data:  # length of 8 bytes, its check of 4, an event, its check of 4
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12:12 + length]))
        data = data[16 + length:]
    return [event.step for event in events if event.session_log.status == SessionLog.START]


def test_tensorboard_forgets_an_attempt_that_began_again(tmp_path, monkeypatch):
    """As what an earlier process wrote beyond the checkpoint from which a run goes on."""
    seen = {}
    for process in range(2):
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        run = log.Log(tmp_path, 0)
        run.write(1, 0.1, "train", {"loss": 1.0})
        run.close()
        seen |= {file: starts_in(file) for file in (tmp_path / "tensorboard").iterdir() if file not in seen}
    assert [*seen.values()] == [[], [1]]


def test_a_run_that_goes_on_says_so_to_tensorboard(tmp_path):
    """Also where the records of before are not, as in the copy of a run in a bucket."""
    log.Log(tmp_path, 4).close()
    [file] = (tmp_path / "tensorboard").iterdir()
    assert starts_in(file) == [5]


def test_no_line_without_a_step_or_a_reader(caplog):
    caplog.set_level("INFO", "modern_cnn")
    log.Progress(PLAN, 100)
    log.Progress(PLAN, shown=False)
    assert not caplog.records
    log.Progress(PLAN, trials=True, note="group 1: ")
    assert caplog.messages == ["group 1: compiling ..."]


@pytest.mark.parametrize(("losses", "ticks"), [([0.1, 2.3], ["0.1", "0.2", "0.5", "1", "2"]), ([0.9, 2.0], None)])
def test_axes_have_plain_numbers_and_whole_epochs(losses, ticks):
    axes = Figure().subplots()
    axes.plot([0.4, 5.0], losses)
    log.scale_axes(axes, losses)
    axes.figure.draw_without_rendering()
    shown = [tick.label1.get_text() for tick in axes.yaxis.get_major_ticks()]
    assert not [text for text in shown if "$" in text]
    assert [*axes.get_xticks()] == [*map(round, axes.get_xticks())]
    assert axes.get_yscale() == ("log" if ticks else "linear")
    assert set(ticks or ()) <= set(shown)
    assert not [text for text in axes.get_yticklabels(minor=True) if text.get_text()]
