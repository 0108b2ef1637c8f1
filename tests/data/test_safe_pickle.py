"""Honest pickles of every protocol come through; hostile ones do nothing and are named."""

import io
import os
import pickle
import pickletools
import struct

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
    "empty": np.zeros((0, 3)),
    "no dimension": np.array(3.5),
    "scalars": [np.float32(1.5), np.int64(7), np.bool_(True), np.str_("text")],
    "containers": [{1, 2}, frozenset({3}), (4, [5, {"six": 7}]), bytearray(b"eight"), b"", b"\xff", 9j, None, True],
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
