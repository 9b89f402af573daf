"""Training from Python: one call, whose result a notebook shows with its curves."""
import dataclasses
import html
import inspect
import io
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from modern_cnn import buckets, cli, runtime, settings
from modern_cnn.errors import UserError
from modern_cnn.runs import html_page, load, log, loop, mirror

REDRAW_SECONDS = 2.0  # between two pictures of a run that trains


@dataclasses.dataclass(frozen=True)
class Result:
    """A run that has come to its end."""
    workdir: str | Path
    scores: dict[str, Any]  # as `loop.train_and_evaluate` returns them: 'step', 'test', 'train', ...

    def load(self) -> tuple[Any, dict[str, Any]]:
        """Return (module, variables), as `modern_cnn.load`."""
        return load.load_run(self.workdir)[:2]

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of metrics.jsonl."""
        return log.read_metrics(mirror.local(self.workdir) / "metrics.jsonl")

    def __str__(self) -> str:
        rows = [[split, *(f"{name} {value:.4f}" for name, value in scores.items() if name in ("loss", "accuracy"))]
                for split, scores in self.scores.items() if isinstance(scores, dict)]
        return "\n".join([f"{self.workdir}, step {self.scores['step']}", *cli.text_table(rows)])

    def _repr_html_(self) -> str:
        picture = html_page.picture_uri(buckets.read(self.workdir, "curves.png"))
        return f'<pre>{html.escape(str(self))}</pre><img src="{picture}">'


class LiveCurves:
    """The curves of a run in the cell of a notebook, drawn again while it trains: a `watch` of `loop.fit`."""

    def __init__(self, directory: Path, title: str):
        self._directory, self._title = directory, title
        self._handle, self._size, self._drawn = None, 0, 0.0

    def __call__(self, step: int, state: Any) -> None:
        size, now = (self._directory / "metrics.jsonl").stat().st_size, time.perf_counter()
        if size != self._size and now - self._drawn > REDRAW_SECONDS:
            self._size, self._drawn = size, now
            self.show(log.draw_curves(self._directory, self._title))

    def show(self, path: Path) -> None:
        """Show a PNG file in place of the picture before it, in few colours: notebooks keep their pictures."""
        import PIL.Image
        from IPython.display import Image, display

        small = io.BytesIO()
        with PIL.Image.open(path) as picture:
            picture.convert("RGB").quantize(64).save(small, "PNG", optimize=True)
        if self._handle:
            self._handle.update(Image(small.getvalue()))
        else:
            self._handle = display(Image(small.getvalue()), display_id=True)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def read_config(name: str) -> ConfigDict:
    """Return the config of a file, FILE:VARIANT, or of the name of one of ours: 'lenet:lenet_bn'."""
    file, _, variant = runtime.config_file(name).partition(":")
    if not Path(file).is_file():
        raise UserError(f"there is no config {file!r}; ours are "
                        f"{', '.join(sorted(path.stem for path in (runtime.tree() / 'configs').glob('*.py')))}")
    with runtime.own_configs():
        get_config = runpy.run_path(file)["get_config"]
        if variant and not inspect.signature(get_config).parameters:
            raise UserError(f"{file} has no variants: leave out the colon and what follows it")
        try:
            return get_config(variant) if variant else get_config()
        except ValueError as e:
            raise UserError(f"{file}: {e}") from e


def train(config: str | Path | ConfigDict, workdir: str | Path = "", **overrides: Any) -> Result:
    """Train a config in a workdir, or go on with the run that is there, and return its result.

    In a notebook its curves grow in the cell.

    Args:
        config: A name as in --config, 'quickstart' or 'configs/lenet.py:lenet_bn', or a ConfigDict, which is copied.
        workdir: By default runs/<config>-<variant>-<time>; gs://BUCKET/PATH and s3://BUCKET/PATH are in a bucket.
        overrides: Fields of the config: epochs=5, or of a section **{"optimizer.momentum": 0.9}.

    Raise UserError as `loop.train_and_evaluate`, and for a field that the config does not have.
    """
    named = isinstance(config, (str, Path))
    own: Any = read_config(str(config)) if named else config
    if not isinstance(own, ConfigDict):
        raise UserError(f"the config is a {type(own).__name__}: give a name, such as 'quickstart', or a ConfigDict")
    own = own.copy_and_resolve_references()
    name = str(config) if named else own.model.name
    for field, value in overrides.items():
        section, last = settings.locate(own, field)
        try:
            section[last] = value.item() if getattr(value, "shape", None) == () else value  # numpy.int64(3) is an int
        except TypeError as e:
            raise UserError(f"config.{field}={repr(value)[:100]} is a {type(value).__name__}, and must be a "
                            f"{type(section[last]).__name__}") from e
    directory = workdir or cli.new_workdir(config=name)
    with mirror.opened(directory, settings.read(own).data) as place:
        live = LiveCurves(place.directory, own.model.name) if in_notebook() else None
        scores = loop.train_and_evaluate(own, place.directory, watch=place.watched(live))
        if live:
            live.show(place.directory / "curves.png")
    return Result(buckets.url_of(directory) or Path(directory), scores)
