"""scripts/visualize.py on a small run: every picture, and the inputs that it refuses."""
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from modern_cnn.data import augment
from modern_cnn.data.spec import normalization
from modern_cnn.errors import UserError
from modern_cnn.runs.load import examples, load_data
from tests.test_cli import ROOT, refused


@pytest.fixture(scope="module")
def run(server, tmp_path_factory):
    """Return a workdir of two steps of the ReLU LeNet with batch normalisation."""
    from configs import base
    from modern_cnn.runs import loop

    config = base.get_config()
    config.model.name = "lenet_relu_bn"
    config.data.source = "digits"
    config.data.image_size = 20
    config.max_steps = 2
    config.log_every_steps = 1
    config.log_norms = True
    config.augment.crop = 3
    workdir = tmp_path_factory.mktemp("inside") / "run"
    loop.train_and_evaluate(config, workdir)
    return workdir


PICTURES = {"deconv": ["--layer=stage1", "--units=1,0"]}
MORE = {"augment": [], "filters": [], "batch_norm": [], "gradients": [], "features": [], "saliency": ["--count=2"],
        "gradcam": ["--layer=stage1", "--images=5,7"], "occlusion": ["--count=2"], "surface": ["--split=train"]}


def draws(script, run, pictures):
    for what, flags in pictures.items():
        result = script("visualize.py", f"--what={what}", f"--workdir={run}", *flags)
        assert result.code == 0, result.err
        assert result.out.splitlines()[-1] == str(run / f"{what}.png")
        with Image.open(run / f"{what}.png") as picture:
            assert min(picture.size) > 150


def test_pictures_of_a_run(script, run):
    draws(script, run, PICTURES)


@pytest.mark.slow
def test_every_other_picture_of_a_run(script, run):
    draws(script, run, MORE)


def test_refusals(script, run, tmp_path):
    refused(script("visualize.py", f"--workdir={run}"), 2, "--what")
    refused(script("visualize.py", "--what=filters"), 1, "--workdir is missing")
    refused(script("visualize.py", "--what=filters", "--workdir=nowhere"), 1, "nowhere is not a run's workdir")
    refused(script("visualize.py", "--what=deconv", f"--workdir={run}", "--layer=stage9"), 1, "no layer 'stage9'",
            "did you mean 'stage")
    refused(script("visualize.py", "--what=deconv", f"--workdir={run}", "--units=999"), 1, "no unit 999", "units 0 to")
    refused(script("visualize.py", "--what=saliency", f"--workdir={run}", "--images=5,x"), 2, "--images=5,x")
    refused(script("visualize.py", "--what=saliency", f"--workdir={run}", "--images=400"), 1, "no image 400",
            "0 to 359")
    refused(script("visualize.py", "--what=augment", f"--config={ROOT}/configs/lenet.py", f"--workdir={run}"), 1,
            "either --config or --workdir")
    refused(script("visualize.py", "--what=filters", f"--workdir={run}", "--layer=stage1"), 1,
            "--layer has no meaning for --what=filters")
    refused(script("visualize.py", "--what=augment", f"--workdir={run}", "--split=test"), 1, "--split has no meaning")
    assert not any(tmp_path.iterdir())


def test_the_initial_weights_are_those_with_which_the_run_began(run, tmp_path):
    """Drawn, of another run, or with the whitening kernel of the images; a rate of 1e-20 leaves all but rounding."""
    from configs import base
    from modern_cnn.inspection.views import TrainedNetwork
    from modern_cnn.runs import load, loop

    for name in ("lenet_relu_bn", "airbench94"):
        config = base.get_config()
        config.update(max_steps=1)
        config.data.update(source="digits", image_size=20 if name == "lenet_relu_bn" else 25, batch_size=16)
        config.model.name, config.optimizer.learning_rate = name, 1e-20
        if name == "airbench94":
            config.model.width = 0.05
        for start in ("", str(run)) if name == "lenet_relu_bn" else ("",):
            config.finetune.workdir = start
            workdir = tmp_path / f"{name}{len(start)}"
            loop.train_and_evaluate(config, workdir)
            network = TrainedNetwork(workdir)
            begun, ended = load.initial_variables(network.run, network.data), network.run.variables
            jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), begun["params"], ended["params"])
            if name == "airbench94":
                np.testing.assert_array_equal(begun["batch_stats"]["whiten"]["kernel"],
                                              ended["batch_stats"]["whiten"]["kernel"])


def test_mixed_images_are_drawn(run, tmp_path, monkeypatch):
    from modern_cnn.inspection import views
    from modern_cnn.settings import Augment, Data, Settings

    drawn = []
    monkeypatch.setattr(views.pictures, "augmented", lambda pixels, names, draws, *rest: drawn.append((pixels, draws)))
    for section, changes in ((Augment(), False), (Augment(mixup=1.0), True), (Augment(cutmix=1.0), True)):
        settings = Settings(data=Data("digits", image_size=20), augment=section, model={"name": "mlp"})
        views.draw_augment(settings, tmp_path / "a.png", count=2)
        pixels, draws = drawn.pop()
        assert (not np.array_equal(draws, np.stack([pixels] * 8))) == changes


def test_the_result_is_one_of_the_steps_and_the_square_has_the_mean_colour(run, tmp_path, monkeypatch):
    from modern_cnn.inspection import views

    for steps in (views.RANDOM_STEPS, views.LINE_STEPS):
        assert abs(steps).min() < 1e-9
    network, filled = views.TrainedNetwork(run), []
    monkeypatch.setattr(views.features, "occlusion", lambda *args, fill, **rest: filled.append(fill) or np.zeros(
        (2, 5, 5)))
    views.draw_occlusion(network, tmp_path / "a.png", count=2)
    np.testing.assert_allclose(filled[0], network.choose((), 2)[1].mean((0, 1, 2)))
    assert 0.1 < filled[0][0] < 0.9  # of pixels in [0, 1]: no black


def test_examples_are_the_splits_own_images(run):
    data = load_data(run, "test")
    images, labels = examples(data, "test", np.array([7, 0, 359]))
    own = data.splits["test"]
    np.testing.assert_array_equal(labels, own[1][[7, 0, 359]])
    np.testing.assert_array_equal(images, augment.enlarge(own[0][[7, 0, 359]], 20))
    assert data.spec.mean == normalization("unit", own[0])[0]
    with pytest.raises(UserError, match=r"no image 360: .* test split have the numbers 0 to 359"):
        examples(data, "test", np.array([360]))
