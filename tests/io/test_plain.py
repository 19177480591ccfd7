from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from dials_hybrid.io.plain import from_plain, to_plain


@dataclass(frozen=True)
class Inner:
    numbers: np.ndarray
    name: str


@dataclass(frozen=True)
class Other:
    value: float


@dataclass(frozen=True)
class Outer:
    tensor: Tensor
    inner: tuple[Inner | Other, ...]
    count: int
    limit: float | None
    pairs: list[tuple[str, float]]
    reasons: dict[str, int] = field(default_factory=dict)
    added_later: bool = False


def example() -> Outer:
    return Outer(
        tensor=torch.arange(6.0).reshape(2, 3),
        inner=(Inner(np.array([1, 2]), "a"), Other(0.1 + 0.2)),
        count=3,
        limit=None,
        pairs=[("x", 1e-300), ("y", float("nan"))],
        reasons={"too weak": 4},
    )


def read_back(value, change=lambda tree: None):
    arrays = {}
    tree = json.loads(json.dumps(to_plain(value, arrays, "example")))
    change(tree)
    return from_plain(tree, arrays, type(value))


def test_everything_comes_back():
    value, back = example(), read_back(example())
    assert type(back) is Outer
    assert torch.equal(back.tensor, value.tensor)
    np.testing.assert_array_equal(back.inner[0].numbers, value.inner[0].numbers)
    assert back.inner[0].name == "a" and back.inner[1] == value.inner[1]
    assert (back.count, back.limit, back.reasons) == (3, None, {"too weak": 4})
    assert back.pairs[0] == ("x", 1e-300) and np.isnan(back.pairs[1][1])


def test_a_field_that_an_older_file_lacks_has_its_default():
    assert read_back(example(), lambda tree: tree["fields"].pop("added_later")).added_later is False


@pytest.mark.parametrize(
    "name, content",
    [
        ("count", 1.5),
        ("count", True),
        ("limit", "high"),
        ("tensor", {"array": "example.tensor"}),
        ("tensor", {"tensor": "nothing"}),
        ("inner", {"tuple": [1]}),
        ("inner", {"tuple": [{"type": "Outer", "fields": {}}]}),
        ("inner", {"tuple": [{"type": "Popen", "fields": {"args": "true"}}]}),
        ("pairs", [{"tuple": ["x"]}]),
        ("reasons", {"dict": {"too weak": "many"}}),
        ("reasons", {"set": [1]}),
        ("unheard_of", 1),
    ],
)
def test_what_does_not_fit_is_refused(name, content):
    with pytest.raises((ValueError, TypeError, LookupError)):
        read_back(example(), lambda tree: tree["fields"].update({name: content}))


def test_another_class_than_asked_for_is_refused():
    arrays = {}
    tree = to_plain(example().inner[0], arrays, "inner")
    with pytest.raises(TypeError, match="no Outer"):
        from_plain(tree, arrays, Outer)


def test_what_is_not_plain_is_not_written():
    with pytest.raises(TypeError, match="example.value: object"):
        to_plain(Other(object()), {}, "example")
