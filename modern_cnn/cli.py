"""What every script shares: flags parsed, errors told in one line, log lines that do not tear the progress bar."""
import ast
import logging
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from tqdm import tqdm

from modern_cnn.errors import UserError, did_you_mean


class _Console(logging.Handler):
    """Plain lines on stdout; warnings on stderr, marked."""

    def emit(self, record: logging.LogRecord) -> None:
        loud = record.levelno >= logging.WARNING
        text = record.getMessage()
        stream = sys.stderr if loud else sys.stdout
        tqdm.write(f"{record.levelname.lower()}: {text}" if loud else text, stream)
        stream.flush()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _fail(text: str, code: int) -> None:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


def _unknown_field(argv: list[str]) -> str | None:
    """What is wrong with the first --config.a.b that names a field which the config has not got."""
    words = [part for arg in argv[1:] for part in arg.split("=", 1)]
    path, colon, variant = words[[word.lstrip("-") for word in words].index("config") + 1].partition(":")
    try:
        config = runpy.run_path(path)["get_config"](*([variant] if colon else []))
    except Exception:  # then it is not a field that is wrong
        return None
    for field in (word.lstrip("-") for word in words if re.match(r"--?config\.", word)):
        section, reached = config, "config"
        for part in field.split(".")[1:]:
            if not hasattr(section, "keys") or part not in section:
                return f"{reached} has no field {part!r}{did_you_mean(part, getattr(section, 'keys', list)())}"
            section, reached = section[part], f"{reached}.{part}"
    return None


def _explain(argv: list[str], error: Exception) -> str:
    """A flag error in one line: absl's and ml_collections' own words where ours are not clearer."""
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
    if "Traceback" in text:  # a config file that raised: the last line of its traceback says why
        return _one_line(re.sub(r"^\w+: ", "", text.strip().splitlines()[-1]))
    if "Failed loading config file" in text:
        return "there is no config file " + text.strip().splitlines()[-1].rpartition(": ")[2]
    if isinstance(error, (AttributeError, KeyError)) and (wrong := _unknown_field(argv)):
        return wrong
    if isinstance(error, (flags.Error, ValueError, OSError)):
        return _one_line(error)
    return f"the config file raised {type(error).__name__}: {_one_line(error)}"


def _parse(argv: list[str], positional: bool) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and flags.FLAGS["config"].present:
            _ = flags.FLAGS.config.keys  # a file that is not there is only reported when the config is looked at
    except Exception as e:  # a config file is a program, which can raise anything
        _fail(f"{_explain(argv, e)} (--help lists the flags)", 2)
    if rest[1:] and not positional:
        _fail(f"unexpected argument {rest[1]!r}; flags begin with -- (--help lists them)", 2)
    return rest


def _unraisable(hook) -> None:
    """TensorStore leaves futures of a failed write to the garbage collector, after Orbax closed their event loop."""
    if not (isinstance(hook.exc_value, RuntimeError) and "Event loop is closed" in str(hook.exc_value)):
        sys.__unraisablehook__(hook)


def run(main: Callable[..., None], *, positional: bool = False) -> None:
    """Runs a script's `main` with its flags parsed; where `positional`, what is no flag are its arguments.

    Exit codes: 0 done, 1 bad input or a failed run (one line on stderr), 2 bad flags, 130 and 143 stopped by a signal.
    """
    def guarded(argv):
        sys.unraisablehook = _unraisable
        absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs every step and traceback; what matters is raised
        ours = logging.getLogger("modern_cnn")
        ours.setLevel(logging.INFO)
        ours.propagate = False
        ours.handlers = [_Console()]
        try:
            main(*argv[1:])
        except UserError as e:
            _fail(_one_line(e), 1)
        except KeyboardInterrupt:
            _fail("interrupted", 130)
    app.run(guarded, flags_parser=partial(_parse, positional=positional))


def text_table(rows: Sequence[Sequence[str]], align: str = "") -> list[str]:
    """Return rows of cells as lines of text, each column as wide as its widest cell.

    Args:
      rows: with the same number of cells each.
      align: a letter for each column: 'l' flush left, 'r' flush right; columns beyond its end are flush left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), "l")
    return ["  ".join(cell.rjust(width) if side == "r" else cell.ljust(width)
                      for cell, width, side in zip(row, widths, sides, strict=True)).rstrip() for row in rows]


def network_options(flags_given: Sequence[str]) -> dict[str, Any]:
    """{'width': 0.25} of --option=width=0.25: Python literals, true or false, and text where they are neither.

    Raises:
      UserError: a flag without a name or a value, or one that names the network or its number of classes.
    """
    options = {}
    for given in flags_given:
        name, _, value = given.partition("=")
        if not name or not value or name in ("name", "num_classes"):
            raise UserError(f"--option={given} is not of the form --option=width=0.25, with an option of the network")
        try:
            options[name] = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options
