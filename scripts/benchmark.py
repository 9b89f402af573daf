"""Times training steps, ours and others' in turn.

    python scripts/benchmark.py --models=lenet,resnet18_cifar --peer=torch --out=steps.json
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime

MODELS = flags.DEFINE_list("models", [], "Networks, with commas between them; by default one of every family.")
PEERS = flags.DEFINE_list("peer", ["torch"], "Whom to compare with, with commas: torch, torch_compile, library.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Images in a batch; 0: the network's own.", lower_bound=0)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Steps of each, in turn.", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "Also write the measurements as JSON, with machine, versions and commit.")


def main():
    runtime.configure(cache=False)  # or what is measured as compilation would be reading a file
    from modern_cnn import benchmarks

    benchmarks.report(MODELS.value, PEERS.value, BATCH_SIZE.value, DTYPE.value, ROUNDS.value, OUT.value)


if __name__ == "__main__":
    cli.run(main)
