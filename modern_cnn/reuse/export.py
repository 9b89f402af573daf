"""A run's network as one file for programs without this package: StableHLO by `jax.export`, or ONNX by jax2onnx."""
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

from modern_cnn.errors import UserError
from modern_cnn.functional import formulations
from modern_cnn.runs import load as evaluation
from modern_cnn.runs import workdir

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
CHECKED = 3  # random images on which the written file is compared with the checkpoint
NO_JAX2ONNX = ("--format=onnx needs jax2onnx, which wants an older Orbax than training does, so an environment of its "
               "own: python3 -m venv .venv-onnx && .venv-onnx/bin/pip install -r requirements-onnx.txt, then the same "
               "command with .venv-onnx/bin/python")
# How a program loads the file; {out} and {shape} are filled in.
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
    """What `export_run` wrote.

    Attributes:
      path, info: the network's file, and the JSON file beside it.
      difference: the largest between its logits and the checkpoint's over CHECKED random images.
      largest: the largest of those logits in size, to compare with.
      loading: Python that loads the file.
    """
    path: Path
    info: Path
    difference: float
    largest: float
    loading: str


def to_stablehlo(function: Callable, variables: Any, image_shape: Sequence[int],
                 platforms: Sequence[str] = PLATFORMS) -> bytes:
    """`function(variables, images)`, images float32 [N, H, W, C] for any N, as what `jax.export.deserialize` takes.

    One program serves all `platforms`, on each in the formulation that is fast there: on CPUs it is the very program
    that evaluation runs there (see functional/formulations.py). It holds the variables once.

    Raises:
      UserError: a platform that JAX does not know.
    """
    from jax import export  # imports flatbuffers

    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise UserError(f"--platforms={','.join(platforms)}: choose of {', '.join(PLATFORMS)}")
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *image_shape), jnp.float32)

    def on(platform: str) -> Callable:
        def formulated(*args):
            with formulations.platform(platform):
                return function(*args)
        return formulated

    program = jax.jit(lambda images: jax.lax.platform_dependent(variables, images, cpu=on("cpu"), default=on("gpu")))
    return bytes(export.export(program, platforms=tuple(platforms))(images).serialize())


def to_onnx(function: Callable, variables: Any, image_shape: Sequence[int], name: str) -> bytes:
    """`function(variables, images)`, images float32 [N, H, W, C] for any N, as ONNX: 'images' in, 'logits' out.

    Raises:
      UserError: jax2onnx is not installed, or knows no ONNX for the network.
    """
    try:
        import jax2onnx
    except ImportError as e:
        raise UserError(f"{NO_JAX2ONNX} ({e})") from e
    with formulations.platform("onnx"):
        try:
            model = jax2onnx.to_onnx(partial(function, variables), [("batch", *image_shape)], model_name=name,
                                     input_names=["images"], output_names=["logits"])
        except Exception as e:  # of a primitive that it does not know, any kind
            raise UserError(f"jax2onnx cannot write {name}: {str(e)[:300] or type(e).__name__}") from e
    return model.SerializeToString()


def _run(format: str, content: bytes, images: np.ndarray) -> np.ndarray:
    """The logits that the written file gives."""
    if format == "stablehlo":
        from jax import export

        return np.asarray(export.deserialize(bytearray(content)).call(images))
    import onnxruntime

    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]


def export_run(directory: str | Path, out: str | Path, format: str = "stablehlo",
               platforms: Sequence[str] = PLATFORMS) -> Exported:
    """Writes a run's result, weights and all, to `out`, and what a program must know of it to `out`.json.

    The network takes images normalised as in training, (pixels / 255 - mean) / std; `out`.json holds mean and std, the
    images' shape, the classes' names and where the weights came from.

    Args:
      directory: the workdir.
      out: a file; its directory is made.
      format: 'stablehlo' or 'onnx'.
      platforms: of StableHLO, of PLATFORMS.
    Raises:
      UserError: no good checkpoint, a file that cannot be written, jax2onnx not installed, or a platform that is none.
    """
    config, run = workdir.read_run(Path(directory))
    module, variables, _, step = evaluation.load_run(directory)
    data, out = run["data"], Path(out)

    def network(variables, images):
        return module.apply(variables, images, train=False).astype(jnp.float32)

    content = (to_stablehlo(network, variables, data["image_shape"], platforms) if format == "stablehlo"
               else to_onnx(network, variables, data["image_shape"], config["model"]["name"]))
    images = np.random.RandomState(0).randn(CHECKED, *data["image_shape"]).astype(np.float32)
    want = np.asarray(jax.jit(network)(variables, images))
    difference = float(abs(_run(format, content, images) - want).max())
    loading = LOADING[format].format(out=out.name, shape=", ".join(map(str, data["image_shape"])))
    info = {
        "format": format, "sha256": hashlib.sha256(content).hexdigest(), "load": loading.splitlines(),
        "images": {"dtype": "float32", "shape": ["batch", *data["image_shape"]], "mean": data["mean"],
                   "std": data["std"], "normalize": "(pixels / 255 - mean) / std, each channel by its own"},
        "logits": {"dtype": "float32", "shape": ["batch", data["num_classes"]], "class_names": data["class_names"]},
        "model": {key: value for key, value in config["model"].items() if value is not None}, "step": step,
        "platforms": list(platforms) if format == "stablehlo" else None, "versions": run["versions"],
    }
    beside = out.with_name(out.name + ".json")
    with workdir.disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
        beside.write_text(json.dumps(info, indent=1) + "\n")
    return Exported(out, beside, difference, float(abs(want).max()), loading)
