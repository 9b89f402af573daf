"""The pages of docs/ say what the code and the files of runs say; test_docs has their commands and links."""
import ast
import json
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from modern_cnn import models, settings
from modern_cnn.errors import UserError
from modern_cnn.reuse import provenance
from modern_cnn.runs import workdir
from scripts.publish import accelerator, pages, results

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RECORDS = results.load(DOCS / pages.RECORDS)
TEXTS = {path.name: path.read_text() for path in DOCS.glob("*.md")}


@pytest.fixture(scope="module", autouse=True)
def networks_are_traced_once():
    """Pages share networks, and some tests make a page several times."""
    def once(make):
        found = {}
        return lambda *args: found[key] if (key := repr(args)) in found else found.setdefault(key, make(*args))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages.summary, "summarize", once(pages.summary.summarize))
        patch.setattr(pages.blocks, "draw", once(pages.blocks.draw))
        yield


def test_the_counts_of_the_tables_are_the_golden_ones():
    """Of every page, quickly; test_models holds the golden numbers to the code."""
    golden = json.loads((ROOT / "tests/golden/networks.json").read_text())
    row, seen = re.compile(r"^\| `(\w+)` \|(?:[^|]*\|){3} ([\d,]+) \| ([\d,]+) \|", re.MULTILINE), set()
    for page in pages.FAMILIES:
        for name, *counts in row.findall(TEXTS[f"{page}.md"]):
            wanted = golden[name]["parameters"], golden[name]["batch_stats"]
            assert tuple(int(count.replace(",", "")) for count in counts) == wanted
            seen.add(name)
    assert seen == set(models.MODELS)


@pytest.mark.parametrize("page", [
    pytest.param(page, marks=pytest.mark.slow if page in ("vgg", "googlenet", "resnet", "densenet") else ())
    for page in [*pages.FAMILIES, "results", "config", "speed", "README"]])  # tracing a deep network takes long
def test_a_page_is_what_the_code_makes(page):
    assert pages.update(ROOT, [], check=True, only=[page]) == []


def test_every_network_is_on_a_page():
    named = [network for page, family in pages.FAMILIES.items() if page != "batch_norm" for network in family.networks]
    assert {name for name, *_ in named} == set(models.MODELS)
    assert len({(name, str(options)) for name, options, _ in named}) == len(named)
    for page in pages.FAMILIES:
        assert f"]({page}.md)" in TEXTS["README.md"]
        assert "\n<!-- blocks -->\n```mermaid\n" in TEXTS[f"{page}.md"]


def test_a_page_that_is_out_of_date_is_told_and_mended(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "configs").mkdir()
    text = TEXTS["nin.md"].replace("<!-- results", "<!-- missing").replace("<!-- /results", "<!-- /missing")
    (tmp_path / "docs/nin.md").write_text(text)
    pages.update(tmp_path, [], only=["nin"])
    good = (tmp_path / "docs/nin.md").read_text()
    assert pages.update(tmp_path, [], check=True, only=["nin"]) == []
    (tmp_path / "docs/nin.md").write_text(good.replace("1,992,166", "1,992,167"))
    with pytest.raises(UserError, match=r"out of date: docs/nin\.md; run python scripts/pages\.py"):
        pages.update(tmp_path, [], check=True, only=["nin"])
    assert pages.update(tmp_path, [], only=["nin"]) == ["docs/nin.md"]
    assert (tmp_path / "docs/nin.md").read_text() == good
    assert "no run yet of lenet, alexnet, vgg, nin, googlenet, resnet, densenet, mobilenet, regnet." in good
    (tmp_path / "docs/nin.md").write_text("<!-- nonsense -->\n<!-- /nonsense -->\n")
    with pytest.raises(UserError, match=r"docs/nin\.md has a marker 'nonsense'"):
        pages.update(tmp_path, [], only=["nin"])


def test_python_of_the_pages_runs():
    blocks = re.findall(r"```python\n(.*?)```", TEXTS["batch_norm.md"], re.DOTALL)
    scope = {}
    exec(blocks[0], scope)
    assert scope["y"].shape == (8, 4, 4, 3)
    assert jnp.allclose(scope["mean"], 0.1)
    assert jnp.allclose(scope["var"], 0.9)


def test_the_network_of_the_page_on_adding_one():
    network, config = (block for block in re.findall(r"```python\n(.*?)```", TEXTS["adding.md"], re.DOTALL)
                       if block.startswith('"""'))
    module = types.ModuleType("allcnn")
    exec(compile(network, "allcnn.py", "exec"), module.__dict__)
    variant = module.VARIANTS["allcnn"]
    net, images = variant.network(**variant.options), jnp.zeros((1, *variant.image_shape))
    assert (net.num_classes, images.shape) == (variant.num_classes, (1, 32, 32, 3))
    files = re.findall(r"^## \d\. .*: `(\S+\.py)`$", TEXTS["adding.md"], re.MULTILINE)
    assert {"modern_cnn/models/allcnn.py", "configs/allcnn.py"} <= {*files}
    assert len(files) <= 4  # beside tests
    shapes = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), images, mutable=True))
    # the paper's table 1 by hand: 3x3 but for the last two
    wanted = 9 * (3 * 96 + 2 * 96 * 96 + 96 * 192 + 3 * 192 * 192) + 192 * 192 + 192 * 10 + 3 * 96 + 5 * 192 + 10
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes[1]["params"])) == wanted == 1_369_738
    golden, = map(ast.literal_eval, re.findall(r'`"allcnn": (\{.*?\}\})`', TEXTS["adding.md"]))
    assert golden["parameters"] == wanted
    assert {stage: [*value.shape[1:]] for stage, (value,) in shapes[1]["intermediates"].items()} == golden["stages"]
    scope = {}
    exec(config, scope)
    config = scope["get_config"]()
    assert config.model.name == "allcnn"
    config.model.name = "nin_cifar"  # which is there
    settings.read(config)


def write_run(directory, *, seed=0, accuracies=(0.5, 0.7), validation=None, steps=4, commit="abc", **fields):
    """A workdir as train.py leaves it: 100 images, batch 25, and 50 images/s."""
    directory.mkdir(parents=True)
    source = "idx:/somewhere/fashion-mnist"
    config = {"seed": seed, "epochs": 1, "max_steps": 0, "schedule": {"name": "constant"}, "log_every_steps": 2,
              "model": {"name": "lenet", "width": None}, "data": {"source": source, "batch_size": 25, "image_size": 0}}
    data = {"source": source, "origin": source, "image_shape": [28, 28, 1], "num_classes": 10, "class_names": [],
            "sizes": {"train": 100, "test": 10}, "mean": [0], "std": [1], "digest": ""}
    run = {"versions": {"jax": "1.2"}, "commit": commit, "device": "cpu", "machine": "Linux, 2 cores",
           "device_count": 1, "parameters": 61706, "data": data}
    records = []
    for step, accuracy, held in zip((2, steps), accuracies, validation or accuracies, strict=True):
        shared = {"step": step, "epoch": step / 4, "loss": 1.0}
        records.append(shared | {"split": "train", "accuracy": 0.9, "images_per_second": 50.0})
        records.append(shared | {"split": "test", "accuracy": accuracy})
        records += [shared | {"split": "validation", "accuracy": held}] if validation else []
    (directory / "config.json").write_text(json.dumps(config | fields))
    (directory / "run.json").write_text(json.dumps(run))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return directory


def test_a_record_is_what_the_files_say(tmp_path):
    record = provenance.read(write_run(tmp_path / "a", seed=3))
    assert {key: record[key] for key in ("network", "data", "seed", "steps", "accuracy", "seconds", "commit")} == {
        "network": "lenet", "data": "Fashion-MNIST", "seed": 3, "steps": 4, "accuracy": 0.7, "seconds": 2.0,
        "commit": "abc"}
    assert "somewhere" not in json.dumps(record)
    # validation chooses the checkpoint, not the test split
    record = provenance.read(write_run(tmp_path / "b", validation=(0.8, 0.6)))
    assert (record["chosen"], record["accuracy"]) == (2, 0.5)
    with pytest.raises(UserError, match=r"c has not finished: step 3 of 4$"):
        provenance.read(write_run(tmp_path / "c", steps=3))
    assert provenance.read(write_run(tmp_path / "d", steps=3, max_steps=3))["steps"] == 3
    with pytest.raises(UserError, match="not a run's workdir"):
        provenance.read(tmp_path)


def test_a_table_has_means_over_seeds_and_commands(tmp_path):
    runs = [provenance.read(write_run(tmp_path / str(seed), seed=seed, accuracies=(0, accuracy),
                                      commit=f"c{seed // 2}")) for seed, accuracy in enumerate((0.71, 0.75, 0.72))]
    again = provenance.read(write_run(tmp_path / "again", seed=1, accuracies=(0, 0.735), commit="c0"))
    short = provenance.read(write_run(tmp_path / "short", max_steps=4, model={"name": "lenet", "width": 0.5}))
    records = results.merge(runs, [again, short], ["lenet"])
    assert len(records) == 4  # the same seed again takes the old one's place
    newer = {**again, "config": again["config"] | {"optimizer.epsilon": 1e-8}}  # a field that earlier versions lacked
    assert len(results.merge(records, [newer], ["lenet"])) == 4
    configs = {"configs/mlp.py": {"model.name": "mlp"},
               "configs/lenet.py": {"model.name": "lenet", "epochs": 1, "data.batch_size": 25,
                                    "schedule.name": "constant", "data.source": "fashion_mnist"}}
    table = results.table(records, configs).splitlines()
    first, second = sorted(table[2:4], key=len)
    # 0.71, 0.735, 0.72; and 2 s each
    assert first == ("| `--config=configs/lenet.py` | 61,706 | Fashion-MNIST | 4 | 72.17 ± 1.26 % (n = 3) | 0 to 2 "
                     "| 2 s ± 0 s | b, c |")
    assert "`--config=configs/lenet.py --config.max_steps=4 --config.model.width=0.5`" in second
    assert "| 70.00 % (n = 1) | 0 | 2 s |" in second
    assert "b: Linux, 2 cores (cpu), jax 1.2, commit c0.  " in table
    assert results.table([], configs) == "None yet."
    for folder in ("docs", "configs"):
        (tmp_path / "new" / folder).mkdir(parents=True)
    pages.update(tmp_path / "new", [tmp_path / "0", tmp_path / "1"])
    pages.update(tmp_path / "new", [tmp_path / "2", tmp_path / "again", tmp_path / "short"])
    assert results.load(tmp_path / "new/docs/results.jsonl") == records


def test_the_best_of_each_family(tmp_path):
    """Two experiments of LeNet, of which the better mean counts, not the better seed; no line without runs."""
    def record(network, source, seed, accuracy, **model):
        run = write_run(tmp_path / f"{network}{source}{accuracy}", seed=seed, accuracies=(0, accuracy),
                        model={"name": network, **model})
        return {**provenance.read(run), "data": provenance.data_name(source)}

    half = {"width": 0.5}
    records = [record("lenet", "fashion_mnist", 0, 0.9), record("lenet", "fashion_mnist", 1, 0.6),
               record("lenet", "fashion_mnist", 0, 0.75, **half), record("lenet", "fashion_mnist", 1, 0.77, **half),
               record("resnet20", "folder:cifar10", 0, 0.5)]
    same = {"epochs": 1, "data.batch_size": 25, "schedule.name": "constant", "data.source": "fashion_mnist"}
    configs = {"configs/lenet.py": {"model.name": "lenet", **same}}
    first, second = pages.part("best", "results", configs, records).splitlines()[2:]
    assert first.startswith("| [`lenet`](lenet.md) | 61,706 | Fashion-MNIST | **76.00 ± 1.41 % (n = 2)** | 78 to 82 %")
    assert "| `--config=configs/lenet.py --config.model.width=0.5` | 2 s ± 0 s |" in first
    assert second.startswith("| [`resnet20`](resnet.md) | 61,706 | CIFAR-10 as image files | **50.00 % (n = 1)** | 91")
    assert pages.part("results", "vgg", configs, records) == "None yet."


def test_the_page_of_fields_has_them_all():
    rows = re.findall(r"^\| `([\w.]+)` \|", TEXTS["config.md"], re.MULTILINE)
    assert rows == list(settings.FIELDS)


@pytest.mark.parametrize(("source", "name"), [
    ("fashion_mnist", "Fashion-MNIST"), ("tfds:fashion_mnist", "Fashion-MNIST"), ("idx:/a/mnist/", "MNIST"),
    ("cifar:/data/cifar-10-batches-py", "CIFAR-10"), ("cifar:/x/cifar-100-python", "CIFAR-100"), ("digits", "digits"),
    ("folder:/home/me/cifar", "CIFAR-10 as image files"), ("folder:/home/me/cats", "cats as image files"),
    ("tfds:kmnist", "kmnist"), ("tfds:emnist/letters", "emnist/letters"), ("csv:/d/fashion.csv", "fashion.csv"),
    ("folder:/d/street_digits", "street_digits as image files"), ("cifar:/data/cifar-10-batches-bin", "CIFAR-10")])
def test_names_of_data_sets(source, name):
    assert provenance.data_name(source) == name


def test_a_config_that_was_run_with_other_fields_alone_is_missing():
    configs = provenance.read_configs(ROOT)
    own = {"data": "Fashion-MNIST", "network": "lenet", "config": configs["configs/lenet.py"], "seed": 0}
    changed = own | {"config": own["config"] | {"optimizer.learning_rate": 0.1}}
    for records, lacks in (([own], False), ([changed], True), ([], True)):
        assert ("`configs/lenet.py`," in pages.missing(records, configs)) == lacks


def test_what_an_accelerator_showed_is_kept_and_shown(tmp_path):
    with pytest.raises(UserError, match="has none of exactness"):
        accelerator.keep(tmp_path, tmp_path / "kept")
    assert accelerator.steps(tmp_path) == accelerator.exactness(tmp_path) == accelerator.NOBODY
    made = {"versions": {"jax": "1.2"}, "commit": "abc", "device": "chip", "device_count": 1}
    step = {"model": "resnet50", "batch_size": 128, "image_shape": [224, 224, 3], "dtype": "bfloat16", "who": "ours",
            "median_ms": 12.34, "images_per_second": 10372.8, "matrix_share": 0.25, "ready_s": 20, "ours_is_faster": 1,
            "memory_bytes": 2**30}
    other = step | {"who": "torch", "matrix_share": None, "memory_bytes": None, "ours_is_faster": 1.5}
    errors = [{"what": "conv 3x3", "precision": name, "error": error} for name, error in (("a", 4e-7), ("b", 0.01))]
    workdir.write_json(tmp_path / "steps.json", made | {"results": [step, other]})
    workdir.write_json(tmp_path / "exactness.json", made | {"results": errors})
    (tmp_path / "new/docs").mkdir(parents=True)
    (tmp_path / "new/configs").mkdir()
    for name in ("steps", "exactness"):
        (tmp_path / "new/docs" / f"{name}.md").write_text(
            f"one\n<!-- accelerator-{name} -->\n\n<!-- /accelerator-{name} -->\ntwo\n")
    pages.update(tmp_path / "new", [], measured=tmp_path)
    text = (tmp_path / "new/docs/steps.md").read_text()
    assert "`resnet50`, batch 128, 224x224x3, bfloat16 | ours | 12.3 | 10,373 | 25.0 % | 20.0 | 1,024 | 1.00x |" in text
    assert "| torch | 12.3 | 10,373 |  | 20.0 |  | 1.50x |" in text
    assert text.endswith("1 x chip, jax 1.2, commit abc.\n<!-- /accelerator-steps -->\ntwo\n")
    assert "| conv 3x3 | 4.0e-07 | 1.0e-02 |" in (tmp_path / "new/docs/exactness.md").read_text()
