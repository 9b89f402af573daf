"""The pickle machine: all that Python writes of plain data and arrays, and nothing that calls, crashes or swells."""
import pickle
import pickletools

import numpy as np
import pytest

from modern_cnn.data import unpickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
LATIN = "c_codecs\nencode\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4", "?"])
def test_arrays_of_numbers(protocol, dtype):
    array = np.random.RandomState(0).randint(0, 2, (7, 12)).astype(dtype)
    for kind in (array, np.asfortranarray(array), array[:, ::3], np.zeros((0, 3), dtype)):
        found = unpickle.loads(pickle.dumps({b"a": kind, "b": kind}, protocol))
        for name in ("a", "b"):
            assert found[name].dtype == kind.dtype
            np.testing.assert_array_equal(found[name], kind)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data(protocol):
    plain = {"labels": [1, 2, 300, -5, 2**40, -2**70], "filenames": [b"a", "\u00e9\n\U0001f600", b"\xff\n'\\"],
             "none": None, "tuple": (1, 2.5, True, False, ()), "empty": b"", "deep": {"a": [[], {}, (1,), (1, 2)]}}
    assert unpickle.loads(pickle.dumps(plain, protocol)) == plain


def test_python_2():
    """What Python 2 wrote of {'data': array, 'labels': [0, 1]} with protocols 0 and 2, and NumPy of its time."""
    old = ("(dp0\nS'data'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6"
           "\nRp7\n(I1\n(I2\nI3\ntp8\ncnumpy\ndtype\np9\n(S'u1'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\nI-1\n"
           "I0\ntp14\nbI00\nS'\\x00\\x01\\xff\\n\\'\\\\'\np15\ntp16\nbsS'labels'\np17\n(lp18\nI0\naI1\nas.")
    new = (b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U"
           b"\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff"
           b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\xff\n'\\tbU\x06labels](K\x00K\x01eu.")
    for data in (old.encode(), new):
        found = unpickle.loads(data)
        np.testing.assert_array_equal(found["data"], np.array([[0, 1, 255], [10, 39, 92]], np.uint8))
        assert found["labels"] == [0, 1]


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


OBJECTS = Call(np.ndarray, (4,), Call(np.dtype, "O"), b"\x40\x42\x42\x42\0\0\0\0" * 4)


@pytest.mark.parametrize("value", [
    Call(eval, "1 + 1"), Call(open, "owned", "w"), OBJECTS, np.array([None]), np.zeros(2, [("a", "u1"), ("b", "O")]),
    np.array(["a"]), np.zeros(1, "M8[s]"), np.zeros(2, complex), Call(np.dtype, "u1,O"), Call(np.dtype, [("a", "O")]),
    Call(np.zeros, 2**40), Call(bytes, 2**40), Call(bytearray, 2**40), np.float64(1), {(1, 2): 3}, {1: 2}, {1, 2},
])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_no_plain_data_is_refused(value, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=r"it wants to run|something else than numbers|sets the state|must be|"
                                        r"not a text|no CIFAR batch needs|unpack"):
        unpickle.loads(pickle.dumps({"data": value}, protocol))
    assert not list(tmp_path.iterdir())


def array_of(shape, dtype="(Vu1\nI0\nI1\ntR", state="", data="C\x04abcd"):
    return (f"}}Va\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR(I1\n{shape}cnumpy\ndtype\n"
            f"{dtype}{state}I00\n{data}tbs.").encode("latin-1")


def test_the_hand_written_array_is_one():
    assert unpickle.loads(array_of("(I2\nI2\nt"))["a"].tolist() == [[97, 98], [99, 100]]


@pytest.mark.parametrize("data", [
    array_of("(I2\nI3\nt"), array_of("(I-2\nI-2\nt"), array_of(f"(I{2**62}\nI4\nt"), array_of("(F4\nt"),
    array_of("I4\n"),
    array_of("(I4\nt", "(VO\nI0\nI1\ntR"), array_of("(I4\nt", state="(I3\nV|\nV(\nNNI-1\nI-1\nI0\ntb"),
    array_of("(I4\nt", "(N(NtR"), array_of("(I4\nt", data="]"),
    array_of("(I4\nt", state="(I3\nV?\nNNNtb"),
], ids=["too few", "negative", "wraps", "float side", "no tuple", "objects", "parts", "no code", "a list", "no order"])
def test_arrays_that_are_none(data):
    with pytest.raises((ValueError, IndexError)):
        unpickle.loads(data)


def test_a_pickle_does_not_swell():
    """600 bytes or a megabyte that other machines turn into gigabytes, hours or a crash."""
    text = "X\xff\xff\x00\x00" + "a" * 0xffff
    bombs = [
        b"}Va\nr\xff\xff\xff\xff.",  # memo 4294967295, which is fine where the memo is a dict
        f"}}Va\n{text}q\0".encode() + b"(" + (LATIN + "(h\0Vlatin1\ntR").encode() * 20_000 + b"lsu.",
        b"}" + b"]" * 3_000_000 + b".",
        b"}(" + b"".join(b"c_codecs\nencode\n(Va\nVbz2\ntR" for _ in range(9)) + b"u.",
        b"(" * 1000 + b"]q\0" + b"(h\0h\0lq\0" * 64 + b"}h\0h\0s.",  # a key of 2**64 parts
        b"(tq\0" + b"(h\0tq\0" * 100_000 + b"}h\0Nsh\0.",  # a key 100,000 deep, which crashes when hashed
        b"(lq\0" + b"(h\0h\0lq\0" * 64 + b"h\0h\0\x93.",  # a name of 2**64 parts
        b"\x8b\xff\xff\xff\x7f.", b"\x8e" + b"\xff" * 8 + b".", b"I" + b"9" * 10_000 + b"\n.", b"", b".", b"}", b"(",
        b"t",
    ]
    for bomb in bombs:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any
            unpickle.loads(bomb)
        assert len(str(caught.value)) < 200
        assert not isinstance(caught.value, MemoryError | RecursionError), bomb[:50]


@pytest.mark.parametrize("name", ["INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID",
                                  "NEXT_BUFFER", "READONLY_BUFFER", "FROZENSET", "ADDITEMS", "EMPTY_SET", "DUP", "POP"])
def test_operations_that_no_batch_needs(name):
    code = next(opcode.code for opcode in pickletools.opcodes if opcode.name == name)
    with pytest.raises(ValueError, match=f"operation {name}, which no CIFAR batch needs"):
        unpickle.loads(b"}(" + code.encode("latin-1") + b"a\na\n\0\0\0\0.")
