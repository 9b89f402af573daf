"""Whitening: the kernel by its definition, and where a run gets it and leaves it alone."""
import dataclasses

import numpy as np

from configs import base
from modern_cnn import models, settings
from modern_cnn.data.sources import Dataset
from modern_cnn.data.spec import Arrays, Spec
from modern_cnn.functional import conv2d
from modern_cnn.training import whiten
from modern_cnn.training.devices import Devices
from modern_cnn.training.program import Program
from modern_cnn.training.stacked import StackedProgram


def smooth(count, side, channels, seed=0):
    """Return images whose neighbouring pixels and channels are alike, of a mean near 0."""
    noise = np.random.default_rng(seed).normal(size=(count, side + 2, side + 2, channels + 1))
    near = sum(np.roll(noise, shift, (1, 2)) for shift in ((0, 0), (0, 1), (1, 0)))[:, 1:-1, 1:-1]
    return near[..., :-1] + near[..., 1:]


def test_outputs_are_uncorrelated_and_of_power_one():
    """More images than one part, and the patches by hand."""
    images = smooth(whiten.PART + 3, 6, 2)
    kernel = whiten.whitening_kernel(images, 2, 0.0)
    assert (kernel.shape, kernel.dtype) == ((2, 2, 2, 16), np.float32)
    out = np.asarray(conv2d(images.astype(np.float32), kernel)).astype(np.float64).reshape(-1, 16)
    moments = out.T @ out / len(out)
    np.testing.assert_allclose(moments, np.kron([[1, -1], [-1, 1]], np.eye(8)), atol=1e-4)
    patches = np.concatenate([images[:, y:y + 5, x:x + 5].reshape(-1, 2) for y in (0, 1) for x in (0, 1)], axis=1)
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))
    assert values[-1] > 10 * values[0]
    softer = whiten.whitening_kernel(images, 2, 0.5)
    norms = np.linalg.norm(softer.reshape(8, 16), axis=0)
    np.testing.assert_allclose(norms, np.tile(1 / np.sqrt(values + 0.5), 2), rtol=1e-4)


def tiny(**fields):
    """Return (settings, data set) of a small run of airbench94."""
    config = base.get_config()
    config.update_from_flattened_dict({"data.batch_size": 4} | fields)
    with config.unlocked():
        config.model = {"name": "airbench94", "width": 0.05, "stage_features": (64,)}
    pixels = np.clip(128 + 40 * smooth(12, 32, 3), 0, 255).astype(np.uint8)
    spec = Spec("s", "o", (32, 32, 3), 3, ("a", "b", "c"), {"train": 8, "test": 4}, (0.5,) * 3, (0.25,) * 3, "d")
    labels = np.arange(12, dtype=np.int32) % 3
    return settings.read(config), Dataset(spec, {"train": Arrays(pixels[:8], labels[:8]),
                                                 "test": Arrays(pixels[8:], labels[8:])})


def kernel_of(state):
    return np.asarray(state.collections["batch_stats"]["whiten"]["kernel"])


def test_a_run_whitens_its_own_training_images_and_keeps_the_kernel():
    config, dataset = tiny(**{"optimizer.weight_decay": 0.1, "optimizer.ema_decay": 0.9})
    wanted = whiten.whitening_kernel((dataset.splits["train"].images / 255 - 0.5) / 0.25, 2)
    program = Program(config, dataset, Devices())
    state, metrics = program.init(), program.empty_metrics()
    np.testing.assert_allclose(kernel_of(state), wanted, rtol=1e-3, atol=1e-3)
    first = kernel_of(state)
    for args in program.batches(0):
        state, metrics, _ = program.step(state, metrics, *args)
    np.testing.assert_array_equal(kernel_of(state), first)
    assert state.ema
    np.testing.assert_allclose(state.ema["batch_stats"]["whiten"]["kernel"], first, rtol=1e-5)
    given = {"batch_stats": {"whiten": {"kernel": np.ones((2, 2, 3, 24), np.float32)}}}
    np.testing.assert_array_equal(kernel_of(program.init(given)), 1)  # those of another run stay
    trials = [config, dataclasses.replace(config, seed=1)]
    for stacked in StackedProgram(trials, dataset).initial_states():
        np.testing.assert_array_equal(kernel_of(stacked), first)


def test_other_networks_start_as_they_did():
    assert whiten.start_from(tiny()[1], models.build("lenet"), None) is None
