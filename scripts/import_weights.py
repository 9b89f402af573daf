"""Make a workdir from weights that PyTorch trained. Other scripts read it like the workdir of a trained run.

    python scripts/import_weights.py --model=resnet18 --weights=resnet18-f37072fd.pth --workdir=runs/resnet18
    python scripts/evaluate.py --workdir=runs/resnet18 --source=folder:DIR

The names of the layers are torchvision's, the textbook's for its own networks, or timm's for MobileNet. The file
determines the number of classes and of input channels. The reverse makes a file for PyTorch's load_state_dict from any
run:

    python scripts/import_weights.py --workdir=runs/resnet18 --export=resnet18.safetensors
"""
import hashlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime, settings
from modern_cnn.errors import UserError

MODEL = flags.DEFINE_string("model", None, "The network: resnet18, vgg16_bn, lenet_bn, ...")
WEIGHTS = flags.DEFINE(
    cli.Path(), "weights", None, "A .safetensors file, or one of torch.save if PyTorch is installed: .pth, .pt, .tar, "
    ".bin, .ckpt or .th. A pickle that holds more than tensors is refused, because it could run any program.")
WORKDIR = flags.DEFINE(cli.Path(), "workdir", None, "Directory to write, new; with --export, of a run.", required=True)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 0, "Height and width of the images; 0: as the network was published.",
                                  lower_bound=0, upper_bound=settings.LARGEST_IMAGE)
RESIZE = flags.DEFINE_integer("resize", 0, "Scale the shorter side of images to this many pixels and cut the centre "
                              "out: 256, as torchvision evaluates; 0: --image_size.", lower_bound=0,
                              upper_bound=settings.LARGEST_IMAGE)
NORMALIZE = flags.DEFINE_enum(
    "normalize", None, ["unit", "symmetric", "imagenet"], "The pixels that the weights expect: 'unit' [0, 1], "
    "'symmetric' [-1, 1], 'imagenet' normalised by ImageNet's mean and deviation. The default is imagenet "
    "for torchvision's networks, symmetric for googlenet and mobilenet_v1 (timm's), and unit for other networks and "
    "for images without 3 channels.")
SOURCE = flags.DEFINE_string("source", "", "The data that evaluate.py scores on by default, e.g. folder:DIR.")
CLASSES = flags.DEFINE(cli.Path(), "classes", None, "A text file with the name of a class a line; by default numbers.")
OPTION = flags.DEFINE_multi_string("option", [], "An option of the network, e.g. --option=width=0.25; may be repeated.")
EXPORT = flags.DEFINE(cli.Path(), "export", None, "Write the result of --workdir to this .safetensors file instead.")


def import_weights(workdir: str, model: str, path: str) -> None:
    """Write a workdir for a file of weights."""
    from configs import base
    from modern_cnn.data import sources
    from modern_cnn.runs import imported
    from modern_cnn.weights import convert, files

    options = cli.network_options(OPTION.value)
    config: Any = base.get_config()
    config.model.update(options, name=model)
    config.data.update(source=SOURCE.value, image_size=IMAGE_SIZE.value, batch_size=32)  # fits a laptop's memory
    settings.read(config)
    if SOURCE.value:
        sources.resolve(SOURCE.value)
    state = convert.own_names(model, files.read_state_dict(path), **options)
    module, image_shape = convert.matching_network(model, state, image_size=IMAGE_SIZE.value, **options)
    variables = convert.from_torchvision(model, state, image_size=IMAGE_SIZE.value, **options)
    if hasattr(module, "aux_logits"):
        config.model.aux_logits = module.aux_logits
    config.data.update(image_size=image_shape[0], resize=RESIZE.value)
    config.data.normalize = NORMALIZE.value or convert.expected_normalize(model, image_shape[2])
    classes = imported.read_class_names(CLASSES.value) if CLASSES.value else []
    origin = {"file": Path(path).name, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
    imported.write_run(workdir, settings.read(config), module, variables, image_shape, classes, origin)


def export_weights(workdir: str, path: str) -> None:
    """Write the weights of a run to a file with PyTorch's names."""
    from modern_cnn.runs.load import load_run
    from modern_cnn.weights import convert, files

    run = load_run(workdir)
    state = convert.to_torchvision(**run.settings.model, variables=run.variables, image_size=run.spec.image_shape[:2])
    files.write_state_dict(path, state)
    print(f"{len(state)} tensors: {path}")


def main() -> None:
    runtime.configure()
    exporting = EXPORT.value is not None
    if exporting and (MODEL.value or WEIGHTS.value):
        raise UserError("--export writes the weights of --workdir: leave out --model and --weights")
    given = {flag.name: flag.value for flag in ([WORKDIR, EXPORT] if exporting else [WORKDIR, MODEL, WEIGHTS])}
    if missing := [name for name, value in given.items() if value is None]:
        raise UserError(f"--{missing[0]} is missing (--help lists the flags)")
    (export_weights if exporting else import_weights)(*given.values())


if __name__ == "__main__":
    cli.run(main)
