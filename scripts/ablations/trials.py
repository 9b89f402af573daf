"""The files of an experiment that is not a sweep, as a sweep leaves them."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modern_cnn.runs import workdir


def write_trials(directory: Path, trials: Sequence[tuple[dict[str, Any], dict[str, float]]]) -> None:
    """Write trials, (fields, scores) each, to sweep.json, and the machine to run.json."""
    directory.mkdir(parents=True, exist_ok=True)
    named = {",".join(f"{key}={value}" for key, value in fields.items()):
             {"fields": fields, "result": {"status": "done", **scores}} for fields, scores in trials}
    workdir.write_json(directory / "sweep.json", {"config": {}, "trials": named})
    workdir.write_json(directory / "run.json", workdir.describe_machine())
