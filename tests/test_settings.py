"""The declaration of the config's fields, and what is made of it."""
import json

import ml_collections
import pytest

from configs import base, lenet, mlp
from modern_cnn import settings
from modern_cnn.errors import UserError
from modern_cnn.runs import loggers
from modern_cnn.training import optim


def test_the_default_config_is_the_default_settings():
    config = base.get_config()
    assert settings.read(config) == settings.Settings() == settings.from_json(json.loads(json.dumps(config.to_dict())))
    assert settings.flatten(config).keys() == {name for name, field in settings.FIELDS.items()
                                               if field.default is not None}


def test_every_field_says_what_it_means_and_its_default_is_allowed():
    for name, field in settings.FIELDS.items():
        assert len(field.meaning) > 5, name
        assert field.default is None or type(field.default) is field.type, name
        default = field.default if field.type is tuple else [field.default]
        assert field.low is None or all(field.low <= part <= field.high for part in default), name
        assert (field.low is None) == (field.type is str or field.default is None), name
        assert field.needs == "" or not settings.FIELDS[field.needs].default, name
        assert not field.choices or field.default in field.choices, name


def test_who_may_change_what():
    """The right values, one by one: a field that moves to another list is a decision."""
    by_rule = {rule: {name for name, field in settings.FIELDS.items() if field.resume == rule}
               for rule in (settings.ALWAYS, settings.LENGTH, settings.EPOCHS, settings.PLACE)}
    assert by_rule == {
        settings.ALWAYS: {"log_every_steps", "log_norms", "loggers", "checkpoint_every_steps", "eval_every_epochs",
                          "test_every_epoch", "parallel.count", "parallel.compile"},
        settings.LENGTH: {"max_steps", "early_stopping"}, settings.EPOCHS: {"epochs"},
        settings.PLACE: {"data.source", "data.layout", "data.manual_dir", "data.skip_damaged"}}
    assert set(settings.VARYING) == {
        "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.momentum", "optimizer.ema_decay",
        "schedule.factor", "model.dropout_rate", "loss.label_smoothing"}


def test_the_choices_are_those_that_exist():
    default = settings.Settings()
    for name in settings.FIELDS["schedule.name"].choices:
        schedule = optim.make_schedule(default.replace({"schedule.name": name}).schedule, 0.1, 10, 100)
        for optimizer in settings.FIELDS["optimizer.name"].choices:
            optim.make_optimizer(default.replace({"optimizer.name": optimizer}).optimizer, schedule)
    assert set(settings.SPANNING) < set(settings.FIELDS["schedule.name"].choices)
    asked = [loggers.names(choice) for choice in settings.FIELDS["loggers"].choices]
    assert asked == [[], ["wandb"], ["mlflow"], ["wandb", "mlflow"], ["mlflow", "wandb"]]
    assert {name for each in asked for name in each} == {*loggers.KINDS}


@pytest.mark.parametrize(("field", "value", "words"), [
    ("optimizer.name", "sdg", "config.optimizer.name='sdg' is unknown; did you mean 'sgd'"),
    ("schedule.name", "cosin", "config.schedule.name='cosin' is unknown; did you mean 'cosine'"),
    ("optimizer.momentum", float("nan"), "config.optimizer.momentum=nan must be a number between 0 and 1"),
    ("data.num_classes", 10**10, "config.data.num_classes=10000000000 must be a number between 0 and 1000000"),
    ("seed", -1, "config.seed=-1 must be a number between 0 and 4294967295"),
    ("schedule.milestones", (1.0, -2.0), "config.schedule.milestones=.* must be numbers between 0 and 1000000000"),
    ("optimizer.ema_decay", 1.0, "config.optimizer.ema_decay=1.0 must be a number between 0 and 0.999999"),
    ("optimizer.nesterov", True, "config.optimizer.nesterov=True does nothing without config.optimizer.momentum"),
    ("augment.shift", 1e30, "config.augment.shift=1e[+]30 must be a number between 0 and 512"),
    ("augment.crop", 1_000_000, "config.augment.crop=1000000 must be a number between 0 and 512 without a fraction"),
    ("data.resize", 256, "config.data.resize=256 does nothing without config.data.image_size"),
    ("model.name", "lanet", "there is no network 'lanet'; did you mean 'lenet'"),
])
def test_bad_values(field, value, words):
    config = base.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=words):
        settings.read(config)


def test_what_is_cut_out_is_not_larger_than_what_it_is_cut_out_of():
    config = base.get_config()
    config.data.update(image_size=224, resize=223)
    with pytest.raises(UserError, match="resize=223 is smaller than config"):
        settings.read(config)


def test_classes_are_evened_out_once():
    config = base.get_config()
    config.data.balanced, config.loss.class_weights = True, "balanced"
    with pytest.raises(UserError, match="both make up for classes of different sizes"):
        settings.read(config)


NONSENSE = (float("nan"), float("inf"), float("-inf"), -1, 10**12, "text", True, None, [1], (float("nan"),), (-1,))


@pytest.mark.parametrize("name", [name for name, field in settings.FIELDS.items() if field.default is not None])
def test_no_field_takes_nonsense(name):
    """A config file, which is a program, can set a field to anything."""
    field = settings.FIELDS[name]
    right = {bool: [True], tuple: [[1]], float: [5], str: [] if field.choices else ["text"]}.get(field.type, [])
    right += [10**12] * (field.high == settings.LARGEST_FLOAT)  # a test of overflows needs such rates
    for value in (*NONSENSE, 0.5 if field.type is int else 5):
        if not any(type(value) is type(each) and value == each for each in right):
            tree = base.get_config().to_dict()
            section = tree[name.split(".")[0]] if "." in name else tree
            section[name.split(".")[-1]] = value
            with pytest.raises(UserError) as refused:
                settings.read(ml_collections.ConfigDict(tree))
            assert len(str(refused.value)) < 600, value
            assert name in str(refused.value) or name == "model.name", value


def test_a_tilde_in_a_path_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = base.get_config()
    config.finetune.workdir = "~/runs/x"
    assert settings.read(config).finetune.workdir == "/home/me/runs/x"


def test_missing_and_unknown_fields():
    config = base.get_config()
    with config.unlocked():
        config.optimizer.momentun = 0.9
    with pytest.raises(UserError, match=r"config\.optimizer\.momentun is not a field; did you mean 'optimizer\.mom"):
        settings.read(config)
    config = base.get_config()
    with config.unlocked():
        del config.augment.flip
    with pytest.raises(UserError, match=r"the config lacks config\.augment\.flip"):
        settings.read(config)
    with pytest.raises(UserError, match=r"the config is a dict; get_config\(\) must return a ConfigDict"):
        settings.read({})


def test_a_config_of_an_earlier_version_has_the_defaults_of_newer_fields():
    tree = base.get_config().to_dict()
    del tree["data"]["stream"], tree["finetune"], tree["accumulate"]
    tree["optimizer"]["gone"] = 1
    assert settings.from_json(tree) == settings.Settings()


def test_replace_leaves_the_rest_alone():
    before = settings.read(mlp.get_config())
    changed = {"seed": 3, "optimizer.momentum": 0.5, "optimizer.nesterov": True, "model.dropout_rate": 0.1}
    was, now = settings.flatten(before), settings.flatten(before.replace(changed))
    assert {name: now[name] for name in now if now[name] != was[name]} == changed


def test_locate():
    config = lenet.get_config()
    section, last = settings.locate(config, "optimizer.momentum")
    assert (section[last], last) == (0.0, "momentum")
    for name, words in (("optimizer.momentun", "config.optimizer has no field 'momentun'; did you mean 'momentum'"),
                        ("optimiser.x", "config has no field 'optimiser'"), ("seed.x", "config.seed has no field 'x'"),
                        ("optimizer", "config.optimizer is a section")):
        with pytest.raises(UserError, match=words):
            settings.locate(config, name)
