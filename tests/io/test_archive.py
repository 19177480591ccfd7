"""Files that may come from anywhere: each is read completely or refused with one sentence."""

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from dials_hybrid.io.archive import read_archive, write_archive

KIND = "test file"
HEADER = {"format": KIND, "numbers": [1, 0.1, None]}
ARRAYS = {
    "double": np.linspace(0.0, 1.0, 12).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(2.5),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.npz"
    write_archive(path, HEADER, ARRAYS)
    return path


def npy(array, **header) -> bytes:
    """An .npy file whose header may lie."""
    stream = io.BytesIO()
    truth = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(stream, {**truth, **header})
    return stream.getvalue() + array.tobytes()


def write_zip(path, compression=zipfile.ZIP_STORED, **entries):
    text = json.dumps({**HEADER, "arrays": list(entries)})
    header = npy(np.frombuffer(text.encode(), np.uint8))
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"header": header, **entries}.items():
            archive.writestr(f"{name}.npy", content)


def assert_refused(path, match="damaged, or not a test file"):
    with pytest.raises(ValueError, match=match) as refusal:
        read_archive(path, KIND)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_everything_comes_back(file):
    header, arrays = read_archive(file, KIND)
    assert header == HEADER
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype and arrays[name].flags.writeable


def test_numpy_reads_it_too(file):
    with np.load(file, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        assert header == {**HEADER, "arrays": list(ARRAYS)}


def test_a_missing_file(tmp_path):
    assert_refused(tmp_path / "none.npz", "cannot read .*: No such file")


def test_a_folder(tmp_path):
    assert_refused(tmp_path, "cannot read .*: Is a directory")


@pytest.mark.parametrize("content", [b"", b"data_quartz\n", b"PK\3\4", pickle.dumps([1, 2]), bytes(1000)])
def test_a_foreign_file(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert_refused(path)


def test_another_kind_of_file(file):
    with pytest.raises(ValueError, match="not a refinement problem"):
        read_archive(file, "refinement problem")


def test_every_truncation_is_refused(file, tmp_path):
    content = file.read_bytes()
    path = tmp_path / "short"
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        assert_refused(path)


def test_a_flipped_bit_is_refused_or_changes_nothing(file, tmp_path):
    content = file.read_bytes()
    path = tmp_path / "flipped"
    generator = random.Random(0)
    refused = 0
    for _ in range(1500):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        try:
            header, arrays = read_archive(path, KIND)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        assert header == HEADER and arrays.keys() == ARRAYS.keys()
        assert all((arrays[name] == array).all() for name, array in ARRAYS.items())
    assert refused > 500


LIES = {
    "larger than the file": npy(np.zeros(3), shape=(10**12,)),
    "smaller than the file": npy(np.zeros(3), shape=(2,)),
    "overflow": npy(np.zeros(3), shape=(2**32, 2**32, 3)),
    "negative": npy(np.zeros(3), shape=(-1, -3)),
    "objects": npy(np.zeros(3), descr="|O"),
    "strings": npy(np.zeros(3), descr="<U2"),
    "structured": npy(np.zeros(3), descr=[("a", "<f8")]),
    "no header": b"\x93NUMPY\1\0\xff\xff{",
    "code in the header": npy(np.zeros(3)).replace(b"(3,)", b"f()  "[:4]),
    "another version": npy(np.zeros(3)).replace(b"NUMPY\1", b"NUMPY\2"),
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_header_of_an_array(tmp_path, lie):
    path = tmp_path / "lie"
    write_zip(path, double=LIES[lie])
    assert_refused(path)


def test_compressed_entries_are_refused_unread(tmp_path):
    path = tmp_path / "bomb"
    write_zip(path, zipfile.ZIP_DEFLATED, double=npy(np.zeros(10**6)))
    assert path.stat().st_size < 10**5
    assert_refused(path)


@pytest.mark.parametrize("text", [b"", b"[", b"[" * 100_000, b"{}", b"3", b"\xff\xfe", b"9" * 10_000])
def test_a_header_that_is_none(tmp_path, text):
    path = tmp_path / "header"
    write_zip(path, header=npy(np.frombuffer(text, np.uint8)))
    assert_refused(path)


def test_objects_are_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    path = tmp_path / "evil.npz"
    np.savez(path, header=np.array([Evil()], dtype=object))
    assert_refused(path)
    assert not (tmp_path / "executed").exists()


def test_no_memory_is_spent_on_claims(tmp_path):
    path = tmp_path / "lie"
    write_zip(path, double=npy(np.zeros(3), shape=(2**40,)))
    code = (
        "import resource, sys\n"
        "from dials_hybrid.io.archive import read_archive\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_archive(sys.argv[1], 'test file')\n"
        "except ValueError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 10_000  # kB
