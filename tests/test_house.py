"""The order of the house: which room may call which, what importing does, and that every config stands."""
import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import modern_cnn
from modern_cnn import models, settings

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "modern_cnn").rglob("*.py"))
# Imports go one way: functional <- layers <- models <- training; data <- training.
MAY_IMPORT = {
    "functional": {"functional"},
    "layers": {"functional", "errors", "numbers"},
    "models": {"models", "layers", "functional", "errors"},
    "data": {"data", "errors", "numbers", "runtime"},
    "runtime": set(),
    "errors": set(),
    "numbers": set(),
    "cli": {"errors"},
    "training": {"training", "models", "data", "errors", "numbers"},
    "weights": {"weights", "models", "errors"},
    "reuse": {"reuse", "training", "data", "functional", "errors"},
    "benchmarks": {"benchmarks", "models", "training", "data", "functional", "analysis", "errors"},
    "sweep": {"training", "analysis", "errors"},
    "ablations": {"training", "models", "data", "analysis", "errors"},
    "pages": {"models", "results", "analysis", "errors"},
    "results": {"training", "errors"},
    "scaling": {"models", "training", "functional", "errors"},
    "analysis": {"analysis", "functional", "errors"},
    "__init__": {"training"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "modern_cnn":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [name.name for name in node.names]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way_and_functions_fit_a_head(path):
    room = path.relative_to(ROOT / "modern_cnn").parts[0].removesuffix(".py")
    assert set(imports(path)) <= MAY_IMPORT[room]
    long = [node.name for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 100]
    assert long == []


def test_importing_sets_no_environment_and_starts_no_backend():
    code = ("import os; before = dict(os.environ)\n"
            "import modern_cnn, modern_cnn.models, modern_cnn.training.loop, sys, jax\n"
            "from jax._src import xla_bridge\n"
            "assert dict(os.environ) == before\n"
            "assert not xla_bridge._backends and not jax.config.jax_compilation_cache_dir\n"
            "heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib', 'tensorboardX'}\n"
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


@pytest.mark.parametrize("path", sorted(set((ROOT / "configs").glob("*.py")) - {ROOT / "configs/base.py"}),
                         ids=lambda path: path.stem)
def test_every_config_opens_with_its_command_and_builds_its_network(path):
    module = config_module(path)
    command = re.search(r"python scripts/train\.py --config=(\S+)", module.__doc__)
    assert command
    assert (ROOT / command[1].partition(":")[0]) == path
    for variant in getattr(module, "VARIANTS", (None,)):
        config = module.get_config(*([variant] if variant else []))
        net, size = models.build(**config.model), config.data.image_size or 28
        settings.check(config)
        jax.eval_shape(lambda net=net, size=size: net.init(jax.random.key(0), jnp.zeros((1, size, size, 1))))
    if hasattr(module, "VARIANTS"):
        with pytest.raises(ValueError, match="no variant"):
            module.get_config("nonsense")


def test_every_network_has_a_config():
    named = {config_module(path).get_config(*([v] if v else [])).model.name
             for path in (ROOT / "configs").glob("*.py") if path.stem != "base"
             for v in getattr(config_module(path), "VARIANTS", (None,))}
    assert named == set(models.MODELS)


def test_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r"--config=(configs/\w+\.py)", text):
        assert (ROOT / target).exists(), target
