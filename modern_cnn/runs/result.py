"""Training from Python: one call, whose result a notebook shows with its curves."""
import dataclasses
import html
import runpy
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from modern_cnn import cli, runtime, settings
from modern_cnn.errors import UserError
from modern_cnn.runs import html_page, load, log, loop


@dataclasses.dataclass(frozen=True)
class Result:
    """A run that has come to its end."""
    workdir: Path
    scores: dict[str, Any]  # as `loop.train_and_evaluate` returns them: 'step', 'test', 'train', ...

    def load(self) -> tuple[Any, dict[str, Any]]:
        """Return (module, variables), as `modern_cnn.load`."""
        return load.load_run(self.workdir)[:2]

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of metrics.jsonl."""
        return log.read_metrics(self.workdir / "metrics.jsonl")

    def __str__(self) -> str:
        rows = [[split, *(f"{name} {value:.4f}" for name, value in scores.items() if name in ("loss", "accuracy"))]
                for split, scores in self.scores.items() if isinstance(scores, dict)]
        return "\n".join([f"{self.workdir}, step {self.scores['step']}", *cli.text_table(rows)])

    def _repr_html_(self) -> str:
        picture = html_page.picture_uri((self.workdir / "curves.png").read_bytes())
        return f'<pre>{html.escape(str(self))}</pre><img src="{picture}">'


def read_config(name: str) -> ConfigDict:
    """Return the config of a file, FILE:VARIANT, or of the name of one of ours: 'lenet:lenet_bn'."""
    file, _, variant = runtime.config_file(name).partition(":")
    if not Path(file).is_file():
        raise UserError(f"there is no config {file!r}; ours are "
                        f"{', '.join(sorted(path.stem for path in (runtime.tree() / 'configs').glob('*.py')))}")
    if str(runtime.tree()) not in sys.path:
        sys.path.append(str(runtime.tree()))  # configs import configs.base
    return runpy.run_path(file)["get_config"](*filter(None, [variant]))


def train(config: str | ConfigDict, workdir: str | Path = "", **overrides: Any) -> Result:
    """Train a config in a workdir, or go on with the run that is there, and return its result.

    Args:
        config: A name as in --config, 'quickstart' or 'configs/lenet.py:lenet_bn', or a ConfigDict, which is copied.
        workdir: By default runs/<config>-<variant>-<time>.
        overrides: Fields of the config: epochs=5, or of a section **{"optimizer.momentum": 0.9}.

    Raise UserError as `loop.train_and_evaluate`, and for a field that the config does not have.
    """
    own: Any = read_config(config) if isinstance(config, str) else config.copy_and_resolve_references()
    name = config if isinstance(config, str) else own.model.name
    for field, value in overrides.items():
        section, last = settings.locate(own, field)
        try:
            section[last] = value
        except TypeError as e:
            raise UserError(f"config.{field}={value!r}: it is a {type(section[last]).__name__}") from e
    directory = Path(workdir or cli.new_workdir(config=name))
    return Result(directory, loop.train_and_evaluate(own, directory))
