"""What scripts/accelerator.sh measured, as tables: the JSON files are kept in docs/accelerator/."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modern_cnn.errors import UserError
from modern_cnn.runs import workdir
from modern_cnn.sweeps.report import markdown_table

EXACTNESS, STEPS = "exactness.json", ("steps.json", "steps_cifar.json")
NOBODY = "No accelerator is measured yet."


def keep(measured: Path, folder: Path) -> None:
    """Copy the JSON files of an output folder of scripts/accelerator.sh. Raise UserError if it has none."""
    found = [path for path in (measured / name for name in (EXACTNESS, *STEPS)) if path.exists()]
    if not found:
        raise UserError(f"{measured} has none of {EXACTNESS}, {', '.join(STEPS)}: scripts/accelerator.sh writes them")
    folder.mkdir(exist_ok=True)
    for path in found:
        workdir.write_json(folder / path.name, workdir.read_json(path))


def _made(content: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {content['versions'][name]}" for name in ("jax", "torch")
                         if name in content["versions"])
    return f"{content['device_count']} x {content['device']}, {versions}, commit {content['commit']}."


def steps(folder: Path) -> str:
    """Return the tables of the steps' times, from the files that are in the folder."""
    tables = []
    for content in (workdir.read_json(folder / name) for name in STEPS if (folder / name).exists()):
        lines = [["training step", "who", "ms a step", "images/s", "of the matrix rate", "ready after, s",
                  "memory, MiB", "ours is"]]
        for found in content["results"]:
            share, memory = found["matrix_share"], found["memory_bytes"]
            size = "x".join(map(str, found["image_shape"]))
            lines.append([f"`{found['model']}`, batch {found['batch_size']}, {size}, {found['dtype']}", found["who"],
                          f"{found['median_ms']:.1f}", f"{found['images_per_second']:,.0f}",
                          "" if share is None else f"{100 * share:.1f} %", f"{found['ready_s']:.1f}",
                          "" if memory is None else f"{memory / 2**20:,.0f}", f"{found['ours_is_faster']:.2f}x"])
        tables.append(f"{markdown_table(lines)}\n{_made(content)}")
    return "\n\n".join(tables) or NOBODY


def exactness(folder: Path) -> str:
    """Return the table of the largest errors against PyTorch's float64, relative to the largest number."""
    if not (folder / EXACTNESS).exists():
        return NOBODY
    content = workdir.read_json(folder / EXACTNESS)
    errors: dict[str, dict[str, float]] = {}
    for found in content["results"]:
        errors.setdefault(found["what"], {})[found["precision"]] = found["error"]
    names = list(dict.fromkeys(found["precision"] for found in content["results"]))
    lines = [["layer or network", *names]]
    lines += [[what, *(f"{row[name]:.1e}" if name in row else "" for name in names)] for what, row in errors.items()]
    return f"{markdown_table(lines)}\n{_made(content)}"
