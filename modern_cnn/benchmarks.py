"""Training against the clock: ours and others' in turn, in one process, on the same numbers. Steps, or whole epochs.

A network's peers are the same network in PyTorch (the twin that the tests hold equal to ours; it needs a checkout and
requirements-dev.txt), eager or compiled, both with images channels-last as is fastest there; and 'library', ours with
XLA's own operation for every layer, which is what stock Flax computes.
"""
import dataclasses
import importlib.metadata
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modern_cnn import models
from modern_cnn.analysis import operations
from modern_cnn.data import formats, sources, stream
from modern_cnn.errors import UserError, lookup
from modern_cnn.functional import formulations
from modern_cnn.training import logs, steps, workdir
from modern_cnn.training.mesh import Devices
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)

# name -> (images in a batch, image shape, options): sizes that a machine without an accelerator does in a second.
SIZES = {
    "lenet": (256, (28, 28, 1), {}),
    "alexnet_d2l": (32, (224, 224, 1), {}),
    "vgg13_cifar": (64, (32, 32, 3), {}),
    "nin_d2l": (32, (224, 224, 1), {}),
    "googlenet_d2l": (64, (96, 96, 1), {}),
    "resnet18_cifar": (64, (32, 32, 3), {}),
    "densenet_d2l": (64, (96, 96, 1), {}),
}
RATE, MOMENTUM = 0.01, 0.9
TURN_SECONDS = 1.0  # the first steps after another program are slower
PAUSE_SECONDS = 0.05  # before each turn: the threads of the one before still spin for a while, waiting for work
Step = Callable[[], float]  # takes one training step to its end and returns the loss


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the batch it is timed on."""
    name: str
    batch_size: int
    image_shape: tuple[int, int, int]
    options: dict
    dtype: str

    @classmethod
    def of(cls, name: str, batch_size: int = 0, dtype: str = "float32") -> "Case":
        """The case of SIZES, or of the size that the network was published for, batch 64."""
        lookup(models.MODELS, name, "network")
        size, shape, options = SIZES.get(name, (64, models.INPUTS[name][0], {}))
        return cls(name, batch_size or size, shape, options, dtype)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 NHWC and labels, the same for everybody."""
        random = np.random.default_rng(0)
        return (random.standard_normal((self.batch_size, *self.image_shape)).astype(np.float32),
                random.integers(0, 10, self.batch_size))


def ours(case: Case) -> tuple[Step, float]:
    """(step, seconds it took to trace and compile)."""
    step, seconds, _ = compile_step(case)
    return step, seconds


def compile_step(case: Case) -> tuple[Step, float, jax.stages.Compiled]:
    """As `ours`, with the compiled program."""
    images, labels = map(jnp.asarray, case.batch())
    module = models.build(case.name, 10, **case.options, **({} if case.dtype == "float32" else {"dtype": case.dtype}))
    key, optimizer = jax.random.key(0), optax.sgd(RATE, MOMENTUM)
    # Everything goes in as an argument: XLA folds what is closed over, and the clock lies.
    state = jax.jit(lambda: TrainState.create(key, module, optimizer, case.image_shape))()
    batch = {"image": images, "label": labels}
    start = time.perf_counter()
    compiled = jax.jit(steps.train_step, donate_argnums=0).lower(state, batch, key).compile()
    seconds = time.perf_counter() - start

    def step():
        nonlocal state
        state, metrics = compiled(state, batch, key)
        jax.block_until_ready(state)
        return float(metrics.loss) / case.batch_size

    return step, seconds, compiled


def library(case: Case) -> tuple[Step, float]:
    """As `ours`, every layer by XLA's own operation."""
    with formulations.platform("gpu"):
        return ours(case)


def torch_eager(case: Case, compiled: bool = False) -> tuple[Step, float]:
    """PyTorch's step, on a GPU if it finds one; under bfloat16 with autocast, whose parameters stay float32 too."""
    try:
        import torch

        from tests.models.torch_nets import torch_net
    except ImportError as e:
        raise UserError(f"the peer needs PyTorch (requirements-dev.txt) and a checkout with tests/: {e}") from e
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = case.batch()
    net = torch_net(case.name, 10, case.image_shape[2], **case.options)
    net = net.to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)
    x = torch.tensor(images.transpose(0, 3, 1, 2)).to(device, memory_format=torch.channels_last)
    y = torch.tensor(labels, device=device)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            outputs = forward(x)
            first, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            cross_entropy = torch.nn.functional.cross_entropy
            loss = cross_entropy(first, y) + steps.AUX_WEIGHT * sum(cross_entropy(each, y) for each in auxiliary)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU

    start = time.perf_counter()
    step()
    return step, time.perf_counter() - start


def torch_compiled(case: Case) -> tuple[Step, float]:
    """As `torch_eager`, through torch.compile; the seconds are of the first step."""
    return torch_eager(case, compiled=True)


PEERS = {"torch": torch_eager, "torch_compile": torch_compiled, "library": library}


def our_epoch(config) -> tuple[Step, float]:
    """(an epoch of training, then the test split: what scripts/train.py does for a config; seconds to get ready)."""
    from modern_cnn.training import loop

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        run = loop.Run(config, Path(directory))
        run.checkpoints.close()
        run.log.close()
    run.log = logs.RunLog(None, 0, run.plan.total_steps, run.plan.batch_size)  # no records: the peer writes none

    def epoch():
        run.plan = dataclasses.replace(run.plan, total_steps=run.step + run.plan.steps_per_epoch)
        run.train_epoch(lambda step: 0, profile=False)
        return run.score("test")["loss"]

    return epoch, time.perf_counter() - start


class Images:
    """A split as a PyTorch program has it, image by image: torchvision's FashionMNIST (of colour images its CIFAR10)
    with ToTensor, which go by way of PIL to a float tensor [C, H, W], and the label."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, image_size: int):
        import torch

        grey = images.shape[3] == 1  # there the images are tensors and so are the labels, else arrays and a list
        self.images = torch.tensor(images[..., 0]) if grey else images
        self.labels = torch.tensor(labels) if grey else labels.tolist()
        self.image_size = image_size

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        import torch
        from PIL import Image

        pixels, label = self.images[index], int(self.labels[index])
        image = Image.fromarray(np.asarray(pixels))
        image = np.array(formats.resize(image, self.image_size), copy=True)
        tensor = torch.from_numpy(image.reshape(*image.shape[:2], -1)).permute(2, 0, 1).contiguous()
        return tensor.float().div(255), label


def torch_epoch(config, workers: int, channels_last: bool = False) -> tuple[Step, float]:
    """The usual loop of a PyTorch program: a Dataset of PIL images made tensors one by one, in a DataLoader.

    Usual is also PyTorch's own order of dimensions, channels first; on CPUs the other is faster.
    """
    try:
        import torch

        from tests.models.torch_nets import torch_net
    except ImportError as e:
        raise UserError(f"the peer needs PyTorch (requirements-dev.txt) and a checkout with tests/: {e}") from e
    start = time.perf_counter()
    dataset = sources.load(config.data)

    # Workers by spawn, and kept: a fork of a process in which JAX has threads may hang.
    options = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loaders = {split: torch.utils.data.DataLoader(
        Images(*map(np.asarray, dataset.splits[split]), config.data.image_size), config.data.batch_size,
        shuffle=split == "train", drop_last=split == "train", num_workers=workers, **options)
        for split in ("train", "test")}
    net = torch_net(config.model.name, dataset.spec.num_classes, dataset.spec.image_shape[2])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), config.optimizer.learning_rate)
    cross_entropy = torch.nn.functional.cross_entropy

    def score(logits, y):
        """(loss, sum of the losses, how many are right): all is counted that we count."""
        loss = cross_entropy(logits, y)
        return loss, loss.item() * len(y), int((logits.argmax(1) == y).sum())

    def epoch():
        net.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            loss, *_ = score(net(x.contiguous(memory_format=layout)), y)
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            losses = [score(net(x), y)[1] for x, y in loaders["test"]]
        return sum(losses) / len(loaders["test"].dataset)

    return epoch, time.perf_counter() - start


class ImageFolder:
    """Image files as torchvision's ImageFolder gives them by PIL, RandomResizedCrop and ToTensor, with their label."""

    def __init__(self, files: stream.Files, image_size: int, smallest_crop: float):
        self.files, self.image_size, self.smallest_crop = files, image_size, smallest_crop

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        import torch
        from PIL import Image

        path, label, _ = self.files[index]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        image = image.crop(stream.crop_box(np.random, *image.size, self.smallest_crop))
        image = np.array(image.resize((self.image_size,) * 2, Image.Resampling.BILINEAR), copy=True)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous().float().div(255), label


def our_loading(config, dataset: sources.Dataset) -> Step:
    """An epoch of a streamed set's batches, on the device."""
    feed = dataset.feed(Devices(**config.parallel), config.augment.resized_crop)

    def epoch():
        for (batch,) in feed.train(config.seed, 0, 0, config.data.batch_size):
            jax.block_until_ready(batch)

    return epoch


def torch_loading(config, dataset: sources.Dataset, workers: int) -> Step:
    """The same by DataLoader."""
    import torch

    options = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loader = torch.utils.data.DataLoader(
        ImageFolder(dataset.splits["train"], config.data.image_size, config.augment.resized_crop),
        config.data.batch_size, shuffle=True, drop_last=True, num_workers=workers, **options)
    return lambda: [None for _ in loader]


def tf_loading(config, dataset: sources.Dataset) -> Step:
    """The same by tf.data, which decodes no more of a file than the crop; antialiased as the others are."""
    import tensorflow as tf

    files, size = dataset.splits["train"], config.data.image_size

    def load(path, label):
        content = tf.io.read_file(path)
        box, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(content), tf.zeros([0, 0, 4]), aspect_ratio_range=stream.RATIOS,
            area_range=(config.augment.resized_crop, 1.0), max_attempts=stream.TRIES, min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True)
        image = tf.io.decode_and_crop_jpeg(content, tf.concat([box[:2], shape[:2]], 0), channels=3)
        return tf.cast(tf.round(tf.image.resize(image, (size, size), antialias=True)), tf.uint8), label

    batches = (tf.data.Dataset.from_tensor_slices(([str(path) for path in files.paths], files.labels))
               .shuffle(len(files)).map(load, tf.data.AUTOTUNE, deterministic=True)
               .batch(config.data.batch_size, drop_remainder=True).prefetch(stream.AHEAD))
    return lambda: [None for _ in batches.as_numpy_iterator()]


def compare_loading(config, peers: Sequence[str], rounds: int) -> list[dict]:
    """As `compare_epochs`, of a streamed folder's batches alone, without training.

    Raises:
      UserError: the config does not stream random crops of a folder.
    """
    if not (config.data.stream and config.augment.resized_crop and config.data.source.startswith("folder:")):
        raise UserError("--loading times random crops of a streamed folder: add --config.data.source=folder:DIR "
                        "--config.data.stream=true --config.data.image_size=224 --config.augment.resized_crop=0.08")
    dataset = sources.load(config.data)
    runners = {"ours": our_loading(config, dataset)}
    if "torch" in peers:
        runners |= {f"torch, {workers} workers": torch_loading(config, dataset, workers)
                    for workers in (0, os.cpu_count())}
    if "tf.data" in peers:
        runners["tf.data"] = tf_loading(config, dataset)
    size = dataset.spec.sizes["train"]
    return [{"phase": "loading", "model": "none", "batch_size": config.data.batch_size,
             "image_shape": list(dataset.spec.image_shape), "dtype": "uint8", **numbers, "ready_s": 0.0,
             "images_per_second": size // config.data.batch_size * config.data.batch_size / numbers["median_ms"] * 1e3}
            for numbers in summarize(in_turn(runners, rounds, 1))]


def compare(case: Case, peers: Sequence[str], rounds: int) -> list[dict]:
    """One record for ours and each peer: the step's median, minimum and maximum in milliseconds, and what it means.

    Args:
      peers: keys of PEERS.
      rounds: turns of each, after two that do not count; in each TURN_SECONDS' worth of steps, and at least one.
    Raises:
      UserError: an unknown peer, or one whose packages are not there.
    """
    runners = {"ours": ours(case)} | {peer: lookup(PEERS, peer, "peer")(case) for peer in peers}
    times = in_turn({who: step for who, (step, _) in runners.items()}, rounds, 2)
    return [{"phase": "step", "model": case.name, "batch_size": case.batch_size,
             "image_shape": list(case.image_shape), "dtype": case.dtype, **numbers,
             "images_per_second": case.batch_size / numbers["median_ms"] * 1e3, "ready_s": runners[numbers["who"]][1]}
            for numbers in summarize(times)]


def report_operations(names: Sequence[str], batch_size: int, dtype: str, rounds: int, top: int = 5) -> None:
    """For each network where the time of its step goes, ours and PyTorch's, and our longest operations.

    Means over `rounds` steps, after three that do not count.
    """
    for case in [Case.of(name, batch_size, dtype) for name in names or SIZES]:
        step, _, compiled = compile_step(case)
        peer, _ = torch_eager(case)
        for _ in range(3):
            step(), peer()
        found = operations.of_xla(compiled, step, rounds)
        kinds, theirs = operations.by_kind(found), operations.of_torch(peer, rounds)
        log.info("\n%s, batch %d, %s\n", case.name, case.batch_size, "x".join(map(str, case.image_shape)))
        log.info("| | ours, ms | PyTorch, ms |\n|---|---|---|")
        for kind in [*operations.KINDS, operations.OTHER]:
            log.info("| %s | %.1f | %.1f |", kind, kinds[kind], theirs[kind])
        log.info("| **sum** | **%.1f** | **%.1f** |\n", kinds.total(), theirs.total())
        log.info("| ms | GFLOP/s | result | operation |\n|---|---|---|---|")
        for each in found[:top]:
            log.info("| %.1f | %s | `%s` | `%s` |", each.ms, f"{each.gflops:.0f}" if each.gflops else "", each.shape,
                     each.name)


def compare_epochs(config, peers: Sequence[str], rounds: int) -> list[dict]:
    """As `compare`, of epochs with their data and the scoring of the test split; the first, with compilation, is left
    out. Of the peers only 'torch': without workers and with one a core, and without workers channels-last.
    """
    runners = {"ours": our_epoch(config)}
    if "torch" in peers:
        runners |= {f"torch, {workers} workers": torch_epoch(config, workers) for workers in (0, os.cpu_count())}
        runners["torch, channels-last"] = torch_epoch(config, 0, channels_last=True)
    times = in_turn({who: epoch for who, (epoch, _) in runners.items()}, rounds, 1)
    spec = sources.load(config.data).spec
    return [{"phase": "epoch", "model": config.model.name, "batch_size": config.data.batch_size,
             "image_shape": list(spec.image_shape), "dtype": "float32", **numbers,
             "images_per_second": spec.sizes["train"] / numbers["median_ms"] * 1e3,
             "ready_s": runners[numbers["who"]][1]} for numbers in summarize(times)]


def in_turn(runners: dict[str, Step], rounds: int, unmeasured: int) -> dict[str, list[float]]:
    """{who: milliseconds of one run in each turn}, without the first `unmeasured` turns."""
    times: dict[str, list[float]] = {who: [] for who in runners}
    for turn in range(rounds + unmeasured):
        for who, run in runners.items():
            count = max(1, round(TURN_SECONDS * 1e3 / times[who][-1])) if turn else 1
            time.sleep(PAUSE_SECONDS)
            start = time.perf_counter()
            for _ in range(count):
                run()
            times[who].append((time.perf_counter() - start) * 1e3 / count)
    return {who: taken[unmeasured:] for who, taken in times.items()}


def summarize(times: dict[str, list[float]]) -> list[dict]:
    """Of each: median, minimum and maximum, and how many times as fast as this one ours is (the median over turns)."""
    return [{"who": who, "median_ms": statistics.median(taken), "min_ms": min(taken), "max_ms": max(taken),
             "ours_is_faster": statistics.median(other / own for other, own in zip(taken, times["ours"], strict=True)),
             "rounds": len(taken)} for who, taken in times.items()]


def report(names: Sequence[str], peers: Sequence[str], batch_size: int, dtype: str, rounds: int, out: str,
           config=None, loading: bool = False) -> None:
    """Compares networks one after the other, each as a line of a table as soon as it is measured; `out` gets JSON.

    Args:
      config: of a run, whose epochs are timed then instead of steps; the other numbers are the config's own.
      loading: of those epochs, the loading of images alone.
    Raises:
      UserError: an unknown network or peer, or an `out` that cannot be written.
    """
    cases = [] if config else [Case.of(name, batch_size, dtype) for name in names or SIZES]
    known = {"torch", "tf.data"} if loading else {"torch"} if config else PEERS
    for peer in peers:
        lookup(dict.fromkeys(known), peer, "peer")
    if out and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {Path(out).parent}")
    log.info("%s", workdir.describe_machine()["machine"] + f", {jax.devices()[0].device_kind}; {dtype}; "
             f"{rounds} turns of each; ms: median (fastest to slowest)")
    log.info(ROW, "network", "batch, image", "who", "ms an epoch" if config else "ms a step", "images/s", "ready after",
             "ours is")
    records = []
    of_config = compare_loading if loading else compare_epochs
    for measure in [partial(of_config, config)] if config else [partial(compare, case) for case in cases]:
        for record in measure(peers, rounds):
            records.append(record)
            size = f"{record['batch_size']}, {'x'.join(map(str, record['image_shape']))}"
            spread = f"{record['median_ms']:,.1f} ({record['min_ms']:,.1f} to {record['max_ms']:,.1f})"
            log.info(ROW, record["model"], size, record["who"], spread, f"{record['images_per_second']:,.0f}",
                     f"{record['ready_s']:.1f} s", f"{record['ours_is_faster']:.2f}x")
        if out:
            machine = workdir.describe_machine()
            if "torch" in sys.modules:
                machine["versions"]["torch"] = importlib.metadata.version("torch")
            with workdir.disk_errors(Path(out)):
                workdir.write_json(Path(out), {**machine, "results": records})


def report_startup(arguments: Sequence[str], rounds: int, out: str) -> None:
    """From the command of a run to the record of its first step, with empty caches and then with what that one left.

    Args:
      arguments: --config=... and its overrides.
      rounds: how often both.
      out: file for a JSON of it all, or ''.
    Raises:
      UserError: a run ends before its first step; its last line is told.
    """
    seconds: dict[str, list[float]] = {"empty": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            for caches, taken in seconds.items():
                taken.append(_first_step([*arguments, f"--workdir={place}/{caches}"], Path(place)))
    for caches, taken in seconds.items():
        log.info("first step %.1f s after the command with %s caches (%.1f to %.1f, median of %d)",
                 statistics.median(taken), caches, min(taken), max(taken), rounds)
    if out:
        with workdir.disk_errors(Path(out)):
            workdir.write_json(Path(out), {**workdir.describe_machine(), "first_step_s": seconds})


def _first_step(arguments: Sequence[str], place: Path) -> float:
    """Seconds until a run has recorded a step; it is stopped then."""
    metrics = Path(arguments[-1].partition("=")[2]) / "metrics.jsonl"
    command = [sys.executable, TRAIN, *arguments, "--config.log_every_steps=1"]
    start = time.perf_counter()
    with (place / "stderr").open("w+") as errors:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors,
                               env=os.environ | {"MODERN_CNN_CACHE": f"{place}/cache"})
        while not (metrics.exists() and metrics.stat().st_size):
            if run.poll() is not None:
                lines = (place / "stderr").read_text().strip().splitlines()
                raise UserError(f"{' '.join(command)} failed: {lines[-1] if lines else '?'}")
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        run.terminate()
        run.wait()
    return seconds


def report_runs(arguments: Sequence[str], seeds: int, out: str) -> None:
    """Whole runs of scripts/train.py, each a process of its own with empty caches: test accuracy and wall time.

    Args:
      arguments: --config=... and its overrides.
      seeds: --config.seed from 0 up to this.
      out: file for a JSON of it all, or ''.
    Raises:
      UserError: a run fails; its last line is told.
    """
    records = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, TRAIN, *arguments, f"--config.seed={seed}", f"--workdir={place}/run"]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False,
                                  env=os.environ | {"MODERN_CNN_CACHE": f"{place}/cache"})
            seconds = time.perf_counter() - start
            if done.returncode:
                raise UserError(f"{' '.join(command)} failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
            lines = (Path(place) / "run" / "metrics.jsonl").read_text().splitlines()
            test = [record for record in map(json.loads, lines) if record["split"] == "test"][-1]
        records.append({"seed": seed, "seconds": seconds, "test_accuracy": test["accuracy"], "step": test["step"]})
        log.info("seed %d  test accuracy %.2f %%  %.1f s", seed, 100 * test["accuracy"], seconds)
    accuracy, seconds = ([record[name] for record in records] for name in ("test_accuracy", "seconds"))
    machine = workdir.describe_machine()
    log.info("%d seeds: test accuracy %.2f %% as mean (%.2f to %.2f), %.1f s as median (%.1f to %.1f), cold start and "
             "compilation included; %s, %s", seeds, 100 * statistics.mean(accuracy), 100 * min(accuracy),
             100 * max(accuracy), statistics.median(seconds), min(seconds), max(seconds), machine["machine"],
             machine["device"])
    if out:
        with workdir.disk_errors(Path(out)):
            workdir.write_json(Path(out), {**machine, "results": records})


def report_trials(arguments: Sequence[str], trials: int, out: str) -> None:
    """So many seeds of a config by scripts/sweep.py together, the same one after the other, and as runs of train.py.

    All are whole processes, in this order, after one run that fills the caches for all.

    Args:
      arguments: --config=... and its overrides.
      trials: how many seeds, from 0.
      out: file for a JSON of it all, or ''.
    Raises:
      UserError: a run fails; its last line is told.
    """
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        def timed(script, *flags):
            command = [sys.executable, script, *arguments, *flags]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False,
                                  env=os.environ | {"MODERN_CNN_CACHE": f"{place}/cache"})
            if done.returncode:
                raise UserError(f"{' '.join(command)} failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
            return time.perf_counter() - start

        sweep, seeds = str(Path(TRAIN).with_name("sweep.py")), f"--sweep=seed=0:{trials}"
        timed(TRAIN, f"--workdir={place}/warm")
        seconds["together"] = timed(sweep, seeds, f"--workdir={place}/together")
        seconds["one after the other"] = timed(sweep, seeds, "--notogether", f"--workdir={place}/one")
        seconds["train.py"] = sum(timed(TRAIN, f"--config.seed={seed}", f"--workdir={place}/{seed}")
                                  for seed in range(trials))
    for way, taken in seconds.items():
        log.info("%-20s %8.1f s, %.2f times as long as together", way, taken, taken / seconds["together"])
    if out:
        with workdir.disk_errors(Path(out)):
            workdir.write_json(Path(out), {**workdir.describe_machine(), "trials": trials, "seconds": seconds})


TRAIN = str(Path(__file__).resolve().parents[1] / "scripts" / "train.py")
ROW = "%-16s %-16s %-16s %28s %10s %12s %8s"
