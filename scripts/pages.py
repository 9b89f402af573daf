"""Writes what the pages of docs/ show of the code and of runs: pictures of blocks, tables of networks and results.

    python scripts/pages.py
    python scripts/pages.py --runs=runs/lenet-0,runs/lenet-1
    python scripts/pages.py --check

Runs are added to docs/results.jsonl, one line a run; a new one takes the place of an old one with the same settings,
data and seed. --check writes nothing and fails where a file is not what this would write.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime

RUNS = flags.DEFINE_list("runs", [], "Workdirs of finished runs, whose results are added to the tables.")
CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail where a file is out of date.")
ONLY = flags.DEFINE_list("only", [], "These pages alone: --only=lenet,vgg.")


def main():
    runtime.configure()
    from scripts.publish import pages

    written = pages.update(ROOT, [Path(run) for run in RUNS.value], CHECK.value, ONLY.value)
    print("\n".join(written) or "nothing to do")


if __name__ == "__main__":
    cli.run(main)
