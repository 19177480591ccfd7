"""Files of DIALS are read as DIALS does it, and hostile ones not at all."""

from __future__ import annotations

import json
import pickle

import pytest

pytest.importorskip("dials.array_family.flex")

from fuzz.msgpack import pack, unpack
from simulated_experiments import experiments

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory

from dials_hybrid.io.dials_files import checked_readers, read_experiments, read_table


class Evil:
    """Leaves a file when it is unpickled."""

    def __reduce__(self):
        return open, ("executed", "w")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def table():
    table = flex.reflection_table()
    table["id"] = flex.int([0, 0, 0])
    table["miller_index"] = flex.miller_index([(1, 0, 0), (0, -2, 0), (0, 0, 3)])
    table["xyzcal.px"] = flex.vec3_double([(1.0, 2.0, 3.0)] * 3)
    table["intensity.sum.value"] = flex.double([1.0, -2.5, 1e300])
    table["flags"] = flex.size_t([1, 2, 2**31 - 1])
    table["entering"] = flex.bool([True, False, True])
    table["bbox"] = flex.int6([(0, 1, 2, 3, 4, 5)] * 3)
    table.experiment_identifiers()[0] = "first"
    return table


def spoilt(table, change) -> None:
    tree = unpack(bytes(table.as_msgpack()))
    change({name: value for name, value in tree.items[2].pairs}, tree)
    with open("bad.refl", "wb") as file:
        file.write(pack(tree))


def column(name):
    return lambda header: next(pair[1] for pair in header["data"].pairs if pair[0] == name)


def test_a_table_is_the_same_as_dials_reads_it(here, table):
    table.as_file("good.refl")
    found = read_table("good.refl")
    assert set(found.keys()) == set(table.keys())
    for name in table.keys():
        assert list(found[name]) == list(table[name])
    assert dict(found.experiment_identifiers()) == {0: "first"}


def test_real_tables(quartz_dials):
    name = str(quartz_dials / "scaled.refl")
    found, expected = read_table(name), flex.reflection_table.from_file(name)
    assert set(found.keys()) == set(expected.keys()) and len(found) == len(expected)
    assert dict(found.experiment_identifiers()) == dict(expected.experiment_identifiers())
    assert list(found["intensity.sum.value"]) == list(expected["intensity.sum.value"])


def test_shoeboxes_and_strings_are_left_out(here, table):
    """DIALS writes strings as memory addresses, and follows them when it reads the file."""
    table["shoebox"] = flex.shoebox(flex.size_t(3), table["bbox"], allocate=True)
    table["name"] = flex.std_string(3, "x")
    table.as_file("good.refl")
    assert not {"shoebox", "name"} & set(read_table("good.refl").keys())


LIES = {
    "rows": lambda header, tree: tree.items[2].pairs[1].__setitem__(1, 10**9),
    "values": lambda header, tree: column("flags")(header).items[1].items.__setitem__(0, 10**9),
    "bytes": lambda header, tree: setattr(column("id")(header).items[1].items[1], "claimed", 2**31),
    "columns": lambda header, tree: setattr(header["data"], "claimed", 2**32 - 1),
    "a bool that is none": lambda header, tree: setattr(
        column("entering")(header).items[1].items[1], "content", b"\1\2\0"
    ),
    "another type": lambda header, tree: column("id")(header).items.__setitem__(0, "double"),
    "depth": lambda header, tree: tree.items.__setitem__(2, b"\x91" * 10**6),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_table_that_lies(here, table, lie):
    spoilt(table, LIES[lie])
    with pytest.raises(ValueError, match=r"^bad\.refl is damaged, or not a reflection table \(.*\)$"):
        read_table("bad.refl")


@pytest.mark.parametrize("protocol", range(5))
def test_no_pickle_is_read(here, protocol):
    with open("evil.refl", "wb") as file:
        file.write(pickle.dumps(Evil(), protocol=protocol))
    with pytest.raises(
        ValueError, match="evil.refl is not a reflection table of DIALS; pickled ones, of old"
    ):
        read_table("evil.refl")
    with pytest.raises(ValueError, match="cannot read experiments from evil.refl"):
        read_experiments("evil.refl")
    with checked_readers(), pytest.raises(ValueError):
        flex.reflection_table.from_file("evil.refl")
    assert not (here / "executed").exists()


@pytest.mark.parametrize("name", ["evil.refl", "evil.pickle", "model.cif", "anything", "evil.cif_pets"])
@pytest.mark.parametrize("parameter", ["", "input.reflections=", "input.experiments="])
def test_no_program_unpickles_an_argument(here, name, parameter):
    from dials_hybrid.command_line.hybrid_refine import run as refine
    from dials_hybrid.command_line.hybrid_simulate import run as simulate

    (here / name).write_bytes(pickle.dumps(Evil()))
    for run in (refine, simulate):
        with pytest.raises(SystemExit) as end:
            run([f"{parameter}{name}"])
        assert end.value.code
    assert not (here / "executed").exists()


def test_readers_are_put_back(here, table):
    before = flex.reflection_table.from_file, ExperimentListFactory.from_json_file
    with checked_readers():
        assert flex.reflection_table.from_file is read_table
    assert (flex.reflection_table.from_file, ExperimentListFactory.from_json_file) == before


def test_experiments_are_the_same_as_dials_reads_them(here):
    experiments().as_file("good.expt")
    found = read_experiments("good.expt")
    (expected,) = ExperimentList.from_file("good.expt", check_format=False)
    assert (found[0].crystal, found[0].scan, found[0].beam) == (
        expected.crystal,
        expected.scan,
        expected.beam,
    )


def images(first, last):
    return lambda content: content["scan"][0].__setitem__("image_range", [first, last])


HOSTILE = {
    "many images": (images(1, 10**9), "a scan of images 1 to 1000000000"),
    "no images": (images(5, 1), "a scan of images 5 to 1"),
    "another file": (lambda content: content["experiment"][0].update(scan="x.json"), "in another file"),
    "a matrix of words": (
        lambda content: content["crystal"][0].update(real_space_a=["x", 0, 0]),
        "damaged, or no experiment list",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_experiments_that_are_hostile(here, case):
    change, expected = HOSTILE[case]
    content = experiments().to_dict()
    change(content)
    (here / "bad.expt").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"cannot read experiments from bad\.expt: .*{expected}") as refusal:
        read_experiments("bad.expt")
    assert len(str(refusal.value)) < 400 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[" * 10**5, "{}", "[]", "3", '{"__id__": "ExperimentList"}', "\0\xff"])
def test_text_that_is_no_experiment_list(here, text):
    (here / "bad.expt").write_text(text)
    with pytest.raises(ValueError, match=r"cannot read experiments from bad\.expt: "):
        read_experiments("bad.expt")


@pytest.mark.parametrize("read", [read_experiments, read_table])
def test_a_missing_file(here, read):
    with pytest.raises(ValueError, match="cannot read .* from none: No such file"):
        read("none")
