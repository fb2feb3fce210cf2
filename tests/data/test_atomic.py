import errno
import os

import pytest

from jaxgpt.data.atomic import check_new_folder, new_folder
from jaxgpt.errors import ConfigError, ResourceError


def names(folder):
    return sorted(os.listdir(folder))


def test_the_folder_appears_only_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "out") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["file"]
    assert (tmp_path / "out").stat().st_mode == tmp_path_mode(tmp_path)


def tmp_path_mode(tmp_path):
    (tmp_path / "out" / "ordinary").mkdir()
    return (tmp_path / "out" / "ordinary").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_leaves_all_as_it_was(tmp_path, error, overwrite):
    if overwrite:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").touch()
    before = names(tmp_path)
    with pytest.raises(error), new_folder(tmp_path / "out", overwrite=overwrite):
        raise error
    assert names(tmp_path) == before


def test_an_empty_folder_is_filled_and_a_full_one_replaced_when_allowed(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out) as partial:
        (partial / "old").touch()
    with new_folder(out, overwrite=True) as partial:
        (partial / "new").touch()
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]


def test_a_full_disk_is_a_resource_error_and_others_pass_through(tmp_path):
    with pytest.raises(ResourceError, match="disk is full"), new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), new_folder(tmp_path / "out"):
        raise PermissionError
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for path, complaint in [
        ("none/out", "does not exist"),
        ("file", "a file has this name"),
        ("full", "not empty"),
        ("file/out", "does not exist"),
    ]:
        with pytest.raises(ConfigError, match=complaint):
            check_new_folder(tmp_path / path)
    check_new_folder(tmp_path / "full", overwrite=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="no permission"):
        check_new_folder(tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be created"), new_folder(tmp_path / ("x" * 250)):
        pass
