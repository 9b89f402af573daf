"""A pickle machine for CIFAR's python batches: dict, list, tuple, bytes, str and numbers, and arrays of numbers.

It runs no program and calls nothing that the file names: it knows the few functions by which Python 2 and 3 and all
versions of NumPy write arrays and bytes, in protocols 0 to 5, and refuses everything else.
"""
import codecs
import io
import math
import pickletools
from typing import Any

import numpy as np

OPERATIONS = 2**21  # a batch of CIFAR-100 has 300,000; each can take 100 bytes of memory
OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Named:
    """A function or class by its name, which is never looked up; or a dtype or array, with its value."""

    def __init__(self, name: str, value: Any = None):
        self.name, self.value = name, value


def _expect(value: Any, *types: type) -> Any:
    """Return a value. Raise ValueError if it has none of these types."""
    if not isinstance(value, types):
        raise ValueError(f"it has a {type(value).__name__} where a {types[0].__name__} must be")
    return value


def _number_type(code: str, order: str = "=") -> np.dtype:
    """Return the dtype of a code like 'u1'. Raise ValueError if it is not one of numbers: above all, if of objects."""
    number = np.dtype(code) if len(_expect(code, str)) <= 3 else None
    if number is None or number.kind not in "biuf":
        raise ValueError("an array holds something else than numbers")
    return number.newbyteorder(_expect(order, str))  # pyright: ignore[reportArgumentType]


class _Machine:
    """The stack, marks and memo of one pickle."""

    def __init__(self, data: bytes):
        self.stream, self.stack, self.marks, self.memo = io.BytesIO(data), [], [], {}
        self.letters = len(data)  # that may still be turned into bytes: each once, or a small file becomes gigabytes

    def run(self) -> Any:
        """Return the object that the pickle describes."""
        for _ in range(OPERATIONS):
            opcode = OPCODES[self.stream.read(1)]
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name == "STRING":  # Python 2 writes bytes as text with escapes; pickletools reads only ASCII
                text, _ = codecs.escape_decode(self.stream.readline().strip()[1:-1])
                self.stack.append(text.decode("latin-1"))
                continue
            argument = opcode.arg.reader(self.stream) if opcode.arg else None
            if opcode.arg and opcode.stack_after and opcode.stack_after[0] is not pickletools.anyobject:
                self.stack.append(argument)  # a number, text or bytes
            else:
                self.step(opcode.name, argument)
        raise ValueError(f"it has more than {OPERATIONS:,} operations")

    def since_mark(self) -> list:
        """Remove from the stack, and return, what was put there since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def step(self, name: str, argument: Any) -> None:
        """Do one operation that is more than a value."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(CONSTANTS[name])
            case "MARK":
                self.marks.append(len(stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "EMPTY_LIST" | "LIST":
                stack.append(self.since_mark() if name == "LIST" else [])
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self.since_mark()
                _expect(stack[-1], list).extend(items)
            case "EMPTY_DICT" | "DICT":
                self.update({}, self.since_mark() if name == "DICT" else [])
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self.since_mark()
                self.update(_expect(stack.pop(), dict), items)
            case "GLOBAL" | "STACK_GLOBAL":
                names = argument.split(" ") if argument else [stack.pop(-2), stack.pop()]
                stack.append(_Named(".".join(names).replace("numpy._core", "numpy.core")))
            case "REDUCE":
                arguments, function = _expect(stack.pop(), tuple), _expect(stack.pop(), _Named)
                stack.append(self.call(function.name, arguments))
            case "BUILD":
                state, made = _expect(stack.pop(), tuple), _expect(stack[-1], _Named)
                made.value = self.build(made, state)
            case _:
                raise ValueError(f"it has the operation {name}, which no CIFAR batch needs")

    def update(self, table: dict, items: list) -> None:
        """Put a dict on the stack, with more keys and values in turn."""
        if not all(isinstance(key, str | bytes) for key in items[::2]):  # others may take hours to hash, or crash
            raise ValueError("a key of a dict is not a text")
        table.update(zip(items[::2], items[1::2], strict=True))
        self.stack.append(table)

    def call(self, name: str, arguments: tuple) -> Any:
        """Return the result of one of the functions that batches need."""
        if name == "_codecs.encode" and arguments[1:] == ("latin1",):
            return self.to_bytes(arguments[0])
        if name in ("__builtin__.bytes", "builtins.bytes") and not arguments:
            return b""
        if name == "numpy.dtype":
            return _Named("dtype", _number_type(arguments[0]))
        if name == "numpy.core.multiarray._reconstruct" and _expect(arguments[0], _Named).name == "numpy.ndarray":
            return _Named("array")
        if name == "numpy.core.numeric._frombuffer":
            data, dtype, shape, order = arguments
            return _Named("array", self.array(data, dtype, shape, order == "F"))
        raise ValueError(f"it wants to run {name[:80]}")

    def build(self, made: _Named, state: tuple) -> Any:
        """Return the value of a dtype or array after NumPy's __setstate__."""
        if made.name == "array":
            _, shape, dtype, fortran, data = state
            return self.array(data, dtype, shape, fortran is True or fortran == 1)
        if made.name == "dtype" and state[2:5] == (None, None, None):  # it has no parts
            return _number_type(made.value.str[1:], state[1])
        raise ValueError(f"it sets the state of {made.name[:80]}")

    def to_bytes(self, text: Any) -> bytes:
        self.letters -= len(_expect(text, str))
        if self.letters < 0:
            raise ValueError("it repeats its bytes without end")
        return text.encode("latin-1")

    def array(self, data: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
        """Return an array over these bytes."""
        number = _expect(_expect(dtype, _Named).value, np.dtype)
        data = self.to_bytes(data) if isinstance(data, str) else _expect(data, bytes, bytearray)
        if not all(type(side) is int and side >= 0 for side in _expect(shape, tuple)):
            raise ValueError("the shape of an array is wrong")
        if math.prod(shape) * number.itemsize != len(data):
            raise ValueError(f"an array has {len(data):,} bytes, but its shape and type need another number")
        return np.frombuffer(data, number).reshape(shape, order="F" if fortran else "C")


def loads(data: bytes) -> dict[str, Any]:
    """Return the dict that a batch holds, its keys as text. Raise an exception of any type if it holds none."""
    return {key.decode() if isinstance(key, bytes) else key: value.value if isinstance(value, _Named) else value
            for key, value in _expect(_Machine(data).run(), dict).items()}
