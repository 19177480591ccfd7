"""CIF text is read as iotbx reads it; what is no CIF, or half of one, gets a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from dials_hybrid.io.cif_text import number, numbers, read_blocks

TEXT = """# a comment
data_one
_cell_length_A   4.9130(5)   # behind a value
_name 'it''s quoted'
_other "with # no comment"
_text
;first line
 second 'line'
;
loop_
_atom.label
_atom.x
Si1 0.47
'O 1' ?
_after_the_loop .
data_two
_cell_length_a 7
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "some.cif"
        path.write_bytes(text.encode("latin-1"))
        return path

    return write


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_items_loops_and_texts(file, line_end):
    one, two = read_blocks(file(TEXT.replace("\n", line_end)))
    assert (one.name, two.name) == ("one", "two")
    assert one.items == {
        "_cell_length_a": "4.9130(5)",
        "_name": "it''s quoted",
        "_other": "with # no comment",
        "_text": "first line\n second 'line'",
        "_after_the_loop": ".",
    }
    assert one.loops == [{"_atom.label": ["Si1", "O 1"], "_atom.x": ["0.47", "?"]}]
    assert one.loop("_atom.x") is one.loops[0] and one.loop("_atom.y") is None
    assert two.items == {"_cell_length_a": "7"}


def test_as_iotbx_reads_it(file):
    cif = pytest.importorskip("iotbx.cif")
    path = file(TEXT.replace("'it''s quoted'", "'it is'"))  # iotbx is stricter about quotes
    own = read_blocks(path)
    for block in own:
        reference = cif.reader(file_path=str(path)).model()[block.name]
        for name, value in block.items.items():
            assert reference[name].strip() == value
        for loop in block.loops:
            assert all(list(reference[name]) == values for name, values in loop.items())


def test_a_quoted_word_is_no_name_and_no_keyword(file):
    (block,) = read_blocks(file("data_x\n_a '_b'\n_c 'loop_'\nloop_\n_d\n'data_y'\n"))
    assert block.items == {"_a": "_b", "_c": "loop_"}
    assert block.loops == [{"_d": ["data_y"]}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data_x\nloop_\n_a\n_b\n1 2 3\n", "the loop of _a ends inside row 2: is the file complete"),
        ("data_x\n_a\n", "it ends after _a, which has no value"),
        ("data_x\n_a\n;text\n", "the text that begins in line 3 has no end"),
        ("hello world\n", "'hello' has no name: this is not a CIF"),
        ("data_x\nloop_\n1 2\n", "a loop has no data names"),
    ],
)
def test_what_is_wrong_is_said(file, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_blocks(file(text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*nope.cif: No such file"):
        read_blocks(tmp_path / "nope.cif")


NUMBERS = {"4.913(5)": 4.913, "-1.5e2": -150.0, ".": None, "?": None, "x": None, None: None}


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_numbers(text, value):
    assert number(text) == value


def test_columns_of_numbers():
    assert numbers(["1", "2.5"]).tolist() == [1.0, 2.5]
    np.testing.assert_array_equal(numbers(["1(2)", "?", "3"]), [1.0, np.nan, 3.0])
