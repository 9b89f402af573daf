"""What scripts/benchmark.py measured of steps and evaluations, as tables: its JSON files are kept in docs/speed/."""
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modern_cnn.errors import UserError
from modern_cnn.runs import workdir
from modern_cnn.sweeps.report import markdown_table

PEERS = {"torch": "PyTorch", "torch_kept": "PyTorch, memory kept", "torch_compile": "compiled",
         "library": "stock Flax", "ours_system": "ours, memory not kept"}  # who -> heading
WORDS = {"step": "training step", "evaluation": "forward pass"}


def _processor(content: dict[str, Any]) -> str:
    """Return '2 cores of AMD EPYC, AVX2' of 'Linux x86_64, 2 cores of AMD EPYC, AVX2'."""
    return content["machine"].partition(", ")[2]


def keep(files: Sequence[Path], folder: Path) -> None:
    """Copy JSON files of benchmark.py, each under the name of its phase and processor: one of a kind is kept.

    Raise UserError if one does not hold the times of steps or evaluations on CPUs.
    """
    for path in files:
        content = workdir.read_json(path)
        records = content.get("results", []) if isinstance(content, dict) else []
        phases, dtypes = ({record.get(name) for record in records} for name in ("phase", "dtype"))
        if len(phases) != 1 or not phases <= {*WORDS}:
            raise UserError(f"{path} holds no times of steps or evaluations: write it with scripts/benchmark.py --out")
        if content.get("platform") != "cpu":
            raise UserError(f"{path} was measured on {content.get('device')}: --speed is for CPUs, --accelerator for "
                            "the folder of scripts/accelerator.sh")
        if dtypes != {"float32"}:
            raise UserError(f"{path} has times in {', '.join(map(str, dtypes))}: the tables are of float32")
        folder.mkdir(exist_ok=True)
        name = f"{phases.pop()}-{re.sub(r'[^a-z0-9]+', '-', _processor(content).lower())}.json"
        workdir.write_json(folder / name, content)


def _measured(folder: Path, phase: str) -> list[dict[str, Any]]:
    return [workdir.read_json(path) for path in sorted(folder.glob(f"{phase}-*.json"))]


def _ratio(record: dict[str, Any]) -> str:
    low, high = record["ours_is_faster_range"]
    return f"{record['ours_is_faster']:.2f}x ({low:.2f} to {high:.2f})"


def tables(folder: Path, phase: str) -> str:
    """Return a table for each processor: our time, and each peer's with the ratio to ours."""
    found = []
    for content in _measured(folder, phase):
        rows: dict[str, dict[str, Any]] = {}
        for record in content["results"]:
            size = "x".join(map(str, record["image_shape"]))
            rows.setdefault(f"`{record['model']}`, batch {record['batch_size']}, {size}", {})[record["who"]] = record
        peers = {who: heading for who, heading in PEERS.items() if any(who in row for row in rows.values())}
        lines = [[WORDS[phase], "ours, ms", "images/s", *(cell for heading in peers.values()
                                                          for cell in (f"{heading}, ms", "ours is"))]]
        for name, row in rows.items():
            cells = [cell for who in peers for cell in (
                (f"{row[who]['median_ms']:,.1f}", _ratio(row[who])) if who in row else ("", ""))]
            lines.append([name, f"{row['ours']['median_ms']:,.1f}", f"{row['ours']['images_per_second']:,.0f}", *cells])
        versions = ", ".join(f"{name} {content['versions'][name]}" for name in ("jax", "torch")
                             if name in content["versions"])
        found.append(f"**{_processor(content)}**, {content['results'][0]['dtype']}, {versions}, commit "
                     f"{content['commit']}, {content['results'][0]['rounds']} rounds of each; allocator: "
                     f"{content['allocator']}.\n\n{markdown_table(lines)}")
    return "\n".join(found) or "Nothing is measured yet."


def sentence(folder: Path) -> str:
    """Return what the README says of a training step: the least and the greatest ratio on each processor."""
    parts = []
    for content in _measured(folder, "step"):
        ratios = {who: [record["ours_is_faster"] for record in content["results"] if record["who"] == who]
                  for who in PEERS}
        said = [f"{min(values):.2f} to {max(values):.2f} times as fast as {whose}" for who, whose in (
            ("torch", "PyTorch's"), ("torch_kept", "PyTorch's with its memory kept"),
            ("library", "stock Flax's")) if (values := ratios[who])]
        count = len({record["model"] for record in content["results"]})
        listed = " and ".join(filter(None, (", ".join(said[:-1]), *said[-1:])))
        if said:
            parts.append(f"On {_processor(content)}, a training step is {listed} ({count} network{'s' * (count > 1)}).")
    return textwrap.fill(" ".join(parts), 120, break_on_hyphens=False)
