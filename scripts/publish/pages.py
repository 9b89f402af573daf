"""The pages of docs/: pictures of blocks, and between markers what follows from the code or from runs.

`<!-- variants -->` ... `<!-- /variants -->` holds the table of a family's networks, `settings` what its configs train
with, `results` what its runs came to; `families`, of docs/results.md, what ran on every data set alike. The pictures
are in docs/images/blocks/, one for each page.
"""
import inspect
import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from modern_cnn import models
from modern_cnn.errors import UserError
from modern_cnn.inspection import summary, table
from modern_cnn.models import densenet, googlenet, nin, resnet, vgg
from scripts.publish import blocks, drawing, results
from scripts.publish.drawing import Panel

RECORDS, RESULTS = "results.jsonl", "results.md"
DATA = ("Fashion-MNIST", "CIFAR-10")  # what the families are compared on
TEXTBOOK, NOTEBOOK = "the textbook's", "the TensorFlow text's"
PIXELS = {"unit": "0 to 1", "symmetric": "-1 to 1", "standard": "standardised"}


class Family(NamedTuple):
    """A page: its networks, whose they are, the configs that train them, and its picture."""
    networks: Sequence["Network"]
    configs: Sequence[str]
    panels: Callable[[], Sequence[Panel]]

    @property
    def names(self) -> set[str]:
        return {network.name for network in self.networks}


class Network(NamedTuple):
    """A row of the table of variants."""
    name: str
    whose: str
    options: Mapping[str, Any] = {}


def _network(name: str, whole: Sequence[type] = ()) -> Panel:
    image_shape, num_classes = models.INPUTS[name]
    return Panel(name, blocks.trace(models.build(name, num_classes), image_shape, whole))


def _block(title: str, module, image_shape: Sequence[int], whole: Sequence[type] = ()) -> Panel:
    return Panel(title, blocks.trace(module, image_shape, whole))


def _resnet_panels() -> list[Panel]:
    return [_block("Residual", resnet.Residual(64), (56, 56, 64)),
            _block("Residual that halves the map", resnet.Residual(128, strides=2), (56, 56, 64)),
            _block("Bottleneck", resnet.Bottleneck(64), (56, 56, 256)),
            _block("Pre-activation", resnet.Residual(64, preactivation=True), (56, 56, 64))]


def _densenet_panels() -> list[Panel]:
    layer = partial(densenet.DenseLayer, bottleneck=4)
    return [_block("Dense layer", densenet.DenseBlock(1, 32, layer), (56, 56, 64)),
            _block("Dense block of 3 layers", densenet.DenseBlock(3, 32, layer), (56, 56, 64), [densenet.DenseLayer]),
            _block("Transition", densenet.Transition(80), (56, 56, 160))]


def _googlenet_panels() -> list[Panel]:
    return [_block("Inception block 3a", googlenet.Inception(googlenet.INCEPTIONS[0]["3a"]), (28, 28, 192))]


def _vgg_panels() -> list[Panel]:
    return [_block("VGG block of 2 convolutions", vgg.VGGBlock(256, 2), (56, 56, 128)),
            _network("vgg11", [vgg.VGGBlock]), _network("vgg16", [vgg.VGGBlock])]


def _nin_panels() -> list[Panel]:
    return [_block("NiN block", nin.NiNBlock((96,) * 3, 11, 4), (224, 224, 1)), _network("nin_d2l", [nin.NiNBlock])]


def _many(names: str, whose: str) -> list[Network]:
    return [Network(name, whose) for name in names.split()]


FAMILIES = {
    "lenet": Family(
        [Network("mlp", f"{NOTEBOOK}, 10.1"), Network("lenet", f"{TEXTBOOK}, 6.6"),
         Network("lenet_bn", f"{TEXTBOOK}, 7.5.4"), Network("lenet_relu", f"{NOTEBOOK}, 10.4"),
         Network("lenet_relu_bn", f"{NOTEBOOK}, 10.8.3")],
        ("mlp", "lenet"), lambda: [_network("lenet"), _network("lenet_relu")]),
    "alexnet": Family(
        [Network("alexnet_2012", "the paper's, for two GPUs"),
         Network("alexnet", "torchvision's, after Krizhevsky 2014"), Network("alexnet_d2l", f"{TEXTBOOK}, 7.1")],
        ("alexnet",), lambda: [_network("lenet"), _network("alexnet_d2l"), _network("alexnet_2012")]),
    "vgg": Family(
        [*[Network(f"vgg{depth}", f"torchvision's, the paper's {letter}")
           for depth, letter in ((11, "A"), (13, "B"), (16, "D"), (19, "E"))],
         *_many("vgg11_bn vgg13_bn vgg16_bn vgg19_bn", "torchvision's"), Network("vgg11_d2l", f"{TEXTBOOK}, 7.2.2"),
         Network("vgg11_d2l", f"{TEXTBOOK}, 7.2.3: the one it trains", {"width": 0.25}),
         Network("vgg13_cifar", f"{NOTEBOOK}, 10.10"), Network("vgg13_cifar", f"{NOTEBOOK}, 10.12", {"skip": True})],
        ("vgg",), _vgg_panels),
    "nin": Family(
        [*_many("nin_cifar nin_imagenet", "the authors', of Caffe's model zoo"),
         Network("nin_d2l", f"{TEXTBOOK}, 7.3")],
        ("nin",), _nin_panels),
    "googlenet": Family(
        [Network("googlenet_2014", "the paper's"), Network("googlenet", "torchvision's"),
         Network("googlenet_d2l", f"{TEXTBOOK}, 7.4")],
        ("googlenet",), _googlenet_panels),
    "batch_norm": Family(
        [Network("lenet_bn", f"{TEXTBOOK}, 7.5.4"), Network("lenet_relu_bn", f"{NOTEBOOK}, 10.8.3"),
         *_many("vgg11_bn vgg13_bn vgg16_bn vgg19_bn googlenet", "torchvision's")],
        (), lambda: [_network("lenet_bn"), _network("lenet_relu_bn")]),
    "resnet": Family(
        [*_many("resnet18 resnet34 resnet50 resnet101 resnet152", "torchvision's"),
         *_many("resnet20 resnet32 resnet44 resnet56 resnet110 resnet1202", "the paper's, section 4.2"),
         *_many("preact_resnet18 preact_resnet34 preact_resnet50 preact_resnet101 preact_resnet152",
                "pre-activation, of He et al. 2016"),
         *_many("plain18 plain34", "the paper's, without shortcuts"), Network("resnet18_d2l", f"{TEXTBOOK}, 7.6"),
         *_many("resnet18_cifar resnet34_cifar", f"{NOTEBOOK}, 10.14")],
        ("resnet",), _resnet_panels),
    "densenet": Family(
        [*_many("densenet121 densenet161 densenet169 densenet201", "torchvision's"),
         Network("densenet_bc_100_12", "the paper's, for CIFAR"), Network("densenet_d2l", f"{TEXTBOOK}, 7.7")],
        ("densenet",), _densenet_panels),
}


def variants(family: Family) -> list[str]:
    """The table of a family's networks, counted at the images and classes that each was published for."""
    lines = ["| network | whose | images | classes | parameters | running | multiply-accumulates | receptive field |",
             "|---|---|---|---|---|---|---|---|"]
    for name, whose, options in family.networks:
        image_shape, num_classes = models.INPUTS[name]
        # With `scan` the numbers are the same, and 1202 layers are traced as fast as 20.
        scan = {"scan": True} if "scan" in inspect.signature(models.MODELS[name]).parameters else {}
        found = summary.summarize(models.build(name, num_classes, **scan, **options), image_shape)
        label = ", ".join([f"`{name}`", *(f"`{key}={str(value).lower()}`" for key, value in options.items())])
        field = table.extent(found.receptive_field) if found.receptive_field else "all"
        lines.append(f"| {label} | {whose} | {drawing.shape_text(image_shape)} | {num_classes} | {found.params:,} | "
                     f"{found.bn_running_scalars:,} | {table.scaled(found.macs)} | {field} |")
    return lines


def read_configs(root: Path) -> dict[str, dict[str, Any]]:
    """The flat fields of every config of configs/, by what --config= names it with."""
    found = {}
    for path in sorted((root / "configs").glob("*.py")):
        if path.stem == "base":
            continue
        module = runpy.run_path(str(path))
        for n, variant in enumerate(module.get("VARIANTS", (None,))):
            config = module["get_config"](*([variant] if variant else []))
            name = f"configs/{path.name}" + (f":{variant}" if n else "")
            found[name] = results.flat(config.to_dict())
    return found


def settings(family: Family, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a family's configs train with, those that differ in the network alone in one row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, fields in configs.items():
        if Path(name.partition(":")[0]).stem in family.configs:
            rows.setdefault(_settings(fields), []).append(name)
    lines = ["| `--config=` | data | size | pixels | batch | optimiser | rate | epochs |",
             "|---|---|---|---|---|---|---|---|"]
    for cells, names in rows.items():
        more = [f"`:{name.partition(':')[2]}`" for name in names[1:]]
        lines.append(f"| {', '.join([f'`{names[0]}`', *more])} | {' | '.join(cells)} |")
    return lines


def _settings(config: Mapping[str, Any]) -> tuple[str, ...]:
    get = config.get
    optimizer = [{"sgd": "SGD", "adam": "Adam"}.get(get("optimizer.name"), get("optimizer.name"))]
    if get("optimizer.momentum"):
        optimizer.append(f"{'Nesterov ' if get('optimizer.nesterov') else ''}momentum {get('optimizer.momentum'):g}")
    if get("optimizer.weight_decay"):
        optimizer.append(f"weight decay {get('optimizer.weight_decay'):g}")
    rate, schedule = [f"{get('optimizer.learning_rate'):g}"], get("schedule.name")
    if schedule == "step":
        after = [f"{epoch:g}" for epoch in get("schedule.milestones")]
        after = after if len(after) < 5 else [*after[:3], "..."]
        rate.append(f"x {get('schedule.factor'):g} after {', '.join(after)}")
    elif schedule != "constant":
        rate.append(schedule)
    rate += [f"warm-up {get('schedule.warmup_epochs'):g}"] if get("schedule.warmup_epochs") else []
    changed = [f"{key.partition('.')[2]} {value:g}".removesuffix(" 1") for key, value in config.items()
               if key.startswith("augment.") and value]
    images = [PIXELS.get(get("data.normalize"), get("data.normalize")), *changed]
    size = get("data.image_size")
    return (results.data_name(get("data.source")), f"{size}x{size}" if size else "as it is", ", ".join(images),
            str(get("data.batch_size")), ", ".join(optimizer), ", ".join(rate), str(get("epochs")))


def missing(records: Sequence[results.Record]) -> list[str]:
    """A sentence for each data set: which families have no run on it, and which have fewer than three seeds."""
    lines = []
    for data in DATA:
        seeds = {page: max((len(group) for group in _seeds(records, family, data)), default=0)
                 for page, family in FAMILIES.items() if page != "batch_norm"}
        none, few = [page for page, n in seeds.items() if n == 0], [page for page, n in seeds.items() if 0 < n < 3]
        lines += [f"- {data}: " + "; ".join([f"no run yet of {', '.join(none)}"] * bool(none)
                                            + [f"fewer than three seeds of {', '.join(few)}"] * bool(few))
                  + ("." if none or few else "nothing is missing.")]
    return lines


def _seeds(records: Sequence[results.Record], family: Family, data: str) -> list[set[int]]:
    groups: dict[str, set[int]] = {}
    for record in records:
        if record["network"] in family.names and record["data"].startswith(data):
            groups.setdefault(str(record["config"]), set()).add(record["seed"])
    return [*groups.values()]


def _section(name: str, page: str, configs: Mapping[str, Mapping[str, Any]],
             records: Sequence[results.Record]) -> list[str]:
    family = FAMILIES.get(page)
    if name == "missing":
        return missing(records)
    together = results.on_all(records, DATA)
    if name == "families":
        return results.side_by_side(together, configs, DATA)
    alone = [record for record in records if not any(record in runs for row in together for runs in row.values())]
    if name in DATA:
        return results.table([r for r in alone if r["data"].startswith(name)], configs)
    if name == "others":
        return results.table([r for r in alone if not r["data"].startswith(DATA)], configs)
    if family and name == "variants":
        return variants(family)
    if family and name == "settings":
        return settings(family, configs)
    if family and name == "results":
        own = [record for record in alone if record["network"] in family.names]
        rows = [row for row in together if row[DATA[0]][0]["network"] in family.names]
        tables = [results.table(own, configs)] * bool(own) + [results.side_by_side(rows, configs, DATA)] * bool(rows)
        return [line for table in tables for line in ["", *table]][1:] or ["None yet."]
    raise UserError(f"docs/{page}.md has a marker {name!r}, which nothing is known to stand between")


def make(root: Path, records: Sequence[results.Record], only: Sequence[str] = ()) -> dict[Path, str]:
    """Every file that the pages are made of, as it should be; `only`: of these pages, by name."""
    docs, configs = root / "docs", read_configs(root)
    files = {}
    for path in sorted(docs.glob("*.md")):
        text = path.read_text()
        if path.stem not in (only or [path.stem]) or "<!-- /" not in text:
            continue

        def fill(match, page=path.stem):
            body = "\n".join(_section(match[1], page, configs, records))
            return f"<!-- {match[1]} -->\n{body}\n<!-- /{match[1]} -->"
        files[path] = re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->", fill, text, flags=re.DOTALL)
    for page, family in FAMILIES.items():
        if page in (only or [page]):
            files[docs / "images" / "blocks" / f"{page}.svg"] = drawing.draw(family.panels())
    return files


def update(root: Path, workdirs: Sequence[Path], check: bool = False, only: Sequence[str] = ()) -> list[str]:
    """Adds runs to docs/results.jsonl and writes the files that are out of date; their names.

    Args:
      root: the checkout.
      workdirs: of finished runs.
      check: write nothing.
    Raises:
      UserError: not a finished run; with `check`, files are out of date.
    """
    path = root / "docs" / RECORDS
    old = results.load(path)
    records = results.merge(old, [results.read(directory) for directory in workdirs], list(models.MODELS))
    files = make(root, records, only)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    names = [str(path.relative_to(root)) for path in stale]
    if check:
        if names:
            raise UserError(f"out of date: {', '.join(names)}; run python scripts/pages.py")
        return []
    if records != old:
        results.save(path, records)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    return names
