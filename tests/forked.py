"""What runs in processes that the fixture `script` forks: this module is imported in each, and so imports little."""
import contextlib
import os
import runpy
import sys
from collections import namedtuple

Result = namedtuple("Result", "code out err")


def run_script(argv: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run a script in a child process as `python argv` would, with its output in files."""
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = argv
    with contextlib.closing(sys.stdout):
        runpy.run_path(argv[0], run_name="__main__")
