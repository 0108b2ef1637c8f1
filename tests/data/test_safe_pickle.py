"""Honest pickles of every protocol come through; hostile ones do nothing and are named."""

import contextlib
import functools
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from hf_mmalign.data.errors import DataError, UnsafePickleError
from hf_mmalign.data.safe_pickle import load_pickle


@pytest.fixture
def load(tmp_path):
    def call(stream: bytes):
        path = tmp_path / "data.pkl"
        path.write_bytes(stream)
        return load_pickle(path)

    return call


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        if expected.dtype == object:
            assert_equal(list(found.flat), list(expected.flat))
        else:
            np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


HONEST = {
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big endian": np.arange(5, dtype=">f4"),
    "strings": np.array(["one", "zwölf"]),
    "bytes": np.array([b"a", b"bcd"], dtype="S3"),
    "bools": np.array([True, False]),
    "objects": np.array([["a", 1], [None, 2.5]], dtype=object),
    "fortran objects": np.asfortranarray(np.array([["a", 1, "b"], [None, 2.5, "c"]], dtype=object)),
    "nested objects": np.array([np.zeros(2), np.ones(3)], dtype=object),
    "long": np.arange(30_000, dtype=">f8").reshape(100, 300),
    "long fortran": np.asfortranarray(np.arange(30_000, dtype=np.float64).reshape(100, 300)),
    "long strings": np.array(["zwölf"] * 10_000),
    "no string": np.array(["", ""]),
    "empty": np.zeros((0, 3)),
    "no dimension": np.array(3.5),
    "scalars": [np.float32(1.5), np.int64(7), np.bool_(True), np.str_("text")],
    "containers": [{1, 2}, frozenset({3}), (4, [5, {"six": 7}]), bytearray(b"eight"), b"", b"\xff", 9j, None, True],
    "ordered": dict(OrderedDict([(("a", np.int64(1)), [10**4000]), (-0.0, "\ud800")])),
    "nested": functools.reduce(lambda inner, _: [inner], range(90), "deep"),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])
def test_honest_content_of_every_protocol_and_numpy_comes_through(load, protocol, module):
    stream = pickle.dumps(HONEST, protocol=protocol)
    if module == "numpy.core" and protocol < 4:  # text and length-free global names can be replaced as they stand
        stream = stream.replace(b"numpy._core", b"numpy.core")
    assert_equal(load(stream), HONEST)


def test_a_python_2_pickle_comes_through(load):
    """Python 2 stores array data as a byte string and names the module numpy.core."""
    data = np.array([1.5, -2.0]).tobytes()
    stream = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"U"
        + bytes([len(data)])
        + data
        + b"tb."
    )
    np.testing.assert_array_equal(load(stream), [1.5, -2.0])


@settings(max_examples=50, deadline=None)
@given(
    st_np.arrays(
        st.sampled_from(["f2", "f4", "<f8", ">i4", "u1", "?", "U3", "S2"]), st_np.array_shapes(max_dims=3, min_side=0)
    ),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_any_array_comes_through(tmp_path_factory, array, protocol):
    path = tmp_path_factory.mktemp("pickles") / "array.pkl"
    path.write_bytes(pickle.dumps([array, array], protocol=protocol))
    one, other = load_pickle(path)
    assert_equal(one, array)
    assert other is one, "shared arrays stay shared"


def test_the_real_features_of_ravdess(shared_data):
    clips = load_pickle(shared_data / "ravdess" / "au_mfcc.pkl")
    assert len(clips) == 1440
    assert {clip.shape for clip in clips.values()} == {(294,)}
    assert all(clip.dtype == np.float64 and np.isfinite(clip).all() for clip in clips.values())


class Reduce:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "args", "named"),
    [
        (os.system, ("touch {}",), "system"),
        (eval, ("open({!r}, 'w')",), "builtins.eval"),
        (exec, ("open({!r}, 'w')",), "builtins.exec"),
        (getattr, ("text", "system"), "builtins.getattr"),
        (np.load, ("{}",), "numpy.load"),
        (np.zeros, ((10**6,),), "numpy.zeros"),
        (np.memmap, ("{}",), "numpy.memmap"),
        (pickle.loads, (b"",), "_pickle.loads"),
        (type, ("name",), "builtins.type"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_call_is_refused_and_not_made(load, tmp_path, function, args, named, protocol):
    victim = tmp_path / "victim"
    args = tuple(arg.format(str(victim)) if isinstance(arg, str) else arg for arg in args)
    with pytest.raises(UnsafePickleError) as caught:
        load(pickle.dumps({"train": [Reduce(function, *args)]}, protocol=protocol))
    assert not victim.exists()
    assert named.rpartition(".")[2] in str(caught.value)
    assert "data.pkl" in str(caught.value)


def test_a_hostile_call_inside_an_object_array_is_refused(load, tmp_path):
    array = np.array(["harmless", Reduce(os.mkdir, str(tmp_path / "victim"))], dtype=object)
    with pytest.raises(UnsafePickleError, match="mkdir"):
        load(pickle.dumps({"id": array}))
    assert not (tmp_path / "victim").exists()


def test_a_class_by_instance_opcode_is_refused(load):
    with pytest.raises(UnsafePickleError, match=r"subprocess\.Popen"):
        load(b"(S'true'\nisubprocess\nPopen\n.")


def test_a_persistent_id_is_refused(load):
    with pytest.raises(UnsafePickleError, match="outside object"):
        load(b"Pevil\n.")


def test_an_object_array_of_raw_pointers_is_refused(load):
    """numpy itself believes a dtype state whose flags say "no Python objects" and would take bytes for pointers."""
    stream = io.BytesIO()
    stream.write(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K\x01\x85")
    stream.write(b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xff")
    stream.write(b"J\xff\xff\xff\xffK\x00tb\x89C\x08" + struct.pack("<Q", 0x4141414141414141) + b"tb.")
    pickletools.dis(stream.getvalue(), out=io.StringIO())  # well-formed
    with pytest.raises(UnsafePickleError, match="object array"):
        load(stream.getvalue())


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x08\x00\x00\x00__code__K\x01sb.",  # set a function's attribute
        b"\x80\x02cnumpy\nndarray\n.",  # a class as data
        b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x7f\x85R.",  # ndarray((2130706432,))
        b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.",  # bytearray(2130706432)
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R.",  # another codec
    ],
    ids=["function attribute", "class as data", "ndarray call", "bytearray of a size", "codec"],
)
def test_misuse_of_what_is_permitted_is_refused(load, stream):
    with pytest.raises(UnsafePickleError):
        load(stream)


def test_copies_of_copies_do_not_fill_the_memory(load):
    """One stored string of 1 MB, copied by a few bytes of opcodes a hundred thousand times."""
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    copy = b"h\x01h\x00h\x02\x86R"
    stream = (
        b"\x80\x02" + text + b"q\x000c_codecs\nencode\nq\x010X\x06\x00\x00\x00latin1q\x020](" + copy * 100_000 + b"e."
    )
    with pytest.raises(UnsafePickleError, match="copies"):
        load(stream)


def test_an_array_larger_than_its_data_is_refused(load):
    honest = pickle.dumps(np.zeros(4), protocol=2)
    with pytest.raises(DataError, match=r"data\.pkl"):
        load(honest.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"))


def test_shared_parts_stay_shared(load):
    """Rows without a modality often share one array, or one list."""
    missing, row = np.zeros((50, 768)), [0.5] * 100
    loaded = load(pickle.dumps({"text": [missing] * 1000, "labels": [row] * 1000}))
    assert {id(array) for array in loaded["text"]} == {id(loaded["text"][0])}
    assert {id(labels) for labels in loaded["labels"]} == {id(loaded["labels"][0])}
    np.testing.assert_array_equal(loaded["text"][0], missing)


def test_threads_can_read_at_once(tmp_path):
    for index in range(4):
        (tmp_path / f"{index}.pkl").write_bytes(pickle.dumps(np.full(20_000, index)))
    with ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(load_pickle, [tmp_path / f"{index}.pkl" for index in range(4)]))
    assert [set(array.tolist()) for array in arrays] == [{0}, {1}, {2}, {3}]


# The attacks below would take gigabytes, hours, or the process that meets them. So a process of its own meets them, and the
# test fails, rather than hangs, where nothing stops them.
_VICTIM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from hf_mmalign.data import safe_pickle
safe_pickle._BASE_SECONDS = 1
"""


def meet(statements: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", _VICTIM + statements, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def refusal(tmp_path):
    """The message with which a stream is refused."""

    def call(stream: bytes, settings: str = "") -> str:
        path = tmp_path / "data.pkl"
        path.write_bytes(stream)
        met = meet(f"{settings}\ntry: safe_pickle.load_pickle(sys.argv[1])\nexcept ValueError as e: print(e)", path)
        assert met.returncode == 0, met.stderr
        assert met.stdout.startswith(f"{path}: "), f"it was read: {met.stdout}"
        assert len(met.stdout) < 1500
        return met.stdout

    return call


def text_opcode(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def laughs(levels: int) -> list:
    laugh: list = ["ha"] * 10
    for _ in range(levels - 1):
        laugh = [laugh] * 10
    return laugh


def colliding(count: int) -> list[bytes]:
    """Integers that all have the hash 0."""
    return [pickle.dumps((2**61 - 1) * factor, 2)[2:-1] for factor in range(1, count + 1)]


_DOUBLED = b"K\x01" + b"2\x86" * 64  # ((…, …), (…, …)) of 2 ** 64 numbers
_NESTED = b"K\x01" + b"\x85" * 1_000_000

ATTACKS = {
    "deep key": (b"\x80\x02}" + _NESTED + b"Ns.", "crash"),
    "deep element of a set": (b"\x80\x04\x8f(" + _NESTED + b"\x90.", "crash"),
    "deep by shared parts": (b"\x80\x02](K\x01" + b"\x85q\x00h\x00" * 100_000 + b"e.", "deep"),
    "doubled key": (b"\x80\x02}" + _DOUBLED + b"Ns.", "seconds"),
    "doubled element of a set": (b"\x80\x04\x8f(" + _DOUBLED + b"\x90.", "seconds"),
    "doubled value": (b"\x80\x02}N" + _DOUBLED + b"s.", "over and over"),
    "laughs": (pickle.dumps({"train": {"id": laughs(9)}}), "over and over"),
    "laughs as a persistent id": (pickle.dumps(laughs(9), 2)[:-1] + b"Q.", "outside object"),
    "laughs in an object array": (pickle.dumps(np.array([laughs(9), None], dtype=object)), "over and over"),
    "one long string": (b"\x80\x02" + text_opcode("a" * 10**6) + b"q\x00(" + b"h\x00" * 10**5 + b"t.", "over and over"),
    "memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", "512 MB of memory"),
    "memo in text": (b"Np2147483647\n.", "512 MB of memory"),
    "bytes of 1 TB": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".", "memory"),
    "array of 2 ** 31 rows of nothing": (
        pickle.dumps(np.zeros((0, 3)), 2).replace(b"K\x00K\x03\x86", b"K\x00J\xff\xff\xff\x7f\x86"),
        "over and over",
    ),
    "copies of a dict": (
        pickle.dumps(dict.fromkeys(range(10_000)), 2)[:-1]
        + b"q\x00ccollections\nOrderedDict\nq\x01("
        + b"h\x01h\x00\x85R" * 10_000
        + b"t.",
        "copies",
    ),
    "sets of a list": (
        pickle.dumps([1] * 100_000, 2)[:-1] + b"q\x00cbuiltins\nset\nq\x01(" + b"h\x01h\x00\x85R" * 10_000 + b"t.",
        "copies",
    ),
    "slow codec": (
        b"\x80\x02cbuiltins\nbytearray\n" + text_opcode("\u1234" * 400_000) + text_opcode("punycode") + b"\x86R.",
        "punycode",
    ),
    "colliding keys": (b"\x80\x02}(" + b"N".join(colliding(80_000)) + b"Nu.", "seconds"),
    "colliding elements": (b"\x80\x04\x8f(" + b"".join(colliding(80_000)) + b"\x90.", "seconds"),
    "characters that are none": (
        pickle.dumps(np.array(["ab"]), 2).replace(b"a\x00\x00\x00", b"\x7f\x7f\x7f\x7f"),
        "no character",
    ),
}


@pytest.mark.parametrize(("stream", "named"), ATTACKS.values(), ids=ATTACKS)
def test_an_attack_on_memory_and_time_is_refused(refusal, stream, named):
    assert named in refusal(stream)


def test_the_clock_stops_what_the_system_does_not(refusal):
    """Windows limits no processor time."""
    unlimited = "safe_pickle._BASE_SECONDS, safe_pickle._CLOCK_FACTOR = 1000, 0.0005"
    assert "seconds" in refusal(ATTACKS["doubled key"][0], unlimited)


def test_the_command_names_hostile_files(tmp_path):
    names = ("deep key", "laughs", "memo")
    for name in names:
        (tmp_path / f"{name}.pkl").write_bytes(ATTACKS[name][0])
    statements = """
from hf_mmalign.cli.main import main
for path in sys.argv[1:]:
    assert main(["data", "inspect", "multibench", path]) == 2
"""
    paths = [tmp_path / f"{name}.pkl" for name in names]
    met = meet(statements, *paths)
    assert met.returncode == 0, met.stderr
    for path, line in zip(paths, met.stderr.splitlines(), strict=True):
        assert line.startswith(f"hf-mmalign: {path}: ")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_changed_file_is_refused_or_read(tmp_path_factory, data):
    stream = bytearray(pickle.dumps(HONEST["objects"], data.draw(st.sampled_from([0, 2, 4]))))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pickles") / "changed.pkl"
    path.write_bytes(stream)
    with contextlib.suppress(DataError):  # and nothing else
        load_pickle(path)


def test_without_python_the_error_says_so(load, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(DataError, match=r"data\.pkl: Python \('/no/such/python'\) cannot be started"):
        load(pickle.dumps(1))


@pytest.mark.parametrize(
    ("save", "what"),
    [(lambda path: np.savez(path, a=np.zeros(2)), "npz"), (lambda path: np.save(path, np.zeros(2)), "npy")],
    ids=["npz", "npy"],
)
def test_another_format_is_named(tmp_path, save, what):
    path = tmp_path / f"data.{what}"
    save(path)
    with pytest.raises(DataError, match=rf"data\.{what}: a pickle is expected, and this is .*{what}"):
        load_pickle(path)


def test_a_container_in_itself_is_refused(load):
    loop = []
    loop.append(loop)
    with pytest.raises(UnsafePickleError, match="itself"):
        load(pickle.dumps(loop))


def test_bottomless_nesting_is_refused(load):
    with pytest.raises(UnsafePickleError, match="deep"):
        load(b"]" * 100_000 + b"a" * 99_999 + b".")


@pytest.mark.parametrize("stream", [b"", b"no pickle at all", pickle.dumps(HONEST)[:300]], ids=["empty", "text", "cut"])
def test_a_damaged_file_is_named(load, stream):
    with pytest.raises(DataError, match=r"data\.pkl: not a readable pickle"):
        load(stream)
