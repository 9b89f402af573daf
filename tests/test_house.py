"""The order of the house: which room may call which, what importing does, and that every config stands."""
import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import modern_cnn
from modern_cnn import models, settings
from modern_cnn.training.unused import unused

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "modern_cnn").rglob("*.py"))
PROGRAMS = sorted(path for folder in ("configs", "modern_cnn", "scripts") for path in (ROOT / folder).rglob("*.py"))
# Imports go one way: functional <- layers <- models <- training <- runs <- sweeps; data knows nothing of training.
MAY_IMPORT = {
    "functional": {"functional"},
    "initializers": {"errors"},
    "layers": {"functional", "initializers", "errors"},
    "models": {"models", "layers", "initializers", "functional", "errors"},
    "data": {"data", "functional", "errors", "settings", "runtime", "buckets", "zoo"},
    "runtime": {"errors"},
    "buckets": {"errors", "runtime"},
    "__main__": {"runtime"},
    "errors": set(),
    "settings": {"errors", "models"},
    "cli": {"errors", "settings", "runtime", "buckets"},
    "training": {"training", "models", "data", "functional", "errors", "settings"},
    "runs": {"runs", "training", "models", "data", "zoo", "errors", "settings", "cli", "runtime", "buckets"},
    "sweeps": {"sweeps", "runs", "training", "errors", "settings", "buckets"},
    "weights": {"weights", "models", "errors"},
    "zoo": {"zoo", "weights", "errors"},
    "inspection": {"inspection", "runs", "data", "functional", "errors", "settings", "cli"},
    "reuse": {"reuse", "inspection", "runs", "training", "data", "zoo", "functional", "errors", "settings", "cli",
              "runtime"},
    "__init__": {"reuse", "runs", "zoo", "runtime"},
}


def tree_of(path):
    return ast.parse(path.read_text())


def imports(path):
    """Every module that a file imports, by its dotted name."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module] if node.module != "modern_cnn" else [f"modern_cnn.{a.name}" for a in node.names]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT / "modern_cnn").parts[0].removesuffix(".py")
    names = [name.split(".") for name in imports(path)]
    assert {name[1] for name in names if name[0] == "modern_cnn"} <= MAY_IMPORT[room]
    assert not {name[0] for name in names} & {"tests", "scripts", "configs"}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_fits_a_head(path):
    assert len(path.read_text().splitlines()) <= 350
    most = {ast.FunctionDef: 100, ast.ClassDef: 120}
    assert [node.name for node in ast.walk(tree_of(path))
            if type(node) in most and node.end_lineno - node.lineno + 1 > most[type(node)]] == []


@pytest.mark.parametrize("path", sorted((ROOT / "modern_cnn" / "training").glob("*.py")), ids=lambda path: path.stem)
def test_training_opens_no_file_and_prints_nothing(path):
    assert not {"logging", "pathlib", "os", "io", "tqdm", "shutil", "tempfile"} & set(imports(path))
    called = {node.func.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)
              and isinstance(node.func, ast.Name)}
    assert not {"open", "print"} & called


def test_the_loop_fits_one_screen():
    """`fit`, and all that it calls for each step."""
    lines = 0
    for path, names in {"runs/loop.py": ("fit", "due"), "runs/log.py": ("tick",), "training/program.py": ("step",),
                        "data/resident.py": ("train",)}.items():
        found = {node.name: node for node in ast.walk(tree_of(ROOT / "modern_cnn" / path))
                 if isinstance(node, ast.FunctionDef)}
        lines += sum(found[name].end_lineno - found[name].lineno + 1 for name in names)
    assert lines <= 100


def test_importing_sets_no_environment_and_starts_no_backend():
    code = ("import os; before = dict(os.environ)\n"
            "import modern_cnn, modern_cnn.models, modern_cnn.runs.loop, sys, jax\n"
            "from jax._src import xla_bridge\n"
            "assert dict(os.environ) == before\n"
            "assert not xla_bridge._backends and not jax.config.jax_compilation_cache_dir\n"
            "heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib', 'tensorboardX', 'safetensors',\n"
            "         'wandb', 'mlflow', 'huggingface_hub', 'fsspec', 'gcsfs', 's3fs'}\n"
            "assert not heavy & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_one_version():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == modern_cnn.__version__
    assert f"version: {modern_cnn.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def config_module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONFIGS = sorted(set((ROOT / "configs").glob("*.py")) - {ROOT / "configs/base.py"})


def variants():
    """Yield the configs of all variants; where depth or recipe alone make the difference, the first is not slow."""
    seen: set[tuple[str, int]] = set()
    for path in CONFIGS:
        module = config_module(path)
        for variant in getattr(module, "VARIANTS", (None,)):
            config = module.get_config(*([variant] if variant else []))
            kind = re.sub(r"\d+", "", config.model.name), config.data.image_size
            slow = kind in seen or kind[0] in ("googlenet", "densenet")  # these have small relatives
            yield pytest.param(config, id=f"{path.stem}:{variant}", marks=pytest.mark.slow if slow else ())
            seen.add(kind)


@pytest.mark.parametrize("config", [*variants()])
def test_every_config_builds_its_network(config):
    net, size = models.build(**config.model), config.data.image_size or 28
    jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, size, size, 1))))
    spec, plan = SimpleNamespace(image_shape=(size, size, 1)), SimpleNamespace(total_steps=10**9)
    assert unused(settings.read(config), spec, plan) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_opens_with_its_command_and_can_be_read(path):
    module = config_module(path)
    command = re.search(r"python scripts/train\.py --config=(\S+)", module.__doc__)
    assert command
    assert (ROOT / command[1].partition(":")[0]) == path
    for variant in getattr(module, "VARIANTS", (None,)):
        config = module.get_config(*([variant] if variant else []))
        models.build(**config.model)
        settings.read(config)
    if hasattr(module, "VARIANTS"):
        with pytest.raises(ValueError, match="no variant"):
            module.get_config("nonsense")


def test_a_kill_costs_at_most_an_epoch():
    """LeNet's runs may save more rarely: they take about a minute."""
    for path in CONFIGS:
        module = config_module(path)
        for variant in getattr(module, "VARIANTS", (None,)):
            config = module.get_config(*([variant] if variant else []))
            saves_by_steps = 0 < config.checkpoint_every_steps <= 50_000 // config.data.batch_size
            assert config.eval_every_epochs == 1 or saves_by_steps or config.model.name.startswith("lenet"), path.stem


def test_every_network_has_a_config():
    named = {config_module(path).get_config(*([v] if v else [])).model.name
             for path in (ROOT / "configs").glob("*.py") if path.stem != "base"
             for v in getattr(config_module(path), "VARIANTS", (None,))}
    assert named == set(models.MODELS)


def public(path):
    """The functions and methods of a module that others may call."""
    for node in tree_of(path).body:
        for each in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
                yield each


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_are_annotated_and_say_what_comes_back(path):
    for function in public(path):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        assert [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")] == [], function.name
        assert function.returns is not None, function.name
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
            assert not re.match(r"[(\[{]|(Of|As|What|That)\b", text), (node.name, text)
