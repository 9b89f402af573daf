"""The pages of docs/: pictures of blocks, and between markers the tables that follow from the code or from runs.

The markers: `variants`, a family's networks; `settings`, what its configs train with; `results`, its runs. On
results.md each data set's runs, and `families`, what ran on every data set alike; on config.md `config`, all fields.
"""
import inspect
import runpy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from flax import linen as nn

from modern_cnn import models, settings
from modern_cnn.errors import UserError
from modern_cnn.inspection import summary, table
from modern_cnn.models import VARIANTS, densenet, googlenet, nin, resnet, vgg
from modern_cnn.sweeps.seeds import markdown_table
from scripts.publish import blocks, drawing, markers, results
from scripts.publish.drawing import Panel

RECORDS = "results.jsonl"
DATA = ("Fashion-MNIST", "CIFAR-10")  # what the families are compared on
PIXELS = {"unit": "0 to 1", "symmetric": "-1 to 1", "standard": "standardised"}
# Networks that a page also shows with other options, and whose these are.
MORE = {"vgg11_d2l": ({"width": 0.25}, "the textbook's, 7.2.3: the one it trains"),
        "vgg13_cifar": ({"skip": True}, "the TensorFlow text's, 10.12")}


class Network(NamedTuple):
    """A line of the table of variants."""
    name: str
    options: Mapping[str, Any]
    origin: str


class Family(NamedTuple):
    """A page: the modules of its networks, named like their configs, and its picture; or a choice of networks."""
    modules: Sequence[str]
    panels: Callable[[], Sequence[Panel]]
    names: Sequence[str] = ()

    @property
    def networks(self) -> list[Network]:
        found = []
        for name, variant in VARIANTS.items():
            if name in self.names or variant.network.__module__.rpartition(".")[2] in self.modules:
                found.append(Network(name, {}, variant.origin))
                found += [Network(name, *MORE[name])] if name in MORE else []
        return found


def _block(title: str, module: nn.Module, image_shape: Sequence[int], whole: Sequence[type[nn.Module]] = ()) -> Panel:
    return Panel(title, blocks.trace(module, image_shape, whole))


def _network(name: str, whole: Sequence[type[nn.Module]] = ()) -> Panel:
    return _block(name, models.build(name, VARIANTS[name].num_classes), VARIANTS[name].image_shape, whole)


_LAYER = partial(densenet.DenseLayer, bottleneck=4)
FAMILIES = {
    "lenet": Family(("mlp", "lenet"), lambda: [_network("lenet"), _network("lenet_relu")]),
    "alexnet": Family(("alexnet",), lambda: [_network("lenet"), _network("alexnet_d2l"), _network("alexnet_2012")]),
    "vgg": Family(("vgg",), lambda: [
        _block("VGG block of 2 convolutions", vgg.VGGBlock(256, 2), (56, 56, 128)),
        _network("vgg11", [vgg.VGGBlock]), _network("vgg16", [vgg.VGGBlock])]),
    "nin": Family(("nin",), lambda: [
        _block("NiN block", nin.NiNBlock((96,) * 3, 11, 4), (224, 224, 1)), _network("nin_d2l", [nin.NiNBlock])]),
    "googlenet": Family(("googlenet",), lambda: [
        _block("Inception block 3a", googlenet.Inception(googlenet.INCEPTIONS[0]["3a"]), (28, 28, 192))]),
    "batch_norm": Family((), lambda: [_network("lenet_bn"), _network("lenet_relu_bn")],
                         [name for name in VARIANTS if name.endswith("_bn") or name == "googlenet"]),
    "resnet": Family(("resnet",), lambda: [
        _block("Residual", resnet.Residual(64), (56, 56, 64)),
        _block("Residual that halves the map", resnet.Residual(128, strides=2), (56, 56, 64)),
        _block("Bottleneck", resnet.Bottleneck(64), (56, 56, 256)),
        _block("Pre-activation", resnet.Residual(64, preactivation=True), (56, 56, 64))]),
    "densenet": Family(("densenet",), lambda: [
        _block("Dense layer", densenet.DenseBlock(1, 32, _LAYER), (56, 56, 64)),
        _block("Dense block of 3 layers", densenet.DenseBlock(3, 32, _LAYER), (56, 56, 64), [densenet.DenseLayer]),
        _block("Transition", densenet.Transition(80), (56, 56, 160))]),
}


def variants(family: Family) -> str:
    """Return the table of a family's networks, counted at the images and classes that each was published for."""
    lines = [["network", "whose", "images", "classes", "parameters", "running", "multiply-accumulates",
              "receptive field"]]
    for name, options, origin in family.networks:
        variant = VARIANTS[name]
        # With `scan` the numbers are the same, and 1202 layers are traced as fast as 20.
        scan = {"scan": True} if "scan" in inspect.signature(variant.network).parameters else {}
        network = models.build(name, variant.num_classes, **scan, **options)
        found = summary.summarize(network, variant.image_shape)
        label = ", ".join([f"`{name}`", *(f"`{key}={str(value).lower()}`" for key, value in options.items())])
        lines.append([label, origin, drawing.shape_text(variant.image_shape), str(variant.num_classes),
                      f"{found.params:,}", f"{found.bn_running_scalars:,}", table.scaled(found.macs),
                      table.extent(found.receptive_field) if found.receptive_field else "all"])
    return markdown_table(lines)


def read_configs(root: Path) -> dict[str, dict[str, Any]]:
    """Return the fields that each config of configs/ sets, by the config's --config=."""
    found = {}
    for path in sorted((root / "configs").glob("*.py")):
        if path.stem == "base":
            continue
        module = runpy.run_path(str(path))
        for n, variant in enumerate(module.get("VARIANTS", (None,))):
            config = module["get_config"](*([variant] if variant else []))
            found[f"configs/{path.name}" + (f":{variant}" if n else "")] = results.set_fields(config.to_dict())
    return found


def training(family: Family, configs: results.Configs) -> str:
    """Return the table of what a family's configs train with; those that differ in the network alone share a line."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, fields in configs.items():
        if Path(name.partition(":")[0]).stem in family.modules:
            rows.setdefault(_training(fields), []).append(name)
    lines = [["`--config=`", "data", "size", "pixels", "batch", "optimiser", "rate", "epochs"]]
    for cells, names in rows.items():
        more = [f"`:{name.partition(':')[2]}`" for name in names[1:]]
        lines.append([", ".join([f"`{names[0]}`", *more]), *cells])
    return markdown_table(lines)


def _training(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a config, from its fields."""
    name, schedule = str(config["optimizer.name"]), str(config["schedule.name"])
    optimizer = [{"sgd": "SGD", "adam": "Adam"}.get(name, name)]
    if config["optimizer.momentum"]:
        nesterov = "Nesterov " if config["optimizer.nesterov"] else ""
        optimizer.append(f"{nesterov}momentum {config['optimizer.momentum']:g}")
    if config["optimizer.weight_decay"]:
        optimizer.append(f"weight decay {config['optimizer.weight_decay']:g}")
    rate = [f"{config['optimizer.learning_rate']:g}"]
    if schedule == "step":
        after = [f"{epoch:g}" for epoch in config["schedule.milestones"]]
        after = after if len(after) < 5 else [*after[:3], "..."]
        rate.append(f"x {config['schedule.factor']:g} after {', '.join(after)}")
    elif schedule != "constant":
        rate.append(schedule)
    rate += [f"warm-up {config['schedule.warmup_epochs']:g}"] if config["schedule.warmup_epochs"] else []
    augmented = [f"{key.partition('.')[2]} {value:g}".removesuffix(" 1") for key, value in config.items()
                 if key.startswith("augment.") and value]
    pixels, size = str(config["data.normalize"]), config["data.image_size"]
    return (results.data_name(config["data.source"]), f"{size}x{size}" if size else "as it is",
            ", ".join([PIXELS.get(pixels, pixels), *augmented]), str(config["data.batch_size"]), ", ".join(optimizer),
            ", ".join(rate), str(config["epochs"]))


def config_fields() -> str:
    """Return the tables of all fields of a config, one for each section."""
    sections: dict[str, list[list[str]]] = {}
    for name, field in settings.FIELDS.items():
        default = {None: "the network's own", "": "not set"}.get(field.default, f"`{field.default}`")
        if field.choices:
            values = ", ".join(field.choices)
        elif field.type is bool or field.low is None:
            values = {bool: "True or False", str: "text", tuple: "numbers", float: "number"}[field.type]
        else:
            values = f"at least {field.low}" if field.high == inf else f"{field.low} to {field.high}"
        heading = ["field", "default", "meaning", "values", "resume", "together"]
        sections.setdefault(name.rpartition(".")[0] or "The run", [heading]).append(
            [f"`{name}`", default, field.meaning, values, field.resume, "yes" if field.varies else "no"])
    return "\n".join(f"## {section}\n\n{markdown_table(lines)}" for section, lines in sections.items())


def missing(records: Sequence[results.Record]) -> str:
    """Return a line for each data set: the families without a run on it, and those with fewer than three seeds."""
    lines = []
    for data in DATA:
        lacking: dict[str, list[str]] = {}
        for page, family in FAMILIES.items():
            own = [record for record in records if _is_of(record, family) and record["data"].startswith(data)]
            seeds = max((len(group.runs) for group in results.experiments(own)), default=0)
            if seeds < 3 and family.modules:
                lacking.setdefault("fewer than three seeds of" if seeds else "no run yet of", []).append(page)
        parts = [f"{what} {', '.join(pages)}" for what, pages in sorted(lacking.items(), reverse=True)]
        lines.append(f"- {data}: {'; '.join(parts) or 'nothing is missing'}.")
    return "\n".join(lines)


def _is_of(record: results.Record, family: Family) -> bool:
    return record["network"] in {network.name for network in family.networks}


def part(name: str, page: str, configs: results.Configs, records: Sequence[results.Record]) -> str:
    """Return what stands between the markers `name` of a page.

    Raises:
      UserError: the page may not have such a marker.
    """
    family = FAMILIES.get(page)
    together = results.on_all(records, DATA)
    shown = [run.scores for row in together for group in row.values() for run in group.runs]
    alone = [record for record in records if record not in shown]
    if name == "config":
        return config_fields()
    if name == "missing":
        return missing(records)
    if name == "families":
        return results.side_by_side(together, configs, DATA)
    if name in DATA:
        return results.table([record for record in alone if record["data"].startswith(name)], configs)
    if name == "others":
        return results.table([record for record in alone if not record["data"].startswith(DATA)], configs)
    if family and name == "variants":
        return variants(family)
    if family and name == "settings":
        return training(family, configs)
    if family and name == "results":
        own = [record for record in alone if _is_of(record, family)]
        rows = [row for row in together if _is_of(row[DATA[0]].runs[0].scores, family)]
        tables = [results.table(own, configs)] * bool(own) + [results.side_by_side(rows, configs, DATA)] * bool(rows)
        return "\n\n".join(tables) or "None yet."
    raise UserError(f"docs/{page}.md has a marker {name!r}, but nothing is known to stand there; remove it")


def make(root: Path, records: Sequence[results.Record], only: Sequence[str] = ()) -> dict[Path, str]:
    """Return {path: text} of every generated file as it should be; `only`: of these pages, by name."""
    docs, configs = root / "docs", read_configs(root)
    files = {}
    for path in sorted(docs.glob("*.md")):
        if path.stem in (only or [path.stem]) and "\n<!-- /" in (text := path.read_text()):
            files[path] = markers.fill(text, partial(part, page=path.stem, configs=configs, records=records))
    for page, family in FAMILIES.items():
        if page in (only or [page]):
            files[docs / "images" / "blocks" / f"{page}.svg"] = drawing.draw(family.panels())
    return files


def update(root: Path, workdirs: Sequence[Path], check: bool = False, only: Sequence[str] = ()) -> list[str]:
    """Add runs to docs/results.jsonl, write the files that are out of date, and return their names.

    Args:
      root: the checkout.
      workdirs: those of finished runs.
      check: write nothing.
      only: these pages alone, by name.
    Raises:
      UserError: a run is not finished; with `check`, files are out of date.
    """
    path = root / "docs" / RECORDS
    old = results.load(path)
    records = results.merge(old, [results.read(directory) for directory in workdirs], list(VARIANTS))
    stale = {file: text for file, text in make(root, records, only).items()
             if not file.exists() or file.read_text() != text}
    names = [str(file.relative_to(root)) for file in stale]
    if check and names:
        raise UserError(f"out of date: {', '.join(names)}; run python scripts/pages.py")
    if records != old and not check:
        results.save(path, records)
    for file, text in stale.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return names
