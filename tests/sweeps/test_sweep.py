"""The grid of a sweep: fields, their values, and which trials are one program."""
import re

import pytest

from configs import lenet, quickstart
from modern_cnn import settings
from modern_cnn.errors import UserError
from modern_cnn.sweeps import grid
from modern_cnn.training.stacked import group_key


@pytest.mark.parametrize(("given", "field", "values"), [
    ("seed=0:3", "seed", [0, 1, 2]),
    ("seed=7,2", "seed", [7, 2]),
    ("config.data.batch_size=32:129:32,256", "data.batch_size", [32, 64, 96, 128, 256]),
    ("optimizer.learning_rate=0.1:0.4:0.1", "optimizer.learning_rate", [0.1, 0.2, 0.3]),
    ("optimizer.learning_rate=1,3e-1", "optimizer.learning_rate", [1.0, 0.3]),
    ("optimizer.nesterov=true,False", "optimizer.nesterov", [True, False]),
    ("model.norm=batch,none", "model.norm", ["batch", "none"]),
    ("model.width=0.5,1", "model.width", [0.5, 1.0]),
    ("data.source=idx:a,idx:b", "data.source", ["idx:a", "idx:b"]),
    ("schedule.milestones=(1,2),(3,)", "schedule.milestones", [(1, 2), (3,)]),
    ('finetune.freeze="conv1/*,b",backbone', "finetune.freeze", ["conv1/*,b", "backbone"]),
    ("epochs=1:8:3", "epochs", [1, 4, 7]),
])
def test_values(given, field, values):
    parsed = grid.parse([given], lenet.get_config())
    assert parsed == {field: values}
    assert [type(value) for value in parsed[field]] == [type(value) for value in values]


@pytest.mark.parametrize(("given", "words"), [
    (["optimizer.learnig_rate=1"], "config.optimizer has no field 'learnig_rate'; did you mean 'learning_rate'"),
    (["optimiser.momentum=1"], "config has no field 'optimiser'; did you mean 'optimizer'"),
    (["seed.x=1"], "config.seed has no field 'x'"),
    (["optimizer=1"], "config.optimizer is a section"),
    (["seed"], "not of the form"),
    (["seed=0.5"], "'0.5' is not a valid int"),
    (["seed=0:x"], "'0:x' is not a valid int"),
    (["seed=0:8:0"], "'0:8:0' is not a valid int"),
    (["seed=5:5"], "there is no value"),
    (["epochs=1:4:1.5"], "'1:4:1.5' is not a valid int"),
    (["seed=0:3,2"], "2 is there twice"),
    (["seed=0", "seed=1"], "given twice"),
    (["seed=1:2:3:4"], "'1:2:3:4' is not a valid int"),
    (["seed=0:1000000000000"], "--sweep=seed=0:1000000000000 makes more than 10,000 trials"),
    (["optimizer.learning_rate=0:1:1e-12"], "makes more than 10,000 trials"),
    (["seed=0:200", "optimizer.momentum=0:0.9:0.01"], "makes more than 10,000 trials"),
    (["optimizer.nesterov=maybe"], "'maybe' is not a valid bool"),
    ([], "--sweep is missing"),
])
def test_bad_sweeps_are_told_in_one_line(given, words):
    with pytest.raises(UserError, match=re.escape(words)):
        grid.parse(given, lenet.get_config())


def test_programs_are_told_apart_by_all_but_numbers():
    def program(**fields):
        config = quickstart.get_config()
        config.optimizer.nesterov = False  # which needs a momentum
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return group_key(settings.read(config))

    assert program(seed=3, optimizer__learning_rate=0.1) == program(seed=4, optimizer__learning_rate=0.2)
    assert program(optimizer__momentum=0.9) == program(optimizer__momentum=0.5) != program(optimizer__momentum=0.0)
    assert program() != program(data__batch_size=32)
    assert program(data__stream=True) is None
    assert program(early_stopping=2) is None
