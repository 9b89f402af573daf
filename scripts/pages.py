"""Write the generated parts of docs/: pictures of blocks, and tables of networks, fields and results.

    python scripts/pages.py
    python scripts/pages.py --runs=runs/lenet-0,runs/lenet-1
    python scripts/pages.py --accelerator=runs/accelerator
    python scripts/pages.py --speed=steps.json,evaluation.json
    python scripts/pages.py --check

A run that --runs adds to docs/results.jsonl replaces an old one with the same settings, data and seed.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

RUNS = flags.DEFINE_list("runs", [], "Workdirs of finished runs to add to the tables.")
ACCELERATOR = flags.DEFINE(cli.Path(), "accelerator", None, "The folder that scripts/accelerator.sh wrote: its JSON is "
                           "kept in docs/accelerator and shown in docs/speed.md.")
SPEED = flags.DEFINE_list("speed", [], "Files that scripts/benchmark.py --out wrote, of steps or evaluations: they are "
                          "kept in docs/speed, one for each processor, and shown in docs/speed.md.")
CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail where a file is out of date.")
ONLY = flags.DEFINE_list("only", [], "Only these pages: --only=lenet,vgg.")


def main():
    runtime.configure()
    if not (ROOT / "docs").is_dir():
        raise UserError(f"the pages are in a checkout of the project: {ROOT} has no docs/")
    from scripts.publish import pages

    written = pages.update(ROOT, [Path(cli.Path().parse(run)) for run in RUNS.value], CHECK.value, ONLY.value,
                           Path(ACCELERATOR.value) if ACCELERATOR.value else None,
                           [Path(cli.Path().parse(file)) for file in SPEED.value])
    print("\n".join(written) or "nothing to do")


if __name__ == "__main__":
    cli.run(main)
