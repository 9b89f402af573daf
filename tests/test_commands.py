"""The commands of README and docs/ run as printed, in a copy of the tree, each for a minute at most (slow).

The data sets are small ones, made up here, so that a training comes to its end or close to it.
"""
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from modern_cnn import models, weights
from tests.data import files
from tests.test_docs import ROOT, SCRIPTS

SECONDS = 60
# What cannot run: other machines (the steps of imagenet.py are for eight GPUs), a network to come, runs that no page
# made, packages that a test need not have, and scores on real images, which test_zoo has.
ELSEWHERE = ("HOST0:", "imagenet.py", "allcnn", "runs/another", "$(echo", "tfds:", "format=onnx",
             "evaluate.py --weights=zoo:", "USER/NAME", "config.loggers=")
PAGES = defaultdict(list)
for command in SCRIPTS:  # a sentence may leave out what a command needs; those of the README are complete
    if (command.whole or command.page == "README.md") and not any(x in " ".join(command.words) for x in ELSEWHERE):
        PAGES[command.page].append(command.words)


def run(words, folder):
    """Run a command for SECONDS; return (its exit status, or 0 if it was still at work, what it printed)."""
    process = subprocess.Popen([sys.executable, *words[1:]], cwd=folder, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=os.environ | {"MODERN_CNN_DATA": str(folder / "data")})
    try:
        out, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # a run saves its step, and later commands of the page find it
        try:
            out, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:  # its step takes longer
            process.kill()
            return 0, process.communicate()[0]
        if process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return 0, out
    return process.returncode, out


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree, and in it what the pages talk of: data sets, a folder DIR, photos, files of weights."""
    tree = tmp_path_factory.mktemp("commands") / "tree"
    for path in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tree / path)
    for name in ("mnist", "fashion_mnist"):
        files.write_idx(tree / "data" / name, train_images=files.pixels(600, 28, 28), test_labels=files.labels(100, 10),
                        test_images=files.pixels(100, 28, 28), train_labels=files.labels(600, 10))
    files.write_cifar10(tree / "data" / "cifar10", per_file=440)
    for name in ("DIR", "cifar10"):
        for split, count in (("train", 220), ("test", 5)):  # the largest batch has 2,000 images
            files.write_images(tree / name / split, [f"class{i}" for i in range(10)], count, size=(40, 32))
    (tree / "photos").mkdir()
    for number, path in enumerate(("cat.jpg", "dog.png", "photos/1.jpg", "photos/2.png")):
        Image.fromarray(files.pixels(40, 50, 3, seed=number)).save(tree / path)
    variables = jax.jit(models.build("resnet18", num_classes=10).init)(jax.random.key(0), np.zeros((1, 64, 64, 3)))
    state = {key: torch.from_numpy(np.array(value)) for key, value in
             weights.to_torchvision("resnet18", variables).items()}
    for path in ("resnet18.pth", "resnet18-f37072fd.pth"):
        torch.save(state, tree / path)
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_as_printed(page, tree):
    """In the order of the page, so that a run is trained before it is evaluated. One that is stopped is no error."""
    shutil.rmtree(tree / "runs", ignore_errors=True)
    imported = "scripts/import_weights.py", "--model=resnet18", "--weights=resnet18.pth", "--workdir=runs/imported"
    failed = []
    for words in [("python", *imported)] * (page == "docs/reuse.md") + PAGES[page]:
        code, out = run(words, tree)
        if code:
            failed.append(f"{' '.join(words)}: {code}\n{out[-2000:]}")
    assert not failed, "\n\n".join(failed)
