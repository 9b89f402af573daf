"""What every script shares: flags parsed, errors told in one line, log lines that do not tear the progress bar."""
import logging
import sys
from collections.abc import Callable

from absl import app, flags
from absl import logging as absl_logging
from tqdm import tqdm

from modern_cnn.errors import UserError


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


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError, SyntaxError) as e:
        _fail(f"{_one_line(e)} (--help lists the flags)", 2)
    if rest[1:]:
        _fail(f"unexpected argument {rest[1]!r}; flags begin with -- (--help lists them)", 2)
    return rest


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main` with its flags parsed.

    Exit codes: 0 done, 1 bad input or a failed run (one line on stderr), 2 bad flags, 130 and 143 stopped by a signal.
    """
    def guarded(_):
        absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax tells every file it writes
        ours = logging.getLogger("modern_cnn")
        ours.setLevel(logging.INFO)
        ours.propagate = False
        ours.handlers = [_Console()]
        try:
            main()
        except UserError as e:
            _fail(_one_line(e), 1)
        except KeyboardInterrupt:
            _fail("interrupted", 130)
    app.run(guarded, flags_parser=_parse)
