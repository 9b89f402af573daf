"""List the trained networks that come with the package; every script and modern_cnn.load take them as zoo:NAME.

    python scripts/zoo.py --list
    python scripts/zoo.py --card=lenet_relu_bn_fashion_mnist
    python scripts/predict.py --weights=zoo:lenet_relu_bn_fashion_mnist shirt.png

In a checkout, the result of a run becomes a network of the zoo, with the score of what is stored:

    python scripts/zoo.py --add=lenet_bn_digits --workdir=runs/mine --store=float16
"""
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

LIST = flags.DEFINE_bool("list", False, "Print every network with its test accuracy. So does the script without flags.")
JSON = flags.DEFINE_bool("json", False, "Print a JSON list of the cards instead of a table.")
CARD = flags.DEFINE_string("card", None, "Print the card of this network: data, licence, command, score, ...")
ADD = flags.DEFINE_string("add", None, "Add a network under this name: the result of --workdir.")
WORKDIR = flags.DEFINE(cli.Path(), "workdir", None, "With --add: directory of a finished run.")
STORE = flags.DEFINE_enum("store", "float32", ["float32", "float16"], "With --add: how the numbers are stored.")
DATA = flags.DEFINE_string("data", None, "With --add: the data in words, where its name is not enough.")
# By the names of results.data_name.
LICENCES = {"Fashion-MNIST": "MIT (Zalando SE)", "digits": "CC BY 4.0 (UCI, optical recognition of handwritten digits)",
            "CIFAR-10": "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
            "MNIST": "CC BY-SA 3.0 (Y. LeCun, C. Cortes)"}


def add(name: str, directory: str, store: str, data: str | None = None) -> dict[str, Any]:
    """Store the result of a run in the zoo, score what is stored on the test split, and return the card."""
    from modern_cnn import zoo
    from modern_cnn.runs import load, workdir
    from scripts.publish import pages, results

    record, trained = results.read(Path(directory)), load.load_run(directory)
    config, run = workdir.read_run(Path(directory))
    own = config["data"]["source"]
    named, source = record["data"].removesuffix(results.FILES), results.source_of(record)
    if named not in LICENCES:
        raise UserError(f"the licence of {named} is not known: add it to LICENCES in scripts/zoo.py")
    config["data"]["source"] = run["data"]["source"] = run["data"]["origin"] = source  # where anybody has it from
    command = results.command(record, *results.nearest_config(record, pages.read_configs(ROOT)))
    content = {
        "name": name, "network": record["network"], "parameters": record["parameters"],
        "options": {key: value for key, value in config["model"].items() if key != "name" and value is not None},
        "data": data or named, "licence": LICENCES[named], "split": "test",
        "command": f"python scripts/train.py {command} --config.seed={record['seed']}", "seed": record["seed"],
        "commit": record["commit"], "steps": trained.step, "machine": record["machine"],
        "normalize": "(pixels / 255 - mean) / std, for each channel",
        "mean": run["data"]["mean"], "std": run["data"]["std"], "classes": run["data"]["class_names"],
        "digest": run["data"]["digest"], "config": config, "run": run,
    }
    zoo.write(name, trained.variables, content, store)
    score = load.evaluate_workdir(f"zoo:{name}", "test", {"source": own})
    scores = {"accuracy": score["accuracy"], "correct": round(score["accuracy"] * score["count"]),
              "count": score["count"], "loss": score["loss"]}
    zoo.write(name, trained.variables, content | scores, store)
    return zoo.card(name)


def rows(cards: list[dict[str, Any]]) -> list[list[str]]:
    """Return the table of some networks, its heading first."""
    return [["name", "network", "parameters", "data", "test accuracy", "images"],
            *([card["name"], card["network"], f"{card['parameters']:,}", card["data"], f"{card['accuracy']:.2%}",
               f"{card['count']:,}"] for card in cards)]


def main() -> None:
    runtime.configure()
    from modern_cnn import zoo

    if bool(ADD.value) != bool(WORKDIR.value):
        raise UserError("--add=NAME and --workdir=DIR belong together")
    if ADD.value and WORKDIR.value:
        cards = [add(ADD.value, WORKDIR.value, STORE.value, DATA.value)]
    else:
        cards = [zoo.card(name) for name in ([CARD.value] if CARD.value is not None else zoo.names())]
    if JSON.value or CARD.value is not None:
        print(json.dumps(cards if JSON.value else cards[0], indent=1, ensure_ascii=False))
    else:
        print("\n".join(cli.text_table(rows(cards), "llrlrr")))


if __name__ == "__main__":
    cli.run(main)
