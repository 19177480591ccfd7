"""Checkpoints and results as JSON: readable, exact for floating-point numbers, never executable."""

from __future__ import annotations

import json
import math
from pathlib import Path

from dials_hybrid.io.atomic import atomic_write


def write_json(filename: str | Path, content: dict) -> None:
    """Write `content`, completely or not at all; numbers that are not finite become null.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(filename) as path:
        path.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_checkpoint(filename: str | Path) -> dict:
    """The content of a checkpoint.

    Raises:
        ValueError: the file is missing or is not a checkpoint.
    """
    path = Path(filename)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a checkpoint of dials.hybrid_refine") from error
    if not isinstance(content, dict) or content.get("format") != "dials.hybrid_refine checkpoint":
        raise ValueError(f"{path} is not a checkpoint of dials.hybrid_refine")
    return content
