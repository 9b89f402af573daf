"""Write zoo.npz: sixteen test images of each data set of the zoo, and the logits of every network for them.

    python -m tests.golden.zoo Fashion-MNIST=fashion_mnist CIFAR-10=cifar:DIR

Of sets that are named the images are chosen again, and logits of other processors are dropped; of the others, logits
of this processor are added. The programs are compiled as those of the tests are.
"""
import os
import sys
from pathlib import Path

import jax
import numpy as np

from modern_cnn import runtime

PATH = Path(__file__).with_suffix(".npz")


def images_of(name):
    """The name of the stored images that a network of the zoo takes: 'Fashion-MNIST 28x28x1'."""
    from modern_cnn import zoo

    card = zoo.card(name)
    return f"{card['data'].split(' as ')[0]} {'x'.join(map(str, card['run']['data']['image_shape']))}"


def logits(name, images):
    """The logits float32 [N, classes] of a network of the zoo for images uint8 [N, H, W, C]."""
    from modern_cnn.runs.load import load_run

    run = load_run(f"zoo:{name}")
    normalised = (images.astype(np.float32) / 255 - np.float32(run.spec.mean)) / np.float32(run.spec.std)
    return np.asarray(jax.jit(lambda variables, x: run.module.apply(variables, x, train=False))(
        run.variables, normalised))


def compiler():
    """What the bits of a sum depend on: cores, processor, the version of jax, and its flags.

    AMD's processors of the families 25 and 26 with AVX-512 give the same bits, and one of Intel's gave others.
    """
    info = runtime.cpu_info()
    vendor = info.get("vendor_id", "")
    model = f" {info['model']}" if vendor == "GenuineIntel" else ""
    return (f"{runtime.cores()} of {vendor}{model}, {runtime.cpu_vectors()}, jax {jax.__version__}, "
            f"{os.environ['XLA_FLAGS']}")


def main(*sets):
    from modern_cnn import zoo
    from modern_cnn.runs import load
    from tests import conftest  # noqa: F401 - it sets XLA_FLAGS

    found = dict(np.load(PATH)) if PATH.exists() else {}
    sources = dict(each.split("=", 1) for each in sets)
    for name in zoo.names():
        data = images_of(name).split()[0]
        if data in sources:
            source = {"source": sources[data]} if sources[data] else None
            dataset = load.load_data(f"zoo:{name}", "test", source)
            found[images_of(name)], _ = load.examples(
                dataset, "test", np.linspace(0, dataset.spec.sizes["test"] - 1, 16).astype(int))
            found = {key: value for key, value in found.items() if not key.startswith(f"{name}: ")}
        found[f"{name}: {compiler()}"] = logits(name, found[images_of(name)])
    np.savez_compressed(PATH, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
