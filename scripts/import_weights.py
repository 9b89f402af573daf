"""Makes a workdir of weights that PyTorch trained, which every other script reads like that of a trained run.

    python scripts/import_weights.py --model=resnet18 --weights=resnet18-f37072fd.pth --workdir=runs/resnet18
    python scripts/evaluate.py --workdir=runs/resnet18 --source=folder:DIR

Names of layers are torchvision's, or the textbook's for its own networks. The number of classes and of input channels
are taken from the file. And back, from any run to a file for PyTorch's load_state_dict:

    python scripts/import_weights.py --workdir=runs/resnet18 --export=resnet18.safetensors
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

MODEL = flags.DEFINE_string("model", None, "The network: resnet18, vgg16_bn, lenet_bn, ...")
WEIGHTS = flags.DEFINE_string(
    "weights", None, "A .safetensors file, or .pth or .pt if PyTorch is installed. Nothing in it is run: a pickle that "
    "holds more than tensors is refused.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory to write, new or empty; with --export, the run to read.")
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "Height and width of the images; 0: what the network was published for, 224 for most.")
NORMALIZE = flags.DEFINE_enum(
    "normalize", None, ["unit", "symmetric", "imagenet"], "What the weights expect of pixels: 'unit' [0, 1], "
    "'symmetric' [-1, 1], 'imagenet' ImageNet's mean and deviation. By default as torchvision's published weights: "
    "imagenet, for googlenet symmetric; unit for networks that torchvision has not, or not with these channels.")
SOURCE = flags.DEFINE_string("source", "", "The data that evaluate.py is to score on by default, e.g. folder:DIR.")
CLASSES = flags.DEFINE_string("classes", None, "A text file with the name of a class on each line; else the numbers.")
OPTION = flags.DEFINE_multi_string("option", [], "An option of the network, e.g. --option=width=0.25; may be repeated.")
EXPORT = flags.DEFINE_string("export", None, "Write the result of --workdir to this .safetensors file instead.")


def class_names() -> list[str]:
    try:
        return Path(CLASSES.value).read_text().strip().splitlines() if CLASSES.value else []
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot read the names of classes: {e}") from e


def import_weights():
    from configs import base
    from modern_cnn import settings, weights
    from modern_cnn.data import sources
    from modern_cnn.runs import imported
    from modern_cnn.weights import files

    options = cli.network_options(OPTION.value)
    config = base.get_config()
    config.model.update(options, name=MODEL.value)
    config.data.update(source=SOURCE.value, image_size=IMAGE_SIZE.value, batch_size=32)  # fits a laptop's memory
    settings.check(config)
    if SOURCE.value:
        sources.resolve(SOURCE.value)
    state = files.read_state_dict(WEIGHTS.value)
    module, image_shape = weights.network_of(MODEL.value, state, image_size=IMAGE_SIZE.value, **options)
    variables = weights.from_torchvision(MODEL.value, state, image_size=IMAGE_SIZE.value, **options)
    if hasattr(module, "aux_logits"):
        config.model.aux_logits = module.aux_logits
    config.data.image_size = image_shape[0]
    config.data.normalize = NORMALIZE.value or weights.normalize_of(MODEL.value, image_shape[2])
    origin = {"file": Path(WEIGHTS.value).name, "sha256": files.sha256(WEIGHTS.value)}
    imported.write_run(WORKDIR.value, config, module, variables, image_shape, class_names(), origin)


def export_weights():
    from modern_cnn import weights
    from modern_cnn.runs import load as evaluation
    from modern_cnn.runs import workdir
    from modern_cnn.weights import files

    config, run = workdir.read_run(Path(WORKDIR.value))
    _, variables, *_ = evaluation.load_run(WORKDIR.value)
    state = weights.to_torchvision(**config["model"], variables=variables, image_size=run["data"]["image_shape"][0])
    files.write_state_dict(EXPORT.value, state)
    print(f"{len(state)} tensors: {EXPORT.value}")


def main():
    runtime.configure()
    if EXPORT.value is not None and (MODEL.value or WEIGHTS.value):
        raise UserError("--export is of the weights in --workdir: leave out --model and --weights")
    for flag in ("workdir", "export") if EXPORT.value is not None else ("workdir", "model", "weights"):
        if not flags.FLAGS[flag].value:
            raise UserError(f"--{flag} is missing or empty (--help lists the flags)")
    (import_weights if EXPORT.value is None else export_weights)()


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    cli.run(main)
