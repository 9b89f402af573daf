"""We and our peers take the same steps and give logits; the time that they take is not tested."""
import numpy as np
import pytest

from modern_cnn.models import MODELS
from scripts.bench import steps, timing


@pytest.mark.parametrize("who", ["ours", "torch", "library"])  # torch.compile builds C++ code for minutes
def test_everybody_learns_the_same_batch(who):
    case = timing.Case("lenet", 8, (28, 28, 1), "float32")
    runner = steps.PROGRAMS["step"][who](case)
    losses = [runner.run() for _ in range(20)]
    assert runner.ready_s > 0
    assert losses[-1] < losses[0]
    assert abs(losses[0] - np.log(10)) < 0.5


def test_the_library_is_xlas_own_operations(monkeypatch):
    taken = []
    monkeypatch.setattr(steps, "train_step", lambda state, batch, key: taken.append(
        steps.formulations.choose_convolution((3, 3, 4, 40), (1, 1), ((1, 1), (1, 1)), 1, 4, (8, 8))) or (state, 0))
    case = timing.Case("lenet", 8, (28, 28, 1), "float32")
    for who in ("ours", "library"):
        steps.PROGRAMS["step"][who](case)
    assert taken == ["canonical", "library"]


def test_ours_and_a_peer_in_turn(monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 0)
    case = timing.Case("lenet", 8, (28, 28, 1), "bfloat16")
    own, other = steps.compare_steps(case, ["library"], 3)
    assert (own["who"], other["who"], own["dtype"], own["rounds"]) == ("ours", "library", "bfloat16", 3)
    assert own["ours_is_faster"] == 1
    assert own["min_ms"] <= own["median_ms"] <= own["max_ms"]
    assert np.isclose(own["images_per_second"], 8 / own["median_ms"] * 1e3)
    work = 6 * 8 * 416_520  # six operations for each multiply-accumulate of the forward pass
    assert np.isclose(own["matrix_share"], work / own["median_ms"] * 1e3 / steps.matrix_rate("bfloat16"))
    assert own["memory_bytes"] > 3 * 4 * 61_706  # parameters, momentum, gradients


def test_evaluations_give_logits_and_change_nothing(monkeypatch):
    torch, build = steps.torch_packages()
    nets = []
    monkeypatch.setattr(steps, "torch_packages", lambda: (torch, lambda *args: nets.append(build(*args)) or nets[-1]))
    case = timing.Case("lenet_bn", 8, (28, 28, 1), "float32")
    runners = {who: steps.PROGRAMS["evaluation"][who](case) for who in ("ours", "torch", "library")}
    logits = {who: runner.run() for who, runner in runners.items()}
    for who, found in logits.items():
        assert found.shape == (8, 10)
        assert np.ptp(found) > 0
        np.testing.assert_array_equal(runners[who].run(), found)
    assert [net.training for net in nets] == [False]  # in training it would normalise by the batch
    np.testing.assert_allclose(logits["ours"], logits["library"], rtol=1e-5, atol=1e-6)


def test_an_evaluation_is_one_pass(monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 0)
    case = timing.Case("lenet", 8, (28, 28, 1), "float32")
    own, other = steps.compare_steps(case, ["library"], 2, "evaluation")
    assert (own["phase"], own["who"], other["who"]) == ("evaluation", "ours", "library")
    assert own["ours_is_faster_range"] == [1, 1]
    assert other["ours_is_faster_range"][0] <= other["ours_is_faster"] <= other["ours_is_faster_range"][1]
    work = 2 * 8 * 416_520
    assert np.isclose(own["matrix_share"], work / own["median_ms"] * 1e3 / steps.matrix_rate("float32"))


def test_every_network_has_a_size():
    assert set(steps.SIZES) <= set(MODELS)
    assert [case.model for case in steps.make_cases([])] == list(steps.SIZES)
    large, small = steps.make_cases(["resnet50"]) + steps.make_cases(["lenet"], 16)
    assert (large.image_shape, large.batch_size) == ((224, 224, 3), 64)
    assert (small.image_shape, small.batch_size) == ((28, 28, 1), 16)


def test_a_peer_that_fails_on_an_accelerator_costs_no_others_times(monkeypatch, capsys):
    def failing(case):
        raise RuntimeError("no C compiler\nand more")

    monkeypatch.setattr(steps.formulations, "on_cpu", lambda: False)
    monkeypatch.setattr(steps, "matrix_rate", lambda dtype: 1e9)
    case, = steps.make_cases(["mlp"], 2)
    monkeypatch.setitem(steps.PROGRAMS["step"], "torch_compile", failing)
    records = steps.compare_steps(case, ["torch_compile", "torch"], 1)
    assert [record["who"] for record in records] == ["ours", "torch"]
    assert "mlp: left out torch_compile: no C compiler\n" in capsys.readouterr().err
    monkeypatch.setitem(steps.PROGRAMS["step"], "ours", failing)
    with pytest.raises(RuntimeError, match="no C compiler"):
        steps.compare_steps(case, [], 1)
