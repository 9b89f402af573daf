"""Files of weights in all formats of torch.save and safetensors: whole, damaged, and with a program inside."""
import os
import pickle
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from modern_cnn.errors import UserError
from modern_cnn.weights import files


class Evil:
    """An object that makes a directory when it is unpickled."""

    def __init__(self, directory):
        self.directory = directory

    def __reduce__(self):
        return os.mkdir, (str(self.directory),)


def tensors():
    random = np.random.RandomState(0)
    return {"a.weight": torch.from_numpy(random.standard_normal((4, 3)).astype(np.float32)),
            "a.bias": torch.tensor([1.5, -2, 3]), "a.num_batches_tracked": torch.tensor(7)}


def write_zip(content, path):
    torch.save(content, path)


def write_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


TORCH_FORMATS = pytest.mark.parametrize("write", [write_zip, write_legacy])
FORMATS = pytest.mark.parametrize(("ending", "write"), [
    (".safetensors", safetensors.torch.save_file), (".pth", write_zip), (".pt", write_zip), (".pth", write_legacy)])


def equal(got, want):
    assert set(got) == set(want)
    for name, value in got.items():
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value, want[name])


@FORMATS
def test_what_was_saved_is_read(tmp_path, ending, write):
    write(tensors(), tmp_path / f"w{ending}")
    state = files.read_state_dict(tmp_path / f"w{ending}")
    equal(state, tensors())
    assert state["a.weight"].dtype == np.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@FORMATS
def test_every_precision_becomes_float32(tmp_path, ending, write, dtype):
    write({"a": torch.tensor([1.5, -2]).to(dtype)}, tmp_path / f"w{ending}")
    state = files.read_state_dict(str(tmp_path / f"w{ending}"))
    equal(state, {"a": [1.5, -2]})
    assert state["a"].dtype == np.float32


@pytest.mark.parametrize("content", [
    lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}},
    lambda state: {"model": state, "args": [1, "x"]}, lambda state: {"model_state_dict": state},
    lambda state: {"state_dict": {name: nn.Parameter(value) if value.is_floating_point() else value
                                  for name, value in state.items()}, "best_acc1": torch.tensor(70.0)},
    *(lambda state, key=key: {"epoch": torch.tensor(3), key: state} for key in (
        "net", "weights", "params", "model_state", "network", "model_ema", "generator")),
    lambda state: {"checkpoint": {"model": state}}, lambda state: {"state_dict": state, "state_dict_ema": {
        name: value + 1 for name, value in state.items()}},
    lambda state: {"model_ema": {"n_averaged": torch.tensor(5)} | {name: value + 1 for name, value in state.items()},
                   "model": state},
    lambda state: state | {"epoch": 3}])
@TORCH_FORMATS
def test_checkpoints_of_training_scripts(tmp_path, write, content):
    write(content(tensors()), tmp_path / "w.pth")
    equal(files.read_state_dict(tmp_path / "w.pth"), tensors())


@pytest.mark.parametrize("name", ["model_best.pth.tar", "a.tar", "pytorch_model.bin", "a.ckpt", "a.th", "A.PTH"])
@TORCH_FORMATS
def test_every_usual_name_of_a_torch_file(tmp_path, write, name):
    write(tensors(), tmp_path / name)
    equal(files.read_state_dict(tmp_path / name), tensors())


def test_which_of_several_mappings_is_read_is_said(tmp_path, caplog):
    caplog.set_level("INFO", logger="modern_cnn")
    torch.save({"state_dict_ema": tensors(), "state_dict": tensors()}, tmp_path / "w.pth")
    files.read_state_dict(tmp_path / "w.pth")
    assert caplog.messages == [f"{tmp_path}/w.pth: the weights under state_dict are read, not state_dict_ema"]
    torch.save({"generator": tensors(), "critic": tensors()}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "several sets of weights (generator, critic)")


def test_a_mapping_that_holds_itself_ends(tmp_path):
    content = {"a": torch.zeros(2)}
    content["self"] = content
    torch.save(content, tmp_path / "w.pth")
    equal(files.read_state_dict(tmp_path / "w.pth"), {"a": [0, 0]})


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".bin"])
def test_a_pointer_of_git_lfs_is_called_so(tmp_path, ending):
    (tmp_path / f"w{ending}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46827520\n")
    refused(tmp_path / f"w{ending}", "pointer of git-lfs", "git lfs pull")


def test_written_arrays_are_read_by_both(tmp_path):
    state = {name: value.numpy() for name, value in tensors().items()}
    files.write_state_dict(tmp_path / "w.safetensors", state)
    equal(files.read_state_dict(tmp_path / "w.safetensors"), state)
    equal({name: value.numpy() for name, value in safetensors.torch.load_file(tmp_path / "w.safetensors").items()},
          state)


def refused(path, *words):
    with pytest.raises(UserError) as told:
        files.read_state_dict(path)
    text = str(told.value)
    assert "\n" not in text
    assert len(text) < 250 + len(str(path))
    for word in (str(path), *words):
        assert word in text


@pytest.mark.parametrize("content", [
    lambda evil: evil, lambda evil: {"state_dict": {"a": torch.zeros(2)}, "args": evil}, lambda evil: {"a": [evil]}])
@TORCH_FORMATS
def test_a_program_in_the_pickle_is_not_run(tmp_path, write, content):
    write(content(Evil(tmp_path / "made")), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "holds more than tensors", "mkdir", "is not opened")
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # shows that the file would run the program
    assert (tmp_path / "made").exists()


def test_a_plain_pickle_is_not_opened(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": Evil(tmp_path / "made")}, protocol))
        refused(tmp_path / "w.pth", "more than tensors", "is not opened")
    assert not (tmp_path / "made").exists()


@TORCH_FORMATS
def test_a_whole_model_is_not_opened(tmp_path, write):
    write(nn.Linear(2, 3), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "more than tensors (torch.nn.modules.linear.Linear)", "model.state_dict()")


@FORMATS
def test_a_damaged_file_is_called_so(tmp_path, ending, write):
    path = tmp_path / f"w{ending}"
    write({"a": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in (0, 1, 7, 40, len(whole) // 2, len(whole) - 20)]
    for content in (*damaged, bytes(len(whole)), b"<html>not found</html>" * 50, bytes(100) + whole[100:]):
        path.write_bytes(content)
        refused(path, "is damaged")


def test_what_cannot_be_a_file_of_weights(tmp_path):
    refused(tmp_path / "w.pth", "there is no file")
    refused(tmp_path / "w.safetensors", "there is no file")
    (tmp_path / "d.pth").mkdir()
    refused(tmp_path / "d.pth", "there is no file")
    (tmp_path / "w.onnx").write_text("x")
    refused(tmp_path / "w.onnx", "is not a file of weights", ".safetensors, .pth, .pt")


@pytest.mark.parametrize("content", [{}, [1, 2], 3, torch.zeros(3), {"epoch": 3}, {"state_dict": {}}, [torch.zeros(3)]],
                         ids=str)
@TORCH_FORMATS
def test_a_file_without_named_tensors(tmp_path, write, content):
    write(content, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "holds no tensors")


def test_an_empty_safetensors_file(tmp_path):
    safetensors.torch.save_file({}, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", "holds no tensors")


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").write_text("x")
    refused(tmp_path / "w.pth", ".pth files need PyTorch", "pip install torch", ".safetensors")


def test_where_nothing_can_be_written(tmp_path):
    for path, words in {tmp_path / "w.pth": "must end in .safetensors",
                        tmp_path / "no" / "w.safetensors": "cannot write"}.items():
        with pytest.raises(UserError, match=words):
            files.write_state_dict(path, {"a": np.zeros(1)})
