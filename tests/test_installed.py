"""The wheel alone, in an empty folder: commands, configs, and the list of its packages."""
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the content of a wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                             check=True).stdout.split("\n")
    for name in tracked:  # the build writes beside the sources
        if (ROOT / name).is_file() and not name.startswith(("docs/", "tests/")):
            (directory / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / "source" / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index",
                    f"--wheel-dir={directory}", str(directory / "source")], check=True)
    [wheel] = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(directory / "site")
    return directory / "site"


def modern_cnn(site, folder, *arguments):
    return subprocess.run([sys.executable, "-m", "modern_cnn", *arguments], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(site)}, timeout=600, check=False)


def test_the_wheel_has_all_of_the_checkout(site):
    for folder, place in (("modern_cnn", "modern_cnn"), ("configs", "modern_cnn/tree/configs"),
                          ("scripts", "modern_cnn/tree/scripts")):
        files = {path.relative_to(ROOT / folder) for pattern in ("*.py", "*.sh", "*.npz", "py.typed", "zoo/*")
                 for path in (ROOT / folder).rglob(pattern)}
        assert files == {path.relative_to(site / place) for path in (site / place).rglob("*")
                         if path.is_file() and "tree" not in path.relative_to(site / place).parts}


def test_commands_are_the_scripts(site, tmp_path):
    result = modern_cnn(site, tmp_path, "--help")
    assert result.returncode == 0
    for script in (ROOT / "scripts").glob("[a-z]*.py"):
        assert f"  {script.stem} " in result.stdout
    wrong = modern_cnn(site, tmp_path, "trian")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: there is no command 'trian'; the commands are ablate, ")


@pytest.mark.parametrize(("config", "evaluates"), [
    ("mlp", False), *[pytest.param(config, True, marks=pytest.mark.slow) for config in ("mlp", "configs/mlp.py")]])
def test_a_config_is_found_by_name(site, tmp_path, config, evaluates):
    result = modern_cnn(site, tmp_path, "train", f"--config={config}", "--config.data.source=digits",
                        "--config.max_steps=2", "--workdir=mine")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mine/curves.png").exists()
    assert not evaluates or modern_cnn(site, tmp_path, "evaluate", "--workdir=mine").returncode == 0


def test_a_config_is_found_by_its_path(site, tmp_path):
    result = modern_cnn(site, tmp_path, "train", "--config=configs/quickstart.py", "--config.data.batch_size=5000")
    assert result.returncode == 1
    assert "is more than the 1437" in result.stderr


def test_a_config_that_is_not_there_is_named(site, tmp_path):
    result = modern_cnn(site, tmp_path, "train", "--config=quickstar")
    assert (result.returncode, result.stdout) == (2, "")
    assert "there is no config file 'quickstar'" in result.stderr


def test_the_zoo_is_installed(site, tmp_path):
    code = ("import modern_cnn; module, variables = modern_cnn.load('zoo:lenet_relu_fashion_mnist')\n"
            "print(modern_cnn.__file__, module.num_classes)")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600,
                            env=os.environ | {"PYTHONPATH": str(site)}, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(site / "modern_cnn/__init__.py"), "10"]


def test_the_extras_are_the_files():
    """requirements-dev.txt has those that the tests need, and the weekly workflow the others, with 40 packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    assert {name: extra["file"] for name, extra in extras.items()} == {
        name: f"requirements-{name}.txt" for name in ("tfds", "wandb", "mlflow", "hub", "buckets")}
    wanted = (ROOT / "requirements-dev.txt").read_text() + (ROOT / ".github/workflows/ci.yml").read_text()
    assert all(f"-r {extra['file']}" in wanted for extra in extras.values())
