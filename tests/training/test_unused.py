"""Options that do nothing are named."""
from types import SimpleNamespace

import pytest

from configs import base
from modern_cnn import settings
from modern_cnn.runs import loop
from modern_cnn.training.unused import unused


def lines(channels=3, total_steps=100, **fields):
    asked = settings.Settings().replace({name.replace("__", "."): value for name, value in fields.items()})
    return unused(asked, SimpleNamespace(image_shape=(8, 8, channels)), SimpleNamespace(total_steps=total_steps))


@pytest.mark.parametrize(("fields", "words"), [
    ({"optimizer__name": "adam", "optimizer__momentum": 0.9},
     "config.optimizer.momentum=0.9 does nothing with config.optimizer.name='adam'"),
    ({"optimizer__name": "adamw", "optimizer__momentum": 0.9, "optimizer__nesterov": True}, "optimizer.nesterov=True"),
    ({"optimizer__epsilon": 0.5}, "optimizer.epsilon=0.5 does nothing with config.optimizer.name='sgd'"),
    ({"optimizer__epsilon_hat": True}, "optimizer.epsilon_hat=True"),
    ({"optimizer__muon_rate": 0.1}, "optimizer.muon_rate=0.1"),
    ({"optimizer__muon_momentum": 0.1}, "optimizer.muon_momentum=0.1"),
    ({"schedule__milestones": (1.0,)}, "schedule.milestones=(1.0,) does nothing with config.schedule.name='constant'"),
    ({"schedule__factor": 0.5}, "schedule.factor=0.5"),
    ({"schedule__name": "step"}, "milestones=(30.0, 60.0, 80.0) none lies before the end of the 10 epochs"),
    ({"schedule__name": "step", "schedule__milestones": ()}, "the learning rate never falls"),
    ({"data__layout": "splits", "data__source": "csv:a.csv"}, "data.layout='splits'"),
    ({"data__skip_damaged": True, "data__source": "digits"}, "data.skip_damaged=True"),
    ({"channels": 1, "augment__hue": 0.2}, "config.augment.hue=0.2 does nothing to grey images"),
    ({"channels": 1, "augment__saturation": 0.2}, "augment.saturation=0.2"),
    ({"max_steps": 100_000}, "config.max_steps=100,000 does nothing: config.epochs=10 are 100 steps"),
])
def test_what_does_nothing_is_named(fields, words):
    assert words in lines(**fields)[-1]


@pytest.mark.parametrize("fields", [
    {}, {"optimizer__momentum": 0.9, "optimizer__nesterov": True},
    {"optimizer__name": "adam", "optimizer__epsilon": 1.0},
    {"optimizer__name": "muon", "optimizer__muon_rate": 0.1, "optimizer__momentum": 0.9},
    {"schedule__name": "step", "schedule__milestones": (5.0,), "schedule__factor": 0.5},
    {"data__layout": "splits", "data__source": "folder:a", "data__skip_damaged": True},
    {"augment__hue": 0.2}, {"max_steps": 100},
])
def test_what_does_something_is_not(fields):
    assert lines(**fields) == []


@pytest.mark.parametrize("together", [False, True])
def test_a_run_says_so_once(tmp_path, caplog, together):
    config = base.get_config()
    config.update(max_steps=1, epochs=1)
    config.model.name = "mlp"
    config.data.source = "digits"
    config.optimizer.update(name="adam", momentum=0.9)
    if together:
        loop.train_trials([config, config], [tmp_path / "a", tmp_path / "b"])
    else:
        loop.train_and_evaluate(config, tmp_path / "run")
    said = [message for message in caplog.messages if "does nothing" in message]
    assert said == ["config.optimizer.momentum=0.9 does nothing with config.optimizer.name='adam'"]
    settings.read(config)  # it is no error
