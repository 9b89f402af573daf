"""A program in a process of its own, as its user runs it: with its own threads and its own setting of the allocator."""
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from modern_cnn import runtime
from modern_cnn.errors import UserError
from scripts.bench.timing import Case, Runner, clock


def _serve(connection: Connection, make: Callable[[Case], Runner], case: Case, keep: bool) -> None:
    """Send the program that is ready, then the milliseconds of one run for each number of runs that is asked for."""
    runtime.configure(cache=False, keep=keep)
    try:
        runner = make(case)
    except UserError as e:
        connection.send(e)
        return
    connection.send((runner.ready_s, runner.memory))
    while True:
        connection.send(clock(runner.run, connection.recv()))


def _receive(connection: Connection, who: str) -> Any:
    """Return what the process of `who` sends; raise UserError if that is one, or if the process has ended."""
    try:
        received = connection.recv()
    except EOFError:
        raise UserError(f"the process of {who} ended: what it printed is above; was its memory enough?") from None
    if isinstance(received, UserError):
        raise received
    return received


@contextlib.contextmanager
def apart(who: str, make: Callable[[Case], Runner], case: Case, keep: bool) -> Iterator[Runner]:
    """Give the program that `make` makes of a case in a new process, which ends with the context.

    `keep`: it keeps its memory as our scripts do (`runtime.keep_memory`). Raise UserError if it cannot be made.
    """
    context = multiprocessing.get_context("spawn")
    connection, other = context.Pipe()
    process = context.Process(target=_serve, args=(other, make, case, keep), daemon=True)
    process.start()
    other.close()
    try:
        ready_s, memory = _receive(connection, who)

        def turn(count: int) -> float:
            connection.send(count)
            return _receive(connection, who)

        yield Runner(lambda: turn(1), ready_s, None, memory, turn)
    finally:
        process.terminate()
        process.join()
