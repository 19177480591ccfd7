from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dials_hybrid.io.atomic import atomic_write


def test_file_appears_only_when_the_block_ends(tmp_path):
    target = tmp_path / "refined.cif"
    with atomic_write(target) as path:
        path.write_text("new")
        assert not target.exists()
        assert path.suffix == ".cif" and path.parent == tmp_path
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_leaves_no_litter(tmp_path, error):
    target = tmp_path / "refined.cif"
    target.write_text("old")
    with pytest.raises(error), atomic_write(target) as path:
        path.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_missing_folder_is_named(tmp_path):
    target = tmp_path / "nowhere" / "refined.cif"
    with pytest.raises(FileNotFoundError, match="nowhere/refined.cif"), atomic_write(target):
        pytest.fail("the block must not run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder_is_an_os_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="refined.cif"), atomic_write(tmp_path / "refined.cif"):
        pytest.fail("the block must not run")


def test_permissions_follow_the_umask(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "atomic") as path:
        path.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_link_is_kept(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_write(tmp_path / "link") as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_device_is_not_replaced():
    with atomic_write(os.devnull) as path:
        assert path == Path(os.devnull)
        path.write_text("gone")
    assert Path(os.devnull).is_char_device()


def test_what_a_killed_run_left_is_removed(tmp_path):
    """Not what a process writes that still runs, nor what only looks alike."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    names = [f".refined.{os.getppid()}.cif", ".refined.old.cif", ".other.1.cif", f".refined.{child.pid}.mtz"]
    for name in [*names, f".refined.{child.pid}.cif", f".refined.{10**20}.cif"]:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "refined.cif") as path:
        path.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"refined.cif", *names}
