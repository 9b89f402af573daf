"""The command line of all scripts: flags, errors in one line, tables, and a log that spares the progress bar."""
import ast
import atexit
import contextlib
import logging
import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, NoReturn, TextIO

from absl import app, flags
from ml_collections import config_flags
from tqdm import tqdm

from modern_cnn import buckets, runtime, settings
from modern_cnn.errors import UserError, lack_of_memory


class _Console(logging.Handler):
    """A log handler: plain lines on stdout, warnings with their level on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        loud = record.levelno >= logging.WARNING
        stream = sys.stderr if loud else sys.stdout
        try:
            tqdm.write(f"{record.levelname.lower()}: {record.getMessage()}" if loud else record.getMessage(), stream)
            stream.flush()
        except OSError:  # nobody reads any more, which is no reason to end a run
            _mute(stream)


def _mute(stream: TextIO) -> None:
    """Let a stream that cannot be written any more write to nowhere, what it holds back as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(text: object, code: int) -> NoReturn:
    try:
        print("error:", *str(text).split(), file=sys.stderr, flush=True)  # on one line
    except OSError:
        _mute(sys.stderr)
    if code == 1:  # the run failed: what TensorStore could not write may hang the last garbage collection of Python
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Open what the caller closed of stdin, stdout and stderr, let the last two write any text, and end in quiet."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:  # else the next file would take that number
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process
        getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as e:
        _mute(sys.stdout)
        if isinstance(e, BrokenPipeError):  # what reads stdout has ended
            sys.exit(141)  # 128 + SIGPIPE, which Windows does not have
        _fail(f"cannot read or write {e.filename or 'the output'}: {e.strerror}", 1)


def _given_config(argv: list[str]) -> Any:
    """Return the config that --config names, without overrides; None where the flag is not given."""
    words = [part for arg in argv[1:] for part in arg.split("=", 1)]
    names = [word.lstrip("-") for word in words]
    return flags.FLAGS["config"].parser.parse(words[names.index("config") + 1]) if "config" in names else None


def _help_fields(config: Any) -> str:
    """Return what --help says of the fields of a config: name, value in this config, meaning."""
    if config is None:
        return "\n--config=FILE --help lists the fields of the config FILE, and docs/config.md all of them."
    meanings = {name: field.meaning for name, field in settings.FIELDS.items()}
    rows = [[f"--config.{name}", str(value), meanings.get(name, "an option of the network")]
            for name, value in settings.flatten(config).items()]
    return "\n".join(["\nfields of this config, their values and meanings:", *text_table(rows)])


def _unknown_field(argv: list[str]) -> str | None:
    """Return the error of the first --config.a.b that the config does not have, or None if it has all."""
    words = [part for arg in argv[1:] for part in arg.split("=", 1)]
    try:
        config = _given_config(argv)
        for word in words:
            if re.match(r"--?config\.", word):
                settings.locate(config, word.lstrip("-").removeprefix("config."))
    except UserError as e:
        return str(e)
    except Exception:  # the file is wrong, not a field
        return None


def _explain(argv: list[str], error: Exception) -> str:
    """Return what a flag error means, in the words of absl or ml_collections if they are clear enough."""
    text = str(error)
    if missing := re.match(r"flag --(\w+)=None", text):
        return f"--{missing[1]} is missing"
    if wrong := re.match(r"flag --(config\.[\w.]+)=(.*?): ", text, re.DOTALL):
        if "ConfigDict" in text:
            return f"{wrong[1]} is a section: set its fields one by one, --{wrong[1]}.FIELD=value"
        kind = flags.FLAGS[wrong[1]].parser.flag_type() if wrong[1] in flags.FLAGS else "value of its type"
        return f"{wrong[1]}={wrong[2]} is not a valid {kind}"
    if "takes 0 positional arguments" in text:
        return "this config has no variants: leave out the colon and what follows it"
    if "Traceback" in text:  # the config file raised; the last line of its traceback says why
        return re.sub(r"^\w+: ", "", text.strip().splitlines()[-1])
    if "Failed loading config file" in text:
        return "there is no config file " + text.strip().splitlines()[-1].rpartition(": ")[2]
    if isinstance(error, (AttributeError, KeyError)) and (wrong := _unknown_field(argv)):
        return wrong
    if isinstance(error, (flags.Error, ValueError, OSError)):
        return text
    return f"the config file raised {type(error).__name__}: {error}"


def find_configs(argv: Sequence[str]) -> list[str]:
    """Return arguments with the file of a config where its name is given: --config=lenet:lenet_bn."""
    found: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if equals and flag in ("--config", "-config"):
            word = f"{flag}={runtime.config_file(value)}"
        elif found and found[-1] in ("--config", "-config"):
            word = runtime.config_file(word)
        found.append(word)
    return found


def _parse(argv: list[str], positional: bool) -> list[str]:
    argv = find_configs(argv)
    try:
        try:
            with runtime.own_configs():
                rest = flags.FLAGS(argv)
        except SystemExit:  # of --help, which has printed the flags
            if "config" in flags.FLAGS:
                print(_help_fields(_given_config(argv)))
            raise
        if "config" in flags.FLAGS and flags.FLAGS["config"].present:
            _ = flags.FLAGS.config.keys  # a missing file is reported only when the config is read
    except Exception as e:  # a config file is a program and can raise anything
        _fail(f"{_explain(argv, e)} (--help lists the flags)", 2)
    if rest[1:] and not positional:
        _fail(f"unexpected argument {rest[1]!r}; flags begin with -- (--help lists them)", 2)
    return rest


def _unraisable(hook: Any) -> None:
    """Report an error in a finaliser, but not those of TensorStore's futures, which outlive Orbax's event loop."""
    if not (isinstance(hook.exc_value, RuntimeError) and "Event loop is closed" in str(hook.exc_value)):
        sys.__unraisablehook__(hook)


def run(main: Callable[..., None], *, positional: bool = False) -> None:
    """Run the `main` of a script with its flags parsed, and with `positional` on the arguments that are not flags.

    Exit codes: 0 done, 1 bad input or a failed run (one line on stderr), 2 bad flags, 128 + number stopped by a signal:
    129 SIGHUP, 130 SIGINT, 141 SIGPIPE (what reads the output has ended), 143 SIGTERM.
    """
    def guarded(argv: Sequence[str]) -> None:
        sys.unraisablehook = _unraisable
        ours = logging.getLogger("modern_cnn")
        ours.setLevel(logging.INFO)
        ours.propagate = False
        ours.handlers = [_Console()]
        try:
            main(*argv[1:])
        except UserError as e:
            _fail(e, 1)
        except Exception as e:
            if lack := lack_of_memory(e):
                _fail(f"out of memory ({lack}): make the batch or the images smaller (config.accumulate goes through "
                      "the batch of a training step in parts)", 1)
            raise

    def interrupt(number: int, _: Any) -> NoReturn:
        interrupted.append(number)  # an import may turn the exception into another
        raise KeyboardInterrupt

    interrupted: list[int] = []
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    with _streams():
        try:
            app.run(guarded, flags_parser=partial(_parse, positional=positional))
        except (Exception, KeyboardInterrupt) as e:
            if interrupted or isinstance(e, KeyboardInterrupt):
                _fail("interrupted", 130)
            raise


def text_table(rows: Sequence[Sequence[str]], align: str = "") -> list[str]:
    """Return rows of cells as lines of text in columns, flush left, or right where `align` has an 'r' for a column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), "l")
    return ["  ".join(cell.rjust(width) if side == "r" else cell.ljust(width)
                      for cell, width, side in zip(row, widths, sides, strict=True)).rstrip() for row in rows]


class Path(flags.ArgumentParser):
    """The type of flags that are a path, with `~` as the user's home: flags.DEFINE(cli.Path(), ...)."""

    def parse(self, argument: str) -> str:
        found = os.path.expanduser(argument)
        if not argument.strip():
            raise UserError("it is empty; is a shell variable unset?")
        if "://" in argument:
            raise UserError("addresses do not work here, only folders and files: mount the bucket, or copy it")
        if found.startswith("~"):
            raise UserError(f"there is no such home; a file of that name is ./{argument}")
        return found


class Workdir(Path):
    """The type of flags that are a run's directory: a path, or a folder in a bucket, gs://... or s3://..."""

    def parse(self, argument: str) -> str:
        if url := buckets.url_of(argument):
            return url
        if "://" in argument:
            raise UserError("of addresses only gs://BUCKET/PATH and s3://BUCKET/PATH work here; mount other stores")
        return super().parse(argument)


class Number(flags.FloatParser):
    """The type of flags that are a number from `lower_bound` to `upper_bound`, which NaN is not."""

    def is_outside_bounds(self, val: float) -> bool:
        return super().is_outside_bounds(val) or val != val


class Numbers(flags.ArgumentParser):
    """The type of flags that are whole numbers with commas between them, of at least `low`."""

    def __init__(self, low: int = 0):
        self.low = low

    def parse(self, argument: str | list[int]) -> list[int]:
        words = argument.split(",") if isinstance(argument, str) else map(str, argument)
        numbers = [int(word) if re.fullmatch("[0-9]{1,9}", word) else -1 for word in words]
        if any(number < self.low for number in numbers):
            raise UserError(f"it must be whole numbers from {self.low} to 999999999, with commas between them")
        return numbers


def new_workdir(prefix: str = "", config: str = "") -> str:
    """Make runs/<prefix>-<config>-<variant>-<time>, named after a config FILE:VARIANT, by default --config.

    Commands of the same second get names of their own. A directory that is still empty at the end is removed.
    """
    file, _, variant = (config or config_flags.get_config_filename(flags.FLAGS["config"])).partition(":")
    name = "-".join(filter(None, [prefix, PurePath(file).stem, variant, time.strftime("%Y%m%d-%H%M%S")]))
    directory, number = pathlib.Path("runs", name), 1
    try:
        directory.parent.mkdir(exist_ok=True)
        while True:
            try:
                directory.mkdir()
                break
            except FileExistsError:
                number += 1
                directory = directory.with_name(f"{name}-{number}")
    except OSError as e:
        raise UserError(f"cannot make {directory}: {e.strerror}; choose a --workdir") from e
    atexit.register(_remove_if_empty, directory.absolute())
    return str(directory)


def _remove_if_empty(directory: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


flags.disclaim_key_flags()  # a flag that is defined here is the script's own, and stands in its --help


def define_trained(required: bool = False) -> flags.FlagHolder[Any]:
    """Define --workdir, and its other name --weights, of a script that reads a trained network."""
    holder = flags.DEFINE(Workdir(), "workdir", None, "Directory of a trained or imported run, also in a bucket, "
                          "gs://BUCKET/PATH or s3://BUCKET/PATH; or a stored network: zoo:NAME comes with the package "
                          "(scripts/zoo.py lists them), hub:USER/NAME is on the Hub of Hugging Face, and a folder may "
                          "hold one.", required=required)
    flags.DEFINE_alias("weights", "workdir")
    return holder


def network_options(given: Sequence[str]) -> dict[str, Any]:
    """Return {'width': 0.25} of --option=width=0.25: Python literals, true, false or text. Raise UserError if wrong."""
    options = {}
    for option in given:
        name, _, value = option.partition("=")
        if not name or not value or name in ("name", "num_classes"):
            raise UserError(f"--option={option} is not of the form --option=width=0.25, with an option of the network")
        try:
            options[name] = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options
