"""List the trained networks that come with the package, and share others on the Hugging Face Hub or as folders.

    python scripts/zoo.py --list
    python scripts/zoo.py --card=lenet_relu_bn_fashion_mnist
    python scripts/predict.py --weights=zoo:lenet_relu_bn_fashion_mnist shirt.png
    python scripts/zoo.py --workdir=runs/mine --push=USER/NAME
    python scripts/zoo.py --workdir=runs/mine --out=shared

In a checkout, the result of a run becomes a network of the package, with the score of what is stored:

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
ADD = flags.DEFINE_string("add", None, "Add the result of --workdir to the package, under this name.")
PUSH = flags.DEFINE_string("push", "", "Upload the network of --workdir to this repository of the Hub: USER/NAME, or "
                           "USER/NAME@BRANCH. The token is that of `hf auth login`, or HF_TOKEN.")
OUT = flags.DEFINE(cli.Path(), "out", None, "Write the network of --workdir into this folder, as --push uploads it.")
WORKDIR = flags.DEFINE(cli.Path(), "workdir", None, "With --add, --push or --out: directory of a finished run; for the "
                       "last two also zoo:NAME, hub:USER/NAME, or the folder of a stored network.")
flags.DEFINE_alias("weights", "workdir")
STORE = flags.DEFINE_enum("store", "float32", ["float32", "float16"], "How the numbers of a run are stored.")
DATA = flags.DEFINE_string("data", "", "The data in words, where its name is not enough.")


def add(name: str, directory: str, store: str, data: str = "") -> dict[str, Any]:
    """Store the result of a run in the package, score what is stored on the test split, and return the card."""
    from modern_cnn import zoo
    from modern_cnn.reuse import share
    from modern_cnn.runs import load, workdir

    own = workdir.read_run(Path(directory))[0]["data"]["source"]
    content, variables = {"name": name} | share.describe(Path(directory), data), load.load_run(directory).variables
    if content["licence"] == share.UNKNOWN.text:
        raise UserError(f"the licence of {content['data']} is not known: add it to LICENCES in "
                        "modern_cnn/reuse/share.py")
    files = zoo.FOLDER / f"{name}.safetensors", zoo.FOLDER / f"{name}.json"
    zoo.write(*files, variables, content, store)
    score = load.evaluate_workdir(f"zoo:{name}", "test", {"source": own})
    scores = {"accuracy": score["accuracy"], "correct": round(score["accuracy"] * score["count"]),
              "count": score["count"], "loss": score["loss"]}
    zoo.write(*files, variables, content | scores, store)
    return zoo.card(name)


def rows(cards: list[dict[str, Any]]) -> list[list[str]]:
    """Return the table of some networks, its heading first."""
    return [["name", "network", "parameters", "data", "test accuracy", "images"],
            *([card["name"], card["network"], f"{card['parameters']:,}", card["data"],
               f"{100 * card['accuracy']:.2f} %", f"{card['count']:,}"] for card in cards)]


def main() -> None:
    runtime.configure()
    from modern_cnn import zoo

    shares = bool(PUSH.value or OUT.value)
    if bool(WORKDIR.value) != (shares or bool(ADD.value)) or (shares and ADD.value):
        raise UserError("--workdir=DIR belongs to --add=NAME, or to --push=USER/NAME, --out=FOLDER or both")
    if WORKDIR.value and shares:
        from modern_cnn.reuse import share

        print(share.push(WORKDIR.value, PUSH.value, OUT.value or "", STORE.value, DATA.value))
        return
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
