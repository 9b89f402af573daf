"""The pages of docs/: between `<!-- name -->` and `<!-- /name -->` stand pictures and tables from the code or runs.

The markers of a family's page: `blocks`, its picture; `variants`, its networks; `settings`, what its configs train
with; `results`, its runs. On results.md `best` is the best of each family, `missing` what has not run.
"""
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from modern_cnn import models, settings, zoo
from modern_cnn.errors import UserError, lookup
from modern_cnn.inspection import summary
from modern_cnn.models import VARIANTS, densenet, googlenet, mobilenet, nin, resnet, vgg
from modern_cnn.reuse import provenance
from modern_cnn.sweeps.report import SeedGroup, deviation, markdown_table
from scripts.publish import accelerator, blocks, results, speed
from scripts.publish.blocks import Panel

RECORDS = "results.jsonl"
DATA = ("Fashion-MNIST", "CIFAR-10")  # what the families are compared on
# The textbook's test accuracy on Fashion-MNIST in per cent, by the page of the family: lowest and highest, single runs.
# It has none of MobileNet, and does not print RegNet's.
TEXTBOOK = {"lenet": (78.0, 82.0), "alexnet": (87.9, 87.9), "nin": (79.0, 79.0), "vgg": (92.0, 92.0),
            "googlenet": (88.6, 88.6), "resnet": (89.3, 89.3), "densenet": (88.5, 88.5)}
# What others report of a network on CIFAR-10.
REPORTED = {"resnet20": "91.25 %, He et al. 2015, table 6",
            "airbench94": "94.01 %, its author, 200 runs"}
PIXELS = {"unit": "0 to 1", "symmetric": "-1 to 1", "standard": "standardised"}
# Networks that a page also shows with other options, and whose these are.
MORE = {"vgg11_d2l": ({"width": 0.25}, "the textbook's, 7.2.3: the one it trains"),
        "vgg13_cifar": ({"skip": True}, "the TensorFlow text's, 10.12")}


class Family(NamedTuple):
    """A page: the modules of its networks, named like their configs, and its picture; or a choice of networks."""
    modules: Sequence[str]
    panels: Sequence[Panel]
    names: Sequence[str] = ()

    @property
    def networks(self) -> list[tuple[str, Mapping[str, Any], str]]:
        """The lines of the table of variants: names, options, and whose they are."""
        found = []
        for name, variant in VARIANTS.items():
            if name in self.names or variant.network.__module__.rpartition(".")[2] in self.modules:
                found += [(name, {}, variant.origin), *([(name, *MORE[name])] if name in MORE else [])]
        return found

    def made(self, record: provenance.Record) -> bool:
        """Return whether a run trained one of the networks."""
        return record["network"] in [name for name, *_ in self.networks]


def _network(name: str, whole: str = "") -> Panel:
    return Panel(name, models.build(name, VARIANTS[name].num_classes), VARIANTS[name].image_shape, whole)


_LAYER = partial(densenet.DenseLayer, bottleneck=4)
FAMILIES = {
    "lenet": Family(("mlp", "lenet"), [_network("lenet"), _network("lenet_relu")]),
    "alexnet": Family(("alexnet",), [_network("lenet"), _network("alexnet_d2l"), _network("alexnet_2012")]),
    "vgg": Family(("vgg", "airbench"), [
        Panel("VGG block of 2 convolutions", vgg.VGGBlock(256, 2), (56, 56, 128)), _network("vgg11", "block"),
        _network("vgg16", "block")]),
    "nin": Family(("nin",), [Panel("NiN block", nin.NiNBlock((96,) * 3, 11, 4), (224, 224, 1)),
                             _network("nin_d2l", "block")]),
    "googlenet": Family(("googlenet",), [
        Panel("Inception block 3a", googlenet.Inception(googlenet.INCEPTIONS[0]["3a"]), (28, 28, 192))]),
    "batch_norm": Family((), [_network("lenet_bn"), _network("lenet_relu_bn")],
                         [name for name in VARIANTS if name.endswith("_bn") or name == "googlenet"]),
    "resnet": Family(("resnet",), [
        Panel("Residual", resnet.Residual(64), (56, 56, 64)),
        Panel("Residual that halves the map", resnet.Residual(128, strides=2), (56, 56, 64)),
        Panel("Bottleneck", resnet.Bottleneck(64), (56, 56, 256)),
        Panel("ResNeXt's bottleneck", resnet.Bottleneck(64, inside=128, groups=32), (56, 56, 256)),
        Panel("Pre-activation", resnet.Residual(64, preactivation=True), (56, 56, 64))]),
    "densenet": Family(("densenet",), [
        Panel("Dense layer", densenet.DenseBlock(1, 32, _LAYER), (56, 56, 64)),
        Panel("Dense block of 3 layers", densenet.DenseBlock(3, 32, _LAYER), (56, 56, 64), "layer"),
        Panel("Transition", densenet.Transition(80), (56, 56, 160))]),
    "mobilenet": Family(("mobilenet",), [
        Panel("Separable block", mobilenet.SeparableBlock(128), (56, 56, 128)),
        Panel("Separable block that halves the map", mobilenet.SeparableBlock(256, strides=2), (56, 56, 128))]),
    "regnet": Family(("regnet",), [
        Panel("Block", resnet.Bottleneck(96, groups=2, expansion=1), (56, 56, 96)),
        Panel("Block that halves the map", resnet.Bottleneck(96, strides=2, groups=2, expansion=1), (112, 112, 32))]),
}


def variants(family: Family) -> str:
    """Return the table of a family's networks, counted at the images and classes that each was published for."""
    lines = [["network", "whose", "images", "classes", "parameters", "running", "multiply-accumulates",
              "receptive field"]]
    for name, options, origin in family.networks:
        variant = VARIANTS[name]
        # With `scan` the numbers are the same, and 1202 layers are traced as fast as 20.
        scan = {"scan": True} if "scan" in inspect.signature(variant.network).parameters else {}
        found = summary.summarize(models.build(name, variant.num_classes, **scan, **options), variant.image_shape)
        label = ", ".join([f"`{name}`", *(f"`{key}={str(value).lower()}`" for key, value in options.items())])
        lines.append([label, origin, blocks.shape_text(variant.image_shape), str(variant.num_classes),
                      f"{found.params:,}", f"{found.bn_running_scalars:,}", summary.scaled(found.macs),
                      summary.extent(found.receptive_field) if found.receptive_field else "all"])
    return markdown_table(lines)


def training(family: Family, configs: provenance.Configs) -> str:
    """Return the table of what a family's configs train with; those that differ in the network alone share a line."""
    rows: dict[tuple[str, ...], str] = {}
    for name, fields in configs.items():
        if Path(name.partition(":")[0]).stem in family.modules:
            cells = _training(fields)
            rows[cells] = f"{rows[cells]}, `:{name.partition(':')[2]}`" if cells in rows else f"`{name}`"
    heading = ["`--config=`", "data", "size", "pixels", "batch", "optimiser", "rate", "epochs"]
    return markdown_table([heading, *([names, *cells] for cells, names in rows.items())])


def _training(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a config, from its fields."""
    name, schedule = str(config["optimizer.name"]), str(config["schedule.name"])
    optimizer = [{"sgd": "SGD", "adam": "Adam"}.get(name, name)]
    if config["optimizer.momentum"]:
        optimizer.append("Nesterov " * config["optimizer.nesterov"] + f"momentum {config['optimizer.momentum']:g}")
    if config["optimizer.weight_decay"]:
        optimizer.append(f"weight decay {config['optimizer.weight_decay']:g}")
    rate = [f"{config['optimizer.learning_rate']:g}"]
    if schedule == "step":
        after = [f"{epoch:g}" for epoch in config["schedule.milestones"]]
        after = after if len(after) < 5 else [*after[:3], "..."]
        rate.append(f"x {config['schedule.factor']:g} after {', '.join(after)}")
    elif schedule != "constant":
        rate.append(schedule)
    if config["schedule.warmup_epochs"]:
        rate.append(f"warm-up {config['schedule.warmup_epochs']:g}")
    pixels, size = str(config["data.normalize"]), config["data.image_size"]
    changes = [PIXELS.get(pixels, pixels)] + [f"{key.partition('.')[2]} {value:g}".removesuffix(" 1")
                                              for key, value in config.items() if key.startswith("augment.")
                                              and value != settings.FIELDS[key].default]
    return (provenance.data_name(config["data.source"]), f"{size}x{size}" if size else "as it is", ", ".join(changes),
            str(config["data.batch_size"]), ", ".join(optimizer), ", ".join(rate), str(config["epochs"]))


def config_fields() -> str:
    """Return the tables of all fields of a config, one for each section."""
    sections: dict[str, list[list[str]]] = {}
    for name, field in settings.FIELDS.items():
        default = {None: "the network's own", "": "not set"}.get(field.default, f"`{field.default}`")
        if field.choices:
            values = ", ".join(field.choices)
        elif field.type in (bool, tuple) or field.low is None:
            values = {bool: "True or False", str: "text", tuple: "numbers", float: "number"}[field.type]
        else:
            values = f"at least {field.low}" if field.high == settings.LARGEST else f"{field.low} to {field.high}"
        heading = ["field", "default", "meaning", "values", "resume", "together"]
        sections.setdefault(name.rpartition(".")[0] or "The run", [heading]).append(
            [f"`{name}`", default, field.meaning, values, field.resume, "yes" if field.varies else "no"])
    return "\n".join(f"## {section}\n\n{markdown_table(lines)}" for section, lines in sections.items())


def _best(records: Sequence[provenance.Record], data: str) -> Iterator[tuple[str, SeedGroup]]:
    """Yield the page of each family with runs on a data set, and the experiment of the best mean accuracy there."""
    for page, family in FAMILIES.items():
        own = [record for record in records if record["data"].startswith(data) and family.made(record)]
        if family.modules and own:
            yield page, max(results.experiments(own), key=lambda group: fmean(group.values("accuracy")))


def best(records: Sequence[provenance.Record], configs: provenance.Configs) -> str:
    """Return the table of the experiment with the best mean accuracy of each family on each data set."""
    lines = [["network", "parameters", "data", "test accuracy", "reported elsewhere", results.COMMAND, "training"]]
    for data in DATA:
        for page, group in _best(records, data):
            first, (command, accuracy, took) = group.runs[0].scores, results.cells(group, configs)
            reported = REPORTED.get(first["network"], "")
            if data == "Fashion-MNIST" and page in TEXTBOOK:
                reported = f"{' to '.join(f'{figure:g}' for figure in sorted({*TEXTBOOK[page]}))} %, the textbook"
            lines.append([f"[`{first['network']}`]({page}.md)", f"{first['parameters']:,}", first["data"],
                          f"**{accuracy}**", reported, command, took])
    return markdown_table(lines)


def draw_best(records: Sequence[provenance.Record], out: Path) -> None:
    """Draw the best of each family on Fashion-MNIST beside the textbook's figures, which lie on a line each."""
    rows = [*_best(records, "Fashion-MNIST")][::-1]
    first = next((page for page, _ in rows if page in TEXTBOOK), None)
    figure = Figure(figsize=(7, 1.0 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(-0.6, len(rows) - 0.4)
    for y, (page, group) in enumerate(rows):
        values = [100 * value for value in group.values("accuracy")]
        axes.errorbar(fmean(values), y, xerr=deviation(values), fmt="o", color="tab:blue", capsize=3,
                      label=None if y else "here, mean ± standard deviation")
        if page in TEXTBOOK:
            axes.plot(TEXTBOOK[page], [y, y], "o-", color="tab:gray", markerfacecolor="white",
                      label="the textbook, single runs" if page == first else None, zorder=1)
    axes.set_yticks(range(len(rows)), [group.fields["network"] for _, group in rows])
    axes.set_xlabel("test accuracy on Fashion-MNIST (%)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(out, dpi=120)


def shipped() -> str:
    """Return the table of the trained networks that come with the package."""
    lines = [["`zoo:NAME`", "network", "parameters", "data", "test accuracy", "stored as"]]
    for card in map(zoo.card, zoo.names()):
        lines.append([f"`{card['name']}`", f"`{card['network']}`", f"{card['parameters']:,}", card["data"],
                      f"{100 * card['accuracy']:.2f} % of {card['count']:,}", card["stored_as"]])
    return markdown_table(lines)


def missing(records: Sequence[provenance.Record], configs: provenance.Configs) -> str:
    """Return a line for each data set: families without a run on it, with fewer than three seeds, and bare configs.

    Those are configs for CIFAR-10, or of a network of one of the texts, of which no run has all fields as they stand.
    """
    lines, few = [], {"no run yet of": (0,), "fewer than three seeds of": (1, 2)}
    for data in DATA:
        own = [record for record in records if record["data"].startswith(data)]
        seeds = {page: max((len(group.runs) for group in results.experiments(filter(family.made, own))), default=0)
                 for page, family in FAMILIES.items() if family.modules}
        parts = [f"{what} {', '.join(lacking)}" for what, numbers in few.items()
                 if (lacking := [page for page in seeds if seeds[page] in numbers])]
        done = {name for record in own for name, changed in [provenance.nearest_config(record, configs)] if not changed}
        if unrun := [f"`{name}`" for name, fields in configs.items()
                     if provenance.data_name(fields["data.source"]) == data and name not in done
                     and (data == "CIFAR-10" or "text" in VARIANTS[fields["model.name"]].origin)]:
            parts.append(f"no run of the unchanged {', '.join(unrun)}")
        lines.append(f"- {data}: {'; '.join(parts) or 'nothing is missing'}.")
    return "\n".join(lines)


def part(name: str, page: str, configs: provenance.Configs, records: Sequence[provenance.Record],
         docs: Path = Path()) -> str:
    """Return what stands between the markers `name` of a page. Raise UserError if it may not have such a marker.

    `docs` has the folders of what was measured: of an accelerator, and of speed.
    """
    def of_data(names: str | tuple[str, ...], wanted: bool = True) -> str:
        return results.table([record for record in records if record["data"].startswith(names) == wanted], configs)

    def of_family(family: Family) -> str:
        return results.table([record for record in records if family.made(record)], configs)

    parts: dict[str, Callable[[], str]] = {
        "config": config_fields, "missing": lambda: missing(records, configs), "others": lambda: of_data(DATA, False),
        "best": lambda: best(records, configs), "zoo": shipped,
        "accelerator-steps": lambda: accelerator.steps(docs / "accelerator"),
        "accelerator-exactness": lambda: accelerator.exactness(docs / "accelerator"),
        "speed": lambda: speed.sentence(docs / "speed"),
        **{phase: partial(speed.tables, docs / "speed", phase) for phase in speed.WORDS}}
    parts |= {data: partial(of_data, data) for data in DATA}
    if family := FAMILIES.get(page):
        parts |= {"blocks": lambda: blocks.draw(family.panels), "variants": lambda: variants(family),
                  "settings": lambda: training(family, configs), "results": lambda: of_family(family)}
    if name not in parts:
        raise UserError(f"docs/{page}.md has a marker {name!r}, but nothing is known to stand there; remove it")
    return parts[name]()


def fill(page: str, part: Callable[[str], str]) -> str:
    """Return a page's text with `part(name)` between each pair of markers."""
    def replaced(match: re.Match) -> str:
        return f"<!-- {match[1]} -->\n{part(match[1])}".rstrip("\n") + f"\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->", replaced, page, flags=re.DOTALL)


def update(root: Path, workdirs: Sequence[Path], check: bool = False, only: Sequence[str] = (),
           measured: Path | None = None, times: Sequence[Path] = ()) -> list[str]:
    """Add finished runs to docs/results.jsonl, write the pages that are out of date, and return their names.

    `measured` is a folder of scripts/accelerator.sh, whose JSON is kept in docs/accelerator/; `times` are JSON files of
    scripts/benchmark.py, kept in docs/speed/. With `check` nothing is written; `only` names pages. Raise UserError if a
    run has not finished or a check fails.
    """
    path, configs, stale = root / "docs" / RECORDS, provenance.read_configs(root), {}
    old = results.load(path)
    records = results.merge(old, [provenance.read(directory) for directory in workdirs], list(VARIANTS))
    pages = {page.stem: page for page in (*sorted((root / "docs").glob("*.md")), *root.glob("README.md"))}
    if measured and not check:
        accelerator.keep(measured, root / "docs/accelerator")
    if times and not check:
        speed.keep(times, root / "docs/speed")
    for page in [lookup(pages, name, "page") for name in only or pages]:
        if "\n<!-- /" in (text := page.read_text()):
            new = fill(text, partial(part, page=page.stem, configs=configs, records=records, docs=root / "docs"))
            stale |= {page: new} if new != text else {}
    names = [str(page.relative_to(root)) for page in stale]
    if check and names:
        raise UserError(f"out of date: {', '.join(names)}; run python scripts/pages.py")
    if records != old and not check:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        draw_best(records, path.with_name("best.png"))
    for page, text in stale.items():
        page.write_text(text)
    return names
