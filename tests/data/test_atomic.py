import errno
import os

import pytest

from jaxgpt.data.atomic import check_new_folder, clear_leftovers, new_folder
from jaxgpt.data.ownership import LISTING, write_listing
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
        write_listing(tmp_path / "out", "jaxgpt 1")
    before = names(tmp_path)
    with pytest.raises(error), new_folder(tmp_path / "out", overwrite=overwrite):
        raise error
    assert names(tmp_path) == before


def test_an_empty_folder_is_filled_and_a_full_one_replaced_when_allowed(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out) as partial:
        (partial / "old").touch()
        write_listing(partial, "jaxgpt 1")
    with new_folder(out, overwrite=True) as partial:
        assert names(out) == [LISTING, "old"]
        (partial / "new").touch()
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]
    with (
        pytest.raises(ConfigError, match=r"will not be overwritten, for it holds new, and nothing"),
        new_folder(out, overwrite=True),
    ):
        pass


def test_what_is_written_into_the_old_folder_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"
    with new_folder(out) as partial:
        write_listing(partial, "jaxgpt 1")
    with new_folder(out, overwrite=True):
        (out / "thesis.txt").touch()
    (old,) = (path for path in tmp_path.iterdir() if path != out)
    assert names(old) == [LISTING, "thesis.txt"]


@pytest.mark.parametrize("read", ["out", "out/data/a.txt", "link/a.txt"])
def test_what_is_read_is_not_replaced(tmp_path, read):
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "a.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "out" / "data")
    write_listing(tmp_path / "out", "jaxgpt 1")
    check_new_folder(tmp_path / "out", overwrite=True, inputs=["bytes", tmp_path / "none"])
    with pytest.raises(ConfigError, match=r"which is read, lies in it"):
        check_new_folder(tmp_path / "out", overwrite=True, inputs=[tmp_path / read])


@pytest.mark.parametrize("here", ["out", "out/below"])
def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, here):
    (tmp_path / here).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / here)
    with pytest.raises(ConfigError, match="is the current folder, or holds it"):
        check_new_folder(tmp_path / "out", overwrite=True)


def test_what_killed_processes_left_is_cleared_or_put_back(tmp_path):
    def leave(name, *files):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()

    leave(".out.00000000.partial", "train-00000.bin")
    leave(".out.00000001.partial", "config.json", ".manifest.json.00000000.partial")
    leave(".out.00000002.partial", "thesis.txt")
    leave(".out.00000003.old", "manifest.json")
    leave(".out.partial", "train-00000.bin")
    leave(".other.00000000.partial", "train-00000.bin")
    with new_folder(tmp_path / "out2"):  # whose process lives
        live = next(path for path in tmp_path.iterdir() if path.name.startswith(".out2."))
        clear_leftovers(tmp_path / "out2")
        assert live.exists()
        clear_leftovers(tmp_path / "out")
    assert names(tmp_path) == [
        *(".other.00000000.partial", ".out.00000002.partial", ".out.partial", "out", "out2"),
    ]
    assert names(tmp_path / "out") == ["manifest.json"]


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
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="no permission"):
        check_new_folder(tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be created"), new_folder(tmp_path / ("x" * 250)):
        pass
