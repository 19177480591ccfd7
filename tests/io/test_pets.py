from __future__ import annotations

import math

import numpy as np
import pytest
from pets_files import CELL, WAVELENGTH, Frame, PetsFile, excitation, three_frames

from dials_hybrid.io.pets import read_pets, usable_reflections

SELECTION = {"rsg": 1.0, "dsg": 0.0, "d_min": None, "d_max": None}


@pytest.fixture
def write(tmp_path):
    def write(file: PetsFile | str, name="made.cif_pets", **options):
        path = tmp_path / name
        text = file if isinstance(file, str) else file.text()
        path.write_text(text, encoding="latin-1", newline=options.get("newline"))
        return path

    return write


@pytest.fixture
def read(write):
    def read(file, **options):
        return read_pets(write(file, **options))

    return read


def assert_same(found, expected):
    assert found.names == expected.names
    for name in ("basis", "angle", "semi_angle", "rotation_axis"):
        np.testing.assert_array_equal(getattr(found.frames, name), getattr(expected.frames, name))
    for name in ("hkl", "intensity", "sigma", "frame"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


# ----------------------------------------------------------------------------------- geometry


def test_orientation_is_that_of_the_angles(read):
    data = read(PetsFile())
    assert data.cell == CELL and data.wavelength == WAVELENGTH
    assert data.names == ("1", "2", "3")
    for frame, basis in zip(three_frames(), data.frames.basis, strict=True):
        np.testing.assert_allclose(basis, frame.basis(), atol=1e-8)
    np.testing.assert_array_equal(data.frames.semi_angle, [1.0, 1.0, 1.5])
    np.testing.assert_array_equal(data.frames.beam, [0.0, 0.0, -1.0])


@pytest.mark.parametrize(
    ("omega", "axis", "azimuth"),
    [
        (0.3, "rotation axis position:    0.484", 0.484),
        (0.3, "tilt axis position: -12.5", -12.5),
        (0.3, "Rotation  Axis Position : 0.484 ", 0.484),
        (0.3, "", 0.3),
        (0.3, "rotation axis position: unknown", 0.3),
        (0.0, "rotation axis position: 0.484", 0.0),  # the angles are not turned by it either
    ],
)
def test_azimuth_of_the_rotation_axis(read, omega, axis, azimuth):
    data = read(PetsFile([Frame("1", -2.0, 0.1, omega)], axis=axis))
    expected = math.cos(math.radians(azimuth)), math.sin(math.radians(azimuth)), 0.0
    np.testing.assert_allclose(data.frames.rotation_axis, expected, atol=1e-12)


def test_reflections_that_cross_the_ewald_sphere_are_kept(read):
    """The list has those whose S_g changes sign between the ends of the rotation, found by brute force."""
    file = PetsFile([Frame(f.name, f.alpha, f.beta, 0.0, f.semi_angle) for f in three_frames()])
    data = read(file)
    reflections, rows = usable_reflections(data, **SELECTION)
    assert len(reflections) > 60
    assert len(data) - len(reflections) <= 2  # D_g neglects the curvature of the path
    assert sum(rows.counts.values()) == len(data) - len(reflections)
    frame, h = reflections.frame[7], reflections.hkl[7]
    s_g, _ = data.frames.excitation(np.array([frame]), h[None], WAVELENGTH)
    assert s_g[0] == pytest.approx(excitation(file.frames[frame].basis() @ h), abs=1e-6)


def test_selection_by_distance_from_the_ends_of_the_rotation(read):
    data = read(PetsFile([Frame("1", -2.0, 0.1)]))
    basis = Frame("1", -2.0, 0.1).basis()

    def kept(rsg, dsg):
        found = usable_reflections(data, **{**SELECTION, "rsg": rsg, "dsg": dsg})[0]
        return {tuple(h) for h in found.hkl.tolist()}

    def expected(rsg, dsg):
        result = set()
        for h in data.hkl.tolist():
            r = basis @ h
            swept = abs(r[1]) * math.sin(math.radians(1.0))
            if abs(excitation(r)) < rsg * swept and swept - abs(excitation(r)) > dsg:
                result.add(tuple(h))
        return result

    for rsg, dsg in ((0.9, 0.0), (0.5, 0.0), (1.0, 0.002), (0.66, 0.0015)):
        assert kept(rsg, dsg) == expected(rsg, dsg)
    assert len(kept(0.5, 0.0)) < len(kept(0.9, 0.0)) < len(data)


def test_precession(read):
    data = read(PetsFile([Frame("1", -2.0, 0.1)], geometry="precession"))
    assert data.frames.precession
    r = data.frames.basis[0] @ data.hkl.T
    _, swept = data.frames.excitation(data.frame, data.hkl, WAVELENGTH)
    np.testing.assert_allclose(swept, np.hypot(r[0], r[1]) * math.sin(math.radians(1.0)))


def test_intensities_of_whole_rocking_curves_are_listed_again(read):
    rows = PetsFile().reflections()
    assert read(PetsFile()).whole_curves  # the same in every frame
    each = [(*row[:3], row[3] + 0.1 * int(row[5]), *row[4:]) for row in rows]
    assert not read(PetsFile(rows=each)).whole_curves
    once = [row for row in rows if row[5] == "1"]
    assert not read(PetsFile(rows=once)).whole_curves  # nothing tells


# ------------------------------------------------------------------------- ways to write a file


@pytest.mark.parametrize("newline", ["\r", "\r\n"])
def test_line_ends(read, newline):
    assert_same(read(PetsFile(), newline=newline), read(PetsFile()))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# made by hand\n\n  # and again\n" + text,
        lambda text: text.replace("loop_", "# comment\nLOOP_"),
        lambda text: text.replace("_diffrn_zone_axis_alpha", "_Diffrn_Zone_Axis_ALPHA"),
        lambda text: text.replace("\n1 ", "\n  1.0 ").replace(" 2\n", " 02\n"),
        lambda text: text.replace("data_pets\n", "_author 'O. O'Neill'\n"),
        lambda text: text.replace("5.00000\n", "5.00000(12)\n"),
        lambda text: text.replace("\n1 ", "\n'1' "),
        lambda text: text + "#END",
    ],
)
def test_ways_to_write_the_same(read, change):
    text = PetsFile().text()
    assert change(text) != text
    assert_same(read(change(text)), read(text))


def test_frames_are_ordered_by_scan_angle(read):
    data = read(PetsFile(three_frames()[::-1], rows=[(1, 0, 2, 1.0, 1.0, "3"), (1, 0, 3, 1.0, 1.0, "1")]))
    assert data.names == ("1", "2", "3")
    assert data.frame.tolist() == [2, 0]


def test_gaps_between_frames_and_frames_without_reflections(read):
    frames = [Frame("4", 0.0), Frame("9", 30.0), Frame("10", 30.5)]
    rows = PetsFile([frames[0]]).reflections()
    data = read(PetsFile(frames, rows=rows))
    reflections, _ = usable_reflections(data, **SELECTION)
    assert set(reflections.frame.tolist()) == {0}
    assert data.frames.range == pytest.approx(32.5)


# ------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"items": {"_cell_length_b": ""}}, "no number _cell_length_b"),
        ({"items": {"_cell_length_b": "?"}}, "no number _cell_length_b"),
        ({"items": {"_cell_length_b": "8.0"}}, "its cell 5.000 8.000 7.000"),
        ({"items": {"_diffrn_orient_matrix_UB_22": "nan"}}, "no number _diffrn_orient_matrix_ub_22"),
        ({"items": {"_diffrn_radiation_wavelength": "0"}}, "wavelength of 0 A"),
        ({"items": {"_diffrn_radiation_wavelength": "1.54"}}, "wavelength of 1.54 A"),
        ({"frames": []}, "list of frames is empty"),
        ({"frames": [Frame("1", 0.0), Frame("1", 1.0)]}, "a frame twice"),
        ({"frames": [Frame("1", 0.0, semi_angle=0.0)]}, "frame 1 has a semi-angle of 0 degree"),
        ({"rows": []}, "no reflections"),
        ({"rows": [(1, 0.5, 2, 1.0, 1.0, "1")]}, "reflection 1 of its list"),
        ({"rows": [(1, 0, 2, 1.0, 1.0, "1"), (1, 0, "?", 1.0, 1.0, "1")]}, "reflection 2 of its list"),
        ({"rows": [(1, 0, 2, 1.0, 1.0)]}, "ends inside row 1"),
        ({"geometry": "static"}, "'static', neither rotation nor precession"),
        ({"items": {"_diffrn_orient_matrix_UB_11": "0.2"}}, "away from the beam|has the axes"),
    ],
)
def test_faults_are_one_sentence_with_the_file(read, change, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        read(PetsFile(**change))
    assert "made.cif_pets" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no virtual frames"),
        ("data_a\n_cell_length_a 5\n", "no virtual frames"),
        ("data_a\n;text\n_cell_length_a 5\n", "text that begins in line 2 has no end"),
        ("data_a\nloop_\nloop_\n_a\n1\n", "loop has no data names"),
        ("data_a\n_cell_length_a", "_cell_length_a, which has no value"),
        ("\x89PNG\r\n\x1a\n\x00\x00", "not a CIF"),
    ],
)
def test_what_is_not_such_a_file(read, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(text)


def test_a_missing_file_and_a_missing_column(read, tmp_path):
    with pytest.raises(ValueError, match="cannot read .*nowhere.cif_pets: No such file"):
        read_pets(tmp_path / "nowhere.cif_pets")
    with pytest.raises(ValueError, match="no column _refln_intensity_sigma"):
        read(PetsFile().text().replace("_refln_intensity_sigma", "_refln_other"))


def test_two_data_sets_in_one_file(read):
    text = PetsFile().text()
    with pytest.raises(ValueError, match="2 data blocks"):
        read(text + text)


def test_truncated_files_are_sentences_or_whole(write):
    """However a file is cut off, it is read or refused in one sentence."""
    text = PetsFile(rows=[(1, 0, 2, 11.0, 12.0, "1"), (1, 1, -3, 13.0, 14.0, "2")]).text()
    refused = 0
    for length in range(0, len(text), 7):
        path = write(text[:length])
        try:
            usable_reflections(read_pets(path), **SELECTION)
        except ValueError as error:
            assert path.name in str(error)
            refused += 1
    assert refused > 0.95 * len(range(0, len(text), 7))


def test_damaged_files_are_sentences_or_whole(write):
    generator = np.random.default_rng(1)
    text = PetsFile(rows=[(1, 0, 2, 11.0, 12.0, "1")] * 3).text()
    for _ in range(300):
        letters = list(text)
        for place in generator.integers(0, len(text), 3):
            letters[place] = generator.choice(list(";'\"#_ \n-x?9."))
        path = write("".join(letters))
        try:
            usable_reflections(read_pets(path), **SELECTION)
        except ValueError as error:
            assert path.name in str(error)


# ------------------------------------------------------------------------------------- bad rows


def test_every_row_is_used_or_counted(read):
    good = PetsFile().reflections()
    bad = [
        (1, 0, 2, 1.0, 1.0, "77"),
        (0, 0, 0, 1.0, 1.0, "1"),
        (1, 0, 2, "nan", 1.0, "1"),
        (1, 0, 3, "?", 1.0, "1"),
        (1, 0, 4, 1.0, 0.0, "1"),
        (1, 0, 5, 1.0, -2.0, "1"),
        (*good[0][:3], 7.0, 7.0, good[0][5]),
    ]
    data = read(PetsFile(rows=[*good, *bad]))
    reflections, rows = usable_reflections(data, **SELECTION)
    rows.counts.pop("not crossing the Ewald sphere well inside the frame", None)
    assert rows.counts == {
        "of a frame that is not listed": 1,
        "not indexed": 1,
        "intensity is not a number": 2,
        "sigma is not positive": 2,
        "listed before in the same frame": 1,
    }
    assert reflections.row.max() < len(good)
    np.testing.assert_array_equal(reflections.intensity, [good[i][3] for i in reflections.row])


def test_chosen_frames_and_resolution(read):
    data = read(PetsFile())
    reflections, rows = usable_reflections(data, **{**SELECTION, "frames": frozenset({"2"})})
    assert set(reflections.frame.tolist()) == {1}
    reflections, rows = usable_reflections(data, **{**SELECTION, "d_min": 2.0, "d_max": 3.0})
    d = 1.0 / np.linalg.norm(reflections.hkl / np.array(CELL[:3]), axis=1)
    assert ((d > 1.99) & (d < 3.01)).all()
    assert rows.counts["beyond d_min"] and rows.counts["beyond d_max"]
    with pytest.raises(ValueError, match="no reflection is left of .*made.cif_pets: .* beyond d_min"):
        usable_reflections(data, **{**SELECTION, "d_min": 50.0})
