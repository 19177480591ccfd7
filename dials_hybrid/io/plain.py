"""Dataclasses of arrays, numbers, strings and each other as a JSON tree and arrays, and back.

A class needs no code of its own for this: fields added to one are written and read like the others.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

_PLAIN = (NoneType, bool, int, float, str)


def to_plain(value, arrays: dict[str, np.ndarray], name: str):
    """`value` as JSON tree; its arrays are put into `arrays`, under names that begin with `name`."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor):
        arrays[name] = value.detach().cpu().numpy()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, (tuple, list)):
        items = [to_plain(item, arrays, f"{name}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        return {"dict": {str(key): to_plain(item, arrays, f"{name}.{key}") for key, item in value.items()}}
    if is_dataclass(value):
        content = {
            item.name: to_plain(getattr(value, item.name), arrays, f"{name}.{item.name}")
            for item in fields(value)
        }
        return {"type": type(value).__name__, "fields": content}
    raise TypeError(f"{name}: {type(value).__name__} cannot be written")


def from_plain(tree, arrays: dict[str, np.ndarray], root: type):
    """The inverse of `to_plain` for an instance of the dataclass `root`.

    No other classes are made than those that its fields are declared to hold.

    Raises:
        ValueError, TypeError, LookupError: the tree is none.
    """
    result = _Reader(arrays, root).value(tree)
    if type(result) is not root:
        raise TypeError(f"no {root.__name__}")
    return result


class _Reader:
    def __init__(self, arrays: dict[str, np.ndarray], root: type):
        self.arrays = arrays
        self.types = {cls.__name__: cls for cls in _dataclasses(root, set())}

    def value(self, tree):
        if isinstance(tree, _PLAIN):
            return tree
        if isinstance(tree, list):
            return [self.value(item) for item in tree]
        if "type" in tree:
            return self.instance(self.types[tree["type"]], tree["fields"])
        ((kind, content),) = tree.items()
        if kind == "tuple":
            return tuple(self.value(item) for item in content)
        if kind == "dict":
            return {key: self.value(item) for key, item in content.items()}
        if kind == "tensor":
            return torch.as_tensor(self.arrays[content])
        if kind == "array":
            return self.arrays[content]
        raise ValueError(f"unknown kind {kind}")

    def instance(self, cls: type, content: dict):
        result = cls(**{name: self.value(item) for name, item in content.items()})
        for name, hint in get_type_hints(cls).items():
            if not _fits(getattr(result, name), hint):
                raise TypeError(f"{cls.__name__}.{name} is no {hint}")
        return result


def _dataclasses(hint, found: set[type]) -> set[type]:
    """The dataclasses that a type hint names, those of their fields included."""
    if isinstance(hint, type) and is_dataclass(hint):
        if hint not in found:
            found.add(hint)
            for item in get_type_hints(hint).values():
                _dataclasses(item, found)
    for item in get_args(hint):
        _dataclasses(item, found)
    return found


def _fits(value, hint) -> bool:
    """Whether a value read has the declared type, as far as that can be told from it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return isinstance(value, origin) and all(_fits(item, args[0]) for item in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(args) and all(map(_fits, value, args))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, args[1]) for item in value.values())
    if hint in (bool, str, NoneType, Tensor, np.ndarray, dict, list) or is_dataclass(hint):
        return isinstance(value, hint)
    return True
