"""The learning curves of a run as a picture."""
from pathlib import Path

from modern_cnn.runs.log import read_metrics


def plain(text: str) -> str:
    """Return a text as matplotlib draws it letter by letter: dollars begin no formula, bytes that are no text show."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def draw_curves(workdir: Path, title: str) -> Path:
    """Draw curves.png from metrics.jsonl and return its path: loss (log scale) and accuracy by epoch, of each split."""
    from matplotlib.figure import Figure

    records = read_metrics(workdir / "metrics.jsonl")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, field, label in zip(axes, ("loss", "accuracy"), ("cross-entropy (nats)", "accuracy"), strict=True):
        for split, color in (("train", "tab:gray"), ("validation", "tab:orange"), ("test", "tab:blue")):
            chosen = [record for record in records if record["split"] == split]
            if chosen:
                axis.plot([r["epoch"] for r in chosen], [r[field] for r in chosen], color=color, label=split,
                          marker="o" if len(chosen) < 20 else None, markersize=3, linewidth=1.3)
        axis.set(xlabel="epoch", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].legend(loc="lower right")
    figure.suptitle(plain(title))
    path = workdir / "curves.png"
    figure.savefig(path, dpi=120)
    return path
