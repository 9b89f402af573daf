"""The network of a run in one file for other programs: StableHLO by `jax.export`, or ONNX by jax2onnx."""
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from modern_cnn.errors import UserError
from modern_cnn.functional import formulations
from modern_cnn.reuse import provenance
from modern_cnn.runs.load import load_run
from modern_cnn.runs.workdir import disk_errors
from modern_cnn.training.steps import evaluation_logits

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
CHECKED = 3  # number of random images on which the file is compared with the checkpoint
NO_JAX2ONNX = ("--format=onnx needs jax2onnx, which needs an older Orbax than training, and so its own environment: "
               "python3 -m venv .venv-onnx && .venv-onnx/bin/pip install -r requirements-onnx.txt, then the same "
               "command with .venv-onnx/bin/python")
# Python code that loads the file; {out} and {shape} are filled in.
LOADING = {
    "stablehlo": """from pathlib import Path
import jax.export  # and flatbuffers: pip install jax flatbuffers
network = jax.export.deserialize(Path("{out}").read_bytes())
logits = network.call(images)  # float32 [any number, {shape}]""",
    "onnx": """import onnxruntime
network = onnxruntime.InferenceSession("{out}")
logits, = network.run(None, {{"images": images}})  # float32 [any number, {shape}]""",
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """The files that `export_run` wrote, and their check."""
    path: Path  # of the network
    info: Path  # the JSON file beside it
    difference: float  # the largest between its logits and those of the checkpoint, over CHECKED random images
    largest: float  # absolute value of these logits, for comparison
    loading: str  # Python code that loads the file


def to_stablehlo(function: Callable, variables: Any, image_shape: Sequence[int],
                 platforms: Sequence[str] = PLATFORMS) -> bytes:
    """Return `function(variables, images)` for `jax.export.deserialize`: images float32 [N, H, W, C] for any N.

    One program serves all `platforms`, each with the formulations that are fast there: on CPUs it is the same program
    that evaluation runs (functional/formulations.py). It holds the variables once. UserError: no or unknown platforms.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise UserError(f"--platforms={','.join(platforms)}: choose from {', '.join(PLATFORMS)}")
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *image_shape), jnp.float32)

    def on(platform, *args):
        with formulations.platform(platform):
            return function(*args)

    run = partial(jax.lax.platform_dependent, variables, cpu=partial(on, "cpu"), default=partial(on, "gpu"))
    return bytes(export.export(jax.jit(run), platforms=tuple(platforms))(images).serialize())


def to_onnx(function: Callable, variables: Any, image_shape: Sequence[int], name: str) -> bytes:
    """Return `function(variables, images)` as ONNX, 'images' float32 [N, H, W, C] -> 'logits', or raise UserError."""
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise UserError(f"{NO_JAX2ONNX} ({e})") from e
    with formulations.platform("onnx"):
        try:
            model = jax2onnx.to_onnx(partial(function, variables), [("batch", *image_shape)], model_name=name,
                                     input_names=["images"], output_names=["logits"])
        except Exception as e:  # it raises exceptions of any type for an unknown primitive
            raise UserError(f"jax2onnx cannot write {name}: {str(e)[:300] or type(e).__name__}") from e
    return model.SerializeToString()


def _run(format: str, content: bytes, images: np.ndarray) -> np.ndarray:
    """Return the logits of the exported network."""
    if format == "stablehlo":
        return np.asarray(export.deserialize(bytearray(content)).call(images))
    import onnxruntime  # pyright: ignore[reportMissingImports]

    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]


def export_run(directory: str | Path, out: str | Path, format: str = "stablehlo",
               platforms: Sequence[str] = PLATFORMS) -> Exported:
    """Write the result of a workdir, weights included, to `out` as 'stablehlo' or 'onnx', and a description beside it.

    The network takes images normalised as in training, (pixels / 255 - mean) / std. It averages the logits of the same
    views of an image as evaluation (config.augment.test_flip, test_shift). `out`.json holds mean and std, the shape of
    the images, the names of the classes and the origin of the weights. The StableHLO can run on `platforms`. Raise
    UserError without a good checkpoint, a file that can be written, jax2onnx, or for an unknown platform.
    """
    trained, out = load_run(directory), Path(out)
    beside = out.with_name(out.name + ".json")
    described = beside.exists() and '"sha256"' in beside.read_text(errors="replace")
    for path in (out, beside):
        if path.is_file() and path.stat().st_size and not described:
            raise UserError(f"--out={out} would replace {path}, which is no exported network: choose another name")
    other = "stablehlo" if format == "onnx" else "onnx"
    if out.suffix.lower() == f".{other}":
        raise UserError(f"--out={out} ends like a file of the other format: set --format={other}, or another ending")
    spec, model, section = trained.spec, trained.settings.model, trained.settings.augment

    def network(variables: Any, images: jax.Array) -> jax.Array:
        logits = evaluation_logits(trained.module, variables, images, section.test_flip, section.test_shift)
        return logits.astype(jnp.float32)

    content = (to_stablehlo(network, trained.variables, spec.image_shape, platforms) if format == "stablehlo"
               else to_onnx(network, trained.variables, spec.image_shape, model["name"]))
    images = np.random.RandomState(0).randn(CHECKED, *spec.image_shape).astype(np.float32)
    want = np.asarray(jax.jit(network)(trained.variables, images))
    difference = float(abs(_run(format, content, images) - want).max())
    loading = LOADING[format].format(out=out.name, shape=", ".join(map(str, spec.image_shape)))
    info = {
        "format": format, "sha256": hashlib.sha256(content).hexdigest(), "load": loading.splitlines(),
        "images": {"dtype": "float32", "shape": ["batch", *spec.image_shape], "mean": spec.mean, "std": spec.std,
                   "normalize": "(pixels / 255 - mean) / std, for each channel",
                   "shorter_side": trained.settings.data.resize or None},
        "logits": {"dtype": "float32", "shape": ["batch", spec.num_classes], "class_names": spec.class_names,
                   "mean_with_mirror_image": section.test_flip, "mean_with_shifts": section.test_shift},
        "data": {"name": provenance.data_name(spec.source), "digest": spec.digest},
        "commit": trained.run.get("commit"),
        "model": {key: value for key, value in model.items() if value is not None}, "step": trained.step,
        "platforms": list(platforms) if format == "stablehlo" else None, "versions": trained.run["versions"],
    }
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
        beside.write_text(json.dumps(info, indent=1) + "\n")
    return Exported(out, beside, difference, float(abs(want).max()), loading)
