"""Networks as folders and on the Hub: written, uploaded, fetched and checked, against a server on this machine."""
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import modern_cnn
from modern_cnn import zoo
from modern_cnn.errors import UserError
from modern_cnn.reuse import share
from modern_cnn.runs import load, loop
from tests.forked import Result, run_script
from tests.reuse import hub_server
from tests.runs import small

SMALL = "zoo:lenet_relu_fashion_mnist"
HEAD = "import json, os, sys, time, jax, modern_cnn\nfrom modern_cnn.errors import UserError\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps, whose config has paths of this machine."""
    config = small.get_config()
    config.max_steps = 3
    directory = tmp_path_factory.mktemp("share") / "mine"
    loop.train_and_evaluate(config, directory)
    config = json.loads((directory / "config.json").read_text())
    config["finetune"]["workdir"] = config["data"]["manual_dir"] = str(directory / "elsewhere")
    (directory / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "crc"}))
    return directory


@pytest.fixture(scope="module")
def folder(run):
    """What push_to_hub writes of it."""
    assert modern_cnn.push_to_hub(run, folder=run.parent / "shared") == str(run.parent / "shared")
    return run.parent / "shared"


def assert_equal(found, wanted):
    assert found[0] == wanted[0]
    assert jax.tree.structure(found[1]) == jax.tree.structure(wanted[1])
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_or_a_file_holds_the_bits_of_the_run(run, folder, tmp_path, monkeypatch):
    """And without huggingface_hub."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    wanted = modern_cnn.load(run)
    shutil.copy(folder / "model.safetensors", tmp_path / "net.safetensors")
    shutil.copy(folder / "card.json", tmp_path / "net.json")
    for source in (folder, str(folder), folder / "model.safetensors", tmp_path / "net.safetensors", run):
        assert_equal(modern_cnn.from_pretrained(source), wanted)
    assert_equal(modern_cnn.load(folder), wanted)
    modern_cnn.push_to_hub(folder, folder=tmp_path / "again")
    for file in ("model.safetensors", "card.json"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    card = zoo.card(str(folder))
    score = load.evaluate_workdir(folder)
    assert (card["accuracy"], card["count"]) == (score["accuracy"], score["count"])
    assert card["correct"] == round(card["accuracy"] * 360)
    images, _ = modern_cnn.data.load("digits", like=folder)
    assert images.shape == (360, 8, 8, 1)


def test_the_card_says_all_and_no_path_of_this_machine(run, folder):
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "card.json", "README.md"}
    text = (folder / "README.md").read_text()
    assert str(run.parent) not in text + (folder / "card.json").read_text()
    card = zoo.card(str(folder))
    assert (card["name"], card["network"], card["data"], card["stored_as"]) == ("mine", "vgg11", "digits", "float32")
    assert card["command"].startswith("python scripts/train.py --config=configs/")
    assert "--config.max_steps=3" in card["command"]
    assert f"{100 * card['accuracy']:.2f} %: {card['correct']:,} of the 360 images of the test split" in text
    assert 'modern_cnn.from_pretrained("shared")' in text
    for word in (card["command"], card["licence"], "CC BY 4.0"):
        assert word in text
    zoo_card = zoo.card("resnet20_cifar10")
    text = share.readme(zoo_card, "hub:me/net")
    assert 'modern_cnn.from_pretrained("me/net")' in text
    assert "--weights=hub:me/net " in text


@pytest.mark.filterwarnings("ignore")  # of huggingface_hub
def test_the_hub_reads_the_metadata(folder):
    pytest.importorskip("huggingface_hub", reason="pip install -r requirements-hub.txt")
    from huggingface_hub.repocard import ModelCard

    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "modern_cnn", "image-classification")
    assert {"jax", "flax", "vgg11"} < {*data.tags}
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", zoo.card(str(folder))["accuracy"])
    assert (result.dataset_name, result.dataset_split) == ("digits", "test")
    other = ModelCard(share.readme(zoo.card("lenet_fashion_mnist"), "me/net")).data
    assert (other.license, other.datasets) == ("mit", ["zalando-datasets/fashion_mnist"])


def damaged(folder, to, change):
    shutil.copytree(folder, to)
    change(to)
    return to


def edit(**values):
    def change(folder):
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | values))

    return change


def flip(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def no_tensors(folder):
    (folder / "model.safetensors").write_bytes(b"no tensors at all")
    edit(sha256=zoo.digest(folder / "model.safetensors"))(folder)


def another_network(folder):
    for file, stored in (("model.safetensors", "safetensors"), ("card.json", "json")):
        shutil.copy(zoo.FOLDER / f"{SMALL[4:]}.{stored}", folder / file)
    card = zoo.card(SMALL[4:])
    edit(config=card["config"] | {"model": card["config"]["model"] | {"name": "lenet_relu_bn"}})(folder)


@pytest.mark.parametrize(("change", "words"), [
    (flip, r"model.safetensors is missing or damaged: fetch or copy it again \(SHA-256 expected [0-9a-f]{64}, found "
           r"[0-9a-f]{64}\)"),
    (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing .* found no file"),
    (no_tensors, "model.safetensors is damaged, or not a .safetensors file"),
    (lambda folder: (folder / "card.json").write_text("{"), "cannot read .*card.json: "),
    (lambda folder: (folder / "card.json").write_text("[]"), "card.json is not the card of a network: it lacks sha256"),
    (edit(steps="3"), "card.json is not the card of a network: it lacks steps"),
    (edit(config={}), "card.json lacks model, data, schedule, or is wrong there"),
    (another_network, "the weights of .* are not those of its network: .*batch_stats/")])
def test_what_is_wrong_in_a_folder_is_told_in_a_line(folder, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        modern_cnn.from_pretrained(damaged(folder, tmp_path / "damaged", change))


def test_what_is_no_network_is_told_in_a_line(folder, run, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    for source, words in ((tmp_path / "weights.pth", "weights.pth is no .safetensors file; scripts/import_weights.py"),
                          (tmp_path / "alone.safetensors", "alone.safetensors has no card: .*card.json is missing"),
                          (tmp_path / "none.safetensors", "there is no file or folder .*none.safetensors"),
                          ("nothing", "there is no file or folder nothing, and a repository of the Hub is USER/NAME"),
                          (tmp_path / "other", "is not a run's workdir"),
                          ("hub:me", "'me' is no repository of the Hub: it must be USER/NAME")):
        with pytest.raises(UserError, match=words):
            modern_cnn.from_pretrained(source)
    for repository, where, words in (("", "", "name a repository of the Hub, USER/NAME, or a folder"),
                                     ("me/net/x", "", "'me/net/x' is no repository of the Hub"),
                                     ("", tmp_path / "other", "holds other files .notes.txt.")):
        with pytest.raises(UserError, match=words):
            modern_cnn.push_to_hub(run, repository, where)
    with pytest.raises(UserError, match="is a stored network, which nothing writes"):
        loop.train_and_evaluate(small.get_config(), folder)


def test_imported_weights_and_unfinished_runs_are_not_shared(make_run, run, tmp_path):
    with pytest.raises(UserError, match="were imported: they have no score"):
        modern_cnn.push_to_hub(make_run("lenet", (28, 28, 1))[0], folder=tmp_path / "a")
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has not finished"):
        modern_cnn.push_to_hub(tmp_path / "run", folder=tmp_path / "a")


@pytest.mark.parametrize(("source", "data", "licence", "public"), [
    ("folder:/home/me/cats and dogs", "cats and dogs", "unknown", "folder:cats_and_dogs"),
    ("folder:/home/me/digits", "digits", "unknown", "folder:digits"),
    ("csv:/home/me/mnist", "MNIST", "unknown", "csv:mnist"),
    ("tfds:emnist/letters", "emnist/letters", "unknown", "tfds:emnist/letters"),
    ("tfds:mnist", "MNIST", "CC BY-SA 3.0 (Y. LeCun, C. Cortes)", "mnist")])
def test_only_a_set_that_is_known_has_a_licence(source, data, licence, public, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for file in ("config.json", "run.json"):
        content = json.loads((tmp_path / "run" / file).read_text())
        content.pop("crc", 0)
        content["data"]["source"] = source
        (tmp_path / "run" / file).write_text(json.dumps(content))
    card = share.describe(tmp_path / "run")
    assert "/home" not in json.dumps(card)
    assert (card["data"], card["licence"], card["config"]["data"]["source"]) == (data, licence, public)
    assert f"--config.data.source={public} " in card["command"] + " "
    assert ("license: \"unknown\"" in share.readme(card | {"name": "pets"}, "pets")) == (licence == "unknown")


def test_a_run_that_stopped_early_is_finished(run, tmp_path):
    """Two evaluations, the second of which is no better, and twice as many steps were asked for."""
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text()) | {"early_stopping": 1, "max_steps": 6}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    metrics = [{"epoch": 0.1, "loss": 1.0, "accuracy": 0.5, **each} for each in (
        {"step": 1, "split": "validation"}, {"step": 1, "split": "test"},
        {"step": 3, "split": "validation", "loss": 2.0},
        {"step": 3, "split": "train", "images_per_second": 9.0})]
    for kept in (4, 3):
        (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in metrics[4 - kept:]))
        if kept == 4:
            assert share.describe(tmp_path / "run")["steps"] == 1
    with pytest.raises(UserError, match="has not finished: step 3 of 6"):
        share.describe(tmp_path / "run")


# ---- the Hub

@pytest.fixture(scope="module")
def hub():
    with hub_server.serve() as hub:
        yield hub


@pytest.fixture
def python(server, hub, tmp_path):
    """Return python: python(code, HF_TOKEN='') -> Result, in a process that knows the server as the Hub."""
    pytest.importorskip("huggingface_hub", reason="pip install -r requirements-hub.txt")

    def call(code, *flags, **environment):
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": hub_server.TOKEN,
               "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        script = Path(__file__).resolve().parents[2] / code if code.endswith(".py") else tmp_path / "code.py"
        if not code.endswith(".py"):
            script.write_text(HEAD + code)
        kept = {key: os.environ[key] for key in os.environ if key.startswith("MODERN_CNN")}
        process = server.Process(target=run_script, args=([str(script), *map(str, flags)], str(tmp_path),
                                                          kept | own | environment))
        process.start()
        process.join(300)
        return Result(process.exitcode, (tmp_path / "out").read_text(), (tmp_path / "err").read_text())

    return call


ERRORS = """
for action in json.loads(sys.argv[1]):
    begun = time.perf_counter()
    try:
        eval(action)
        print("no error")
    except UserError as e:
        print(e)
    assert time.perf_counter() - begun < 20
"""


def test_a_network_goes_to_the_hub_and_comes_back_bit_for_bit(run, hub, python):
    hub.repositories.clear()
    result = python(f"""
print(modern_cnn.push_to_hub({str(run)!r}, "me/net"))
print(modern_cnn.push_to_hub({SMALL!r}, "me/net@second"))
for place, own in (("me/net", {str(run)!r}), ("hub:me/net", {str(run)!r}), ("me/net@second", {SMALL!r})):
    module, variables = modern_cnn.from_pretrained(place)
    wanted, others = modern_cnn.load(own)
    assert module == wanted
    assert jax.tree.structure(variables) == jax.tree.structure(others)
    assert all(map(lambda a, b: (a == b).all(), jax.tree.leaves(variables), jax.tree.leaves(others)))
    print(module.num_classes)
""")
    assert result.code == 0, result.err
    files, commit = hub.files("me/net", "main")
    assert result.out.splitlines()[0] == f"{hub.url}/me/net/commit/{commit}"
    assert result.out.splitlines()[2:] == ["10"] * 3
    assert {*files} == {"model.safetensors", "card.json", "README.md"}
    assert 'modern_cnn.from_pretrained("me/net")' in files["README.md"].decode()
    second, _ = hub.files("me/net", "second")
    assert second["model.safetensors"] == (zoo.FOLDER / f"{SMALL[4:]}.safetensors").read_bytes()
    assert 'modern_cnn.from_pretrained("me/net@second")' in second["README.md"].decode()
    gone = python(f"print(modern_cnn.from_pretrained('me/net')[0].num_classes)\n{ERRORS}",
                  json.dumps(["modern_cnn.from_pretrained('me/net@third')"]), HF_ENDPOINT=closed(), HF_TOKEN="")
    assert gone.out.splitlines() == ["10", "me/net@third: the Hub cannot be reached, and the file is not in the cache: "
                                     "check the network"], gone.err
    hub.repositories["me/net"]["main"]["model.safetensors"] += b"x"
    wrong = python(ERRORS, json.dumps(["modern_cnn.from_pretrained('me/net')"]))
    assert "model.safetensors is missing or damaged: fetch or copy it again (SHA-256 expected " in wrong.out, wrong.err


def closed():
    """An address where nobody listens."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{place.getsockname()[1]}"


def test_the_scripts_take_and_give_networks_of_the_hub(run, hub, python, tmp_path):
    result = python("scripts/zoo.py", f"--workdir={run}", "--push=me/script", f"--out={tmp_path / 'kept'}",
                    "--store=float16", "--data=the digits of scikit-learn")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1].startswith(f"{hub.url}/me/script/commit/")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert kept == hub.files("me/script", "main")[0]
    assert json.loads(kept["card.json"])["data"] == "the digits of scikit-learn"
    result = python("scripts/evaluate.py", "--weights=hub:me/script")
    assert result.code == 0, result.err
    assert json.loads(result.out.splitlines()[-1])["count"] == 360
    result = python("scripts/zoo.py", "--push=me/script")
    assert (result.code, result.out) == (1, "")
    assert "--workdir=DIR belongs to --add=NAME, or to --push=USER/NAME, --out=FOLDER or both" in result.err


def test_what_the_hub_refuses_is_told_in_a_line_within_seconds(hub, python, tmp_path):
    hub.repositories["me/empty"] = {"main": {"README.md": b"# A text"}}
    get = "modern_cnn.from_pretrained('{}')".format
    push = f"modern_cnn.push_to_hub({SMALL!r}, 'me/new')"
    actions = [get("me/none"), get("me/empty"), get("me/empty@v9"), push]
    found = python(ERRORS, json.dumps(actions), HF_TOKEN="hf_other")
    assert found.out.splitlines() == [
        "the Hub has no repository me/none, or a private one: check its name, and log in to one that is private (hf "
        "auth login, or HF_TOKEN)",
        "me/empty holds no network that modern_cnn.push_to_hub wrote: it has no card.json or no model.safetensors",
        "me/empty@v9: the Hub has no such revision of it",
        "me/new: the Hub answers 401: the token may not do this: log in with one that may (hf auth login, or HF_TOKEN)",
    ], found.err
    found = python(ERRORS, json.dumps([push]), HF_TOKEN="")
    assert found.out == "me/new: there is no token of the Hub: log in (hf auth login), or set HF_TOKEN\n", found.err
    found = python(ERRORS, json.dumps([get("me/empty"), push]), HF_ENDPOINT=closed())
    assert [line.partition(" (")[0] for line in found.out.splitlines()] == [
        "me/empty: the Hub cannot be reached, and the file is not in the cache: check the network",
        "me/new: the Hub cannot be reached"], found.err
    assert "me/new" not in hub.repositories


def test_without_the_package_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    begun = time.perf_counter()
    for action in (modern_cnn.from_pretrained, lambda name: modern_cnn.push_to_hub(SMALL, name)):
        with pytest.raises(UserError, match="me/other: the Hub needs huggingface_hub, which is not installed: pip "
                                            r'install "modern_cnn\[hub\]", or .* -r requirements-hub.txt'):
            action("me/other")
    assert time.perf_counter() - begun < 5
