"""scripts/import_weights.py from file to file: the network, its weights, their evaluation, and the export."""
import hashlib
import json
import os
import re

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from sklearn.datasets import load_digits

import modern_cnn
from modern_cnn import weights
from modern_cnn.data import augment
from modern_cnn.data.spec import normalization
from modern_cnn.errors import UserError
from modern_cnn.runs import imported
from modern_cnn.weights import convert
from tests.models.cases import slow
from tests.models.torch_nets import torch_net
from tests.test_cli import ROOT, refused

NARROW = {"width": 0.125}
SHORT = NARROW | {"stage_sizes": (1, 2), "stage_features": (64, 128)}


def network(options):
    """Return the flags of a ResNet-18 with these options."""
    return ["--model=resnet18", *(f"--option={name}={value}" for name, value in options.items())]


def twin(classes=3, channels=3, options=SHORT):
    """Return a network in PyTorch whose running statistics are not 0 and 1."""
    torch.manual_seed(0)
    net = torch_net("resnet18", classes, channels, **options).eval()
    for key, value in net.state_dict().items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
    return net


def logits_of(net, images):
    """Return PyTorch's logits of normalised images [N, H, W, C]."""
    with torch.no_grad():
        return net(torch.from_numpy(images.transpose(0, 3, 1, 2)).float()).numpy()


def mean_loss(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean())


def score(script, *flags):
    result = script("evaluate.py", *flags)
    assert result.code == 0
    assert all("classes of the imported network have no names" in line for line in result.err.splitlines())
    return json.loads(result.out.splitlines()[-1])


def write_zip(state, path):
    torch.save(state, path)


def write_legacy(state, path):
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path,
               _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(("ending", "write"), [
    (".safetensors", safetensors.torch.save_file), slow(".pth", write_zip), slow(".pt", write_legacy)])
def test_from_a_file_to_a_network(script, tmp_path, ending, write):
    net, path, run = twin(), tmp_path / f"mine{ending}", tmp_path / "run"
    write(net.state_dict(), path)
    (tmp_path / "names.txt").write_text("cat\ndog\nox\n")
    result = script("import_weights.py", *network(SHORT), f"--weights={path}", f"--workdir={run}", "--image_size=40",
                    f"--classes={tmp_path}/names.txt")
    assert result.code == 0, result.err
    parameters = sum(value.numel() for value in net.parameters())
    assert result.out.splitlines()[-1] == f"resnet18, {parameters:,} parameters, 3 classes, 40x40x3 images: {run}"

    module, variables = modern_cnn.load(run)
    converted = weights.from_torchvision("resnet18", net.state_dict(), **SHORT)
    assert jax.tree.structure(variables) == jax.tree.structure(converted)
    jax.tree.map(np.testing.assert_array_equal, variables, converted)
    images = np.random.RandomState(0).standard_normal((4, 40, 40, 3)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, images), logits_of(net, images), rtol=1e-4, atol=1e-4)

    record = json.loads((run / "run.json").read_text())
    assert record["imported"] == {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert record["parameters"] == parameters
    assert record["data"] | {"mean": None, "std": None} == {
        "source": "", "origin": "", "image_shape": [40, 40, 3], "num_classes": 3, "class_names": ["cat", "dog", "ox"],
        "sizes": {}, "mean": None, "std": None, "digest": ""}
    assert (record["data"]["mean"], record["data"]["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    config = json.loads((run / "config.json").read_text())
    assert config["model"] == {"name": "resnet18", "width": 0.125, "stage_sizes": [1, 2], "stage_features": [64, 128]}
    assert config["data"]["image_size"] == 40

    refused(script("evaluate.py", f"--workdir={run}"), 1, run, "without data", "--source=")
    again = script("import_weights.py", *network(SHORT), f"--weights={path}", f"--workdir={run}")
    refused(again, 1, f"the workdir {run} is not empty")


def test_a_folder_of_images(script, tmp_path):
    """Evaluation resizes, normalises and scores them as the test does by hand."""
    net, colours = twin(), {"blue": (0, 0, 1), "green": (0, 1, 0), "red": (1, 0, 0)}
    random, images, labels = np.random.RandomState(0), [], []
    for split, count in (("train", 1), ("test", 5)):
        for label, (name, colour) in enumerate(colours.items()):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray((random.randint(0, 256, (60, 50, 3)) * colour).astype(np.uint8))
                image.save(folder / f"{i}.png")
                if split == "test":  # shorter side to 40, then the centre
                    resized = image.resize((40, 48), Image.Resampling.BILINEAR).crop((0, 4, 40, 44))
                    images.append(np.asarray(resized) / 255)
                    labels.append(label)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    result = script("import_weights.py", *network(SHORT), f"--weights={tmp_path}/w.pth", f"--workdir={tmp_path}/run",
                    "--image_size=40", f"--source=folder:{tmp_path}/images")
    assert result.code == 0, result.err
    normalised = (np.stack(images) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    logits, labels = logits_of(net, normalised), np.array(labels)

    for flags in ((), (f"--source=folder:{tmp_path}/images",)):  # the recorded source, and the same by hand
        scored = score(script, f"--workdir={tmp_path}/run", *flags)
        assert (scored["count"], scored["step"]) == (15, 0)
        assert scored["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
        assert scored["loss"] == pytest.approx(mean_loss(logits, labels), rel=1e-4)
    refused(script("evaluate.py", f"--workdir={tmp_path}/run", "--source=digits"), 1, "the classes 3, 4, 5,",
            "--classes=FILE")


@pytest.mark.slow
def test_digits_enlarged_on_the_device(script, tmp_path):
    net = twin(classes=10, channels=1)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    result = script("import_weights.py", *network(SHORT), f"--weights={tmp_path}/w.pth", f"--workdir={tmp_path}/run",
                    "--image_size=32")
    assert result.code == 0, result.err
    splits = [score(script, f"--workdir={tmp_path}/run", "--source=digits", f"--split={split}")
              for split in ("train", "test")]
    assert [split["count"] for split in splits] == [1437, 360]
    digits = load_digits()
    images = [np.asarray(Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).resize(
        (32, 32), Image.Resampling.BILINEAR)) / 255 for image in digits.images]
    logits = logits_of(net, np.stack(images)[..., None])
    loss = (1437 * splits[0]["loss"] + 360 * splits[1]["loss"]) / 1797
    assert loss == pytest.approx(mean_loss(logits, digits.target), rel=1e-4)
    right = 1437 * splits[0]["accuracy"] + 360 * splits[1]["accuracy"]
    assert right == pytest.approx((logits.argmax(axis=1) == digits.target).sum(), abs=1.01)  # two logits may be equal


def test_there_and_back_by_files(script, tmp_path):
    state = twin().state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    first = script("import_weights.py", *network(SHORT), f"--weights={tmp_path}/w.safetensors",
                   f"--workdir={tmp_path}/run", "--option=scan=true", "--normalize=symmetric")
    assert first.code == 0, first.err
    module, variables = modern_cnn.load(tmp_path / "run")
    assert module.scan is True
    assert "stage2_blocks" in variables["params"]
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (data["image_shape"], data["mean"], data["std"]) == ([224, 224, 3], [0.5] * 3, [0.5] * 3)
    assert data["class_names"] == ["0", "1", "2"]

    exported = script("import_weights.py", f"--workdir={tmp_path}/run", f"--export={tmp_path}/back.safetensors")
    assert exported.code == 0, exported.err
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert set(back) == {key for key in state if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, state[key]) for key, value in back.items())
    twin().load_state_dict(back, strict=True)


@pytest.mark.slow
def test_googlenet_without_auxiliary_heads(script, tmp_path, short_googlenet):
    net = torch_net("googlenet", 4, 3, width=0.125, aux_logits=False)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    (tmp_path / "short.py").write_text(
        f"import runpy\nfrom modern_cnn.models import googlenet\ngooglenet.INCEPTIONS = {short_googlenet}\n"
        f"runpy.run_path({str(ROOT / 'scripts/import_weights.py')!r}, run_name='__main__')")
    result = script(tmp_path / "short.py", "--model=googlenet", "--option=width=0.125", f"--weights={tmp_path}/w.pth",
                    f"--workdir={tmp_path}/run", "--image_size=32")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["aux_logits"] is False
    module, variables = modern_cnn.load(tmp_path / "run")
    assert module.aux_logits is False
    assert jax.tree.map(np.shape, variables) == jax.tree.map(
        np.shape, weights.from_torchvision("googlenet", net.state_dict(), width=0.125))
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (data["mean"], data["std"]) == ([0.5] * 3, [0.5] * 3)


def test_the_normalisation_of_torchvisions_googlenet():
    """Its network sees what `transform_input` makes of pixels that are normalised as ImageNet's."""
    pixels = np.random.RandomState(0).randint(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    seen = (pixels / 255 - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
    moments = normalization(convert.expected_normalize("googlenet", 3), pixels)
    np.testing.assert_allclose(augment.normalize(pixels, *moments), seen, atol=1e-6)


def test_a_program_in_the_file_is_not_run(script, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save(twin().state_dict() | {"fc.bias": Evil()}, tmp_path / "w.pth")
    refused(script("import_weights.py", *network(SHORT), f"--weights={tmp_path}/w.pth", f"--workdir={tmp_path}/run"), 1,
            f"{tmp_path}/w.pth holds more than tensors", "is not opened")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


BAD = {
    "no such file": (["--weights=none.pth"], "there is no file none.pth"),
    "half a file": (["--weights={tmp_path}/half.pth"], "{tmp_path}/half.pth is damaged"),
    "no network": (["--model=resnet81"], "no network 'resnet81'; did you mean 'resnet18'"),
    "another network": (["--model=resnet34"], "no state dict of 'resnet34'; 80 missing: layer1.2.conv1.weight"),
    "another width": (["--option=width=0.25"], r"of another shape: conv1.weight \[8, 3, 7, 7\] instead of \[16, 3"),
    "no option": (["--option=widht=1"], "no option 'widht'; did you mean 'width'"),
    "no value": (["--option=width"], "--option=width is not of the form --option=width=0.25"),
    "the name as an option": (["--option=name=vgg11"], "--option=name=vgg11 is not of the form"),
    "classes as an option": (["--option=num_classes=3"], "--option=num_classes=3 is not of the form"),
    "source": (["--source=foldr:/tmp"], "no such kind of source as 'foldr'"),
    "too few names": (["--classes={tmp_path}/names.txt"], "there are 2 names of classes, but the network has 3"),
    "no names": (["--classes=none.txt"], "cannot read the names of classes: .*none.txt"),
    "export and import": (["--export=x.safetensors"], "--export writes the weights of --workdir: leave out --model"),
    "unwritable workdir": (["--workdir=/proc/run"], "cannot write the workdir /proc/run"),
    "a file as workdir": (["--workdir={tmp_path}/names.txt"], "cannot write the workdir {tmp_path}/names.txt"),
}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(twin(options=NARROW).state_dict(), path)
    return path


QUICK_BAD = ("no such file", "half a file", "another network", "no option", "too few names", "unwritable workdir")


@pytest.mark.parametrize("bad", [name if name in QUICK_BAD else slow(name) for name in BAD])
def test_what_is_refused(script, tmp_path, weights_file, bad):
    flags, words = BAD[bad]
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "half.pth").write_bytes(weights_file.read_bytes()[:50_000])
    flags = [flag.format(tmp_path=tmp_path) for flag in flags]
    result = script("import_weights.py", *network(NARROW), f"--weights={weights_file}", f"--workdir={tmp_path}/run",
                    *flags)
    refused(result, 1)
    assert re.search(words.format(tmp_path=tmp_path), result.err), result.err
    assert {path.name for path in tmp_path.iterdir()} == {"names.txt", "half.pth"}


def test_weights_that_are_no_numbers(script, tmp_path):
    state = twin().state_dict()
    state["fc.bias"][1], state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan"), float("inf")
    torch.save(state, tmp_path / "w.pth")
    refused(script("import_weights.py", *network(SHORT), f"--weights={tmp_path}/w.pth", f"--workdir={tmp_path}/run"), 1,
            "infinite or not numbers: params/dense/bias, params/stage1_block1/conv1/kernel")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize(("encoding", "end"), [
    ("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("latin-1", "\n"), ("utf-8", " \t\r\n"),
    ("utf-8", "\r")])
def test_names_of_classes_from_any_editor(tmp_path, encoding, end):
    names = ["\xc4pfel", "great white shark", "hund"]
    for text in (end.join(names), end.join([*names, "", " ", ""])):
        (tmp_path / "names.txt").write_bytes(text.encode(encoding))
        assert imported.read_class_names(tmp_path / "names.txt") == names


def test_names_of_classes_that_are_no_text(tmp_path):
    for content in ("cat\ndog\n".encode("utf-16-le"), b"\xff\xfe\n\xd8\0", bytes(10)):
        (tmp_path / "names.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"names\.txt is no text in UTF-8"):
            imported.read_class_names(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_bytes(b"\n \n")
    assert imported.read_class_names(tmp_path / "names.txt") == []


def test_a_single_output_is_refused(tmp_path):
    """Softmax of one number is 1 for every image."""
    from configs import base

    state = twin(classes=1).state_dict()
    module, shape = convert.matching_network("resnet18", state, **SHORT)
    variables = weights.from_torchvision("resnet18", state, **SHORT)
    with pytest.raises(UserError, match="single output, and softmax makes 100 % of it"):
        imported.write_run(tmp_path / "run", base.get_config(), module, variables, shape, (), {})
    assert not any(tmp_path.iterdir())


def test_help(script):
    result = script("import_weights.py", "--help")
    text = result.out + result.err
    assert "python scripts/import_weights.py --model=resnet18" in text
    for flag in ("--weights", "--normalize", "--export", "--option"):
        assert flag in text


def test_a_disk_that_fills_leaves_nothing(tmp_path, monkeypatch):
    from configs import base
    from modern_cnn.runs.checkpoints import Checkpoints

    def fail(*_):
        raise OSError(28, "No space left on device")

    state, config = twin().state_dict(), base.get_config()
    config.model.update(SHORT, name="resnet18")
    module, shape = convert.matching_network("resnet18", state, **SHORT)
    write = [tmp_path / "run", config, module, weights.from_torchvision("resnet18", state, **SHORT), shape, (), {}]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", fail)
        with pytest.raises(UserError, match="No space left on device"):
            imported.write_run(*write)
    assert not any(tmp_path.iterdir())
    imported.write_run(*write)
    assert modern_cnn.load(tmp_path / "run")[0] == module
