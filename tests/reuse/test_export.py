"""Exported networks give the logits of the checkpoint, in programs that do not import this package."""
import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from modern_cnn import models
from modern_cnn.errors import UserError
from modern_cnn.reuse import export

# One small network of each family.
FAMILIES = {
    "mlp": ((8, 8, 1), {}), "lenet": ((28, 28, 1), {}), "lenet_relu_bn": ((28, 28, 1), {}),
    "alexnet_d2l": ((96, 96, 1), {"width": 0.1}), "vgg11_d2l": ((32, 32, 1), {"width": 0.1}),
    "nin_d2l": ((96, 96, 1), {"width": 0.1}), "googlenet": ((64, 64, 3), {"width": 0.1}),
    "resnet18": ((32, 32, 3), {"width": 0.1}), "resnet32": ((16, 16, 3), {"scan": True}),
    "densenet_d2l": ((32, 32, 1), {"width": 0.25}), "mobilenet_v1": ((32, 32, 3), {"width": 0.1}),
    "regnetx32_d2l": ((32, 32, 1), {"width": 0.25}),
}

LOADER = """
import sys
import numpy as np
from pathlib import Path
import jax.export
network = jax.export.deserialize(Path("network.stablehlo").read_bytes())
images = np.load("images.npy")
np.savez("logits.npz", one=network.call(images[:1]), all=network.call(images))
assert not {"modern_cnn", "flax", "optax", "orbax", "ml_collections"} & set(sys.modules)
"""


def tell(format, name, done):
    """Print a line of the table in docs/reuse.md (pytest -s)."""
    print(f"\n| {format} | `{name}` | {done.difference:.1e} | {done.largest:.3g} |")


@pytest.mark.parametrize("name", ["lenet_relu_bn", *(
    pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "lenet_relu_bn")])
def test_a_fresh_process_without_this_package_gets_the_same_logits(name, make_run, tmp_path):
    shape, options = FAMILIES[name]
    workdir, module, variables = make_run(name, shape, **options)
    done = export.export_run(workdir, tmp_path / "network.stablehlo")
    assert done.difference < 1e-5
    assert done.largest > 0.01
    tell("StableHLO", name, done)
    images = np.random.default_rng(1).normal(size=(7, *shape)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}  # without our flags too
    subprocess.run([sys.executable, "-c", LOADER], check=True, cwd=tmp_path, env=environment)
    want = jax.jit(lambda *args: module.apply(*args, train=False))(variables, images)
    with np.load(tmp_path / "logits.npz") as file:
        got = dict(file)
    assert np.std(want, 0).max() > 1e-3  # they depend on the images
    np.testing.assert_allclose(got["all"], want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got["one"], want[:1], rtol=0, atol=1e-5)


DEEP = {"googlenet", "resnet18", "resnet32", "densenet_d2l", "mobilenet_v1", "regnetx32_d2l"}


@pytest.mark.parametrize(("name", "platform"), [
    pytest.param(name, platform, marks=pytest.mark.slow if name in DEEP and platform == "cpu" else ())
    for name in FAMILIES for platform in ("tpu", "cpu")])
@pytest.mark.usefixtures("short_googlenet")
def test_every_family_takes_any_number_of_images(name, platform):
    shape, options = FAMILIES[name]
    module = models.build(name, 3, **options)
    with export.formulations.platform(platform):
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False))
        images = jax.ShapeDtypeStruct((*jax_export.symbolic_shape("n"), *shape), jnp.float32)
        logits = jax.eval_shape(lambda v, x: module.apply(v, x, train=False), variables, images)
    assert logits.shape == (*images.shape[:1], 3)


def test_what_a_program_must_know_is_beside_the_file(make_run, tmp_path):
    workdir, *_ = make_run("mlp", (8, 8, 3), normalize="imagenet")
    done = export.export_run(workdir, tmp_path / "new" / "mlp.stablehlo")
    info = json.loads(done.info.read_text())
    assert info["images"]["shape"] == ["batch", 8, 8, 3]
    assert (info["images"]["mean"], info["images"]["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert info["logits"]["class_names"] == ["cat", "dog", "emu"]
    assert info["model"]["name"] == "mlp"
    assert info["platforms"] == ["cpu", "cuda", "rocm", "tpu"]
    run = json.loads((workdir / "run.json").read_text())
    assert (info["commit"], info["data"]) == (run["commit"], {"name": run["data"]["source"],
                                                              "digest": run["data"]["digest"]})
    loaded = jax_export.deserialize(bytearray(done.path.read_bytes()))
    assert loaded.platforms == export.PLATFORMS
    assert "deserialize" in done.loading
    export.export_run(workdir, done.path, platforms=("cpu",))  # its own file may be replaced


def test_one_line_for_what_cannot_be(make_run, tmp_path, monkeypatch):
    workdir, *_ = make_run("mlp", (8, 8, 1))
    with pytest.raises(UserError, match="--platforms=gpu: choose from cpu, cuda"):
        export.export_run(workdir, tmp_path / "x", platforms=("gpu",))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        export.export_run(workdir, tmp_path / "file" / "x", platforms=("cpu",))
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"would replace .*config\.json"):
        export.export_run(workdir, workdir / "config", platforms=("cpu",))
    assert (workdir / "config.json").read_bytes() == before
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"would replace .*notes, which is no exported network"):
        export.export_run(workdir, tmp_path / "notes", platforms=("cpu",))
    with pytest.raises(UserError, match="set --format=onnx, or another ending"):
        export.export_run(workdir, tmp_path / "net.ONNX", platforms=("cpu",))
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"requirements-onnx\.txt"):
        export.export_run(workdir, tmp_path / "x", "onnx")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings of jax2onnx
@pytest.mark.skipif(not importlib.util.find_spec("jax2onnx"),
                    reason="jax2onnx is not installed; it wants an environment of its own: requirements-onnx.txt")
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "resnet32"])
def test_onnxruntime_gets_the_same_logits(name, make_run, tmp_path):
    import onnxruntime

    shape, options = FAMILIES[name]
    workdir, module, variables = make_run(name, shape, **options)
    done = export.export_run(workdir, tmp_path / f"{name}.onnx", "onnx")
    assert done.largest > 0.01
    tell("ONNX", name, done)
    images = np.random.default_rng(1).normal(size=(5, *shape)).astype(np.float32)
    want = module.apply(variables, images, train=False)
    assert np.std(want, 0).max() > 1e-3
    session = onnxruntime.InferenceSession(done.path)
    for count in (1, 5):
        got, = session.run(["logits"], {"images": images[:count]})
        np.testing.assert_allclose(got, want[:count], rtol=0, atol=1e-4)
