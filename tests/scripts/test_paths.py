"""Paths and addresses: what they are made into, what is copied and when, and what is said where nothing is."""

import argparse
from pathlib import Path

import pytest
import tensorflow as tf
from etils import epath

import paths
import vocabulary
from atomic_file import atomic_path
from config import ConfigError, check_reachable
from data_files import DataFile, check, describe
from staged_folder import StagedFolder


def test_an_address_keeps_its_scheme_and_a_path_is_of_this_machine():
    assert paths.any_path("runs/a") == Path("runs/a")
    place = paths.any_path("gs://bucket/run") / "checkpoints"
    assert isinstance(place, epath.Path) and str(place) == "gs://bucket/run/checkpoints"
    assert paths.as_path(place) == place and paths.is_remote(place) and not paths.is_remote("runs/a")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: paths.any_path("ftp://host/run"), "file system is not known. Received: ftp://host/run. Expected"),
        (lambda: paths.local_path("gs://bucket/run"), "path of this machine. Received: gs://bucket/run. Expected"),
    ],
)
def test_an_address_that_cannot_be_used_is_said(read, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read()


def test_a_place_that_cannot_be_reached_is_said(bucket):
    check_reachable(None, Path("nowhere"), bucket / "nothing")
    with pytest.raises(
        ConfigError, match="s3://bucket/run cannot be reached: .*'s3' not implemented.*Expected a bucket"
    ):
        check_reachable(bucket, paths.as_path("s3://bucket/run"))


def test_a_missing_file_is_a_missing_file(bucket):
    with pytest.raises(FileNotFoundError) as caught:
        paths.read_bytes(bucket / "no_file")
    assert caught.value.strerror == "No such file or directory"
    with pytest.raises(ConfigError, match="The vocabulary cannot be read: No such file.*vocab.txt. Expected"):
        vocabulary.read(bucket / "vocab.txt")


def test_a_remote_file_is_written_whole_or_not_at_all(bucket):
    for content in ("first", "second"):
        with atomic_path(bucket / "folder" / "file") as unfinished:
            assert not paths.is_remote(unfinished)
            unfinished.write_text(content)
        assert paths.read_bytes(bucket / "folder" / "file") == content.encode()
    with pytest.raises(ZeroDivisionError), atomic_path(bucket / "folder" / "file") as unfinished:
        unfinished.write_text("third")
        raise ZeroDivisionError
    assert paths.read_bytes(bucket / "folder" / "file") == b"second"
    with pytest.raises(OSError, match="'s3' not implemented"), atomic_path("s3://bucket/file") as unfinished:
        unfinished.write_text("content")


def test_a_remote_file_is_checked_by_its_size(bucket, tmp_path):
    (tmp_path / "data").write_bytes(b"content")
    file = DataFile(**describe(tmp_path / "data"))
    (bucket / "data").write_bytes(b"content")
    check(file, bucket)
    (bucket / "data").unlink()
    (bucket / "data").write_bytes(b"conten")
    with pytest.raises(ConfigError, match="damaged. Received: ram://.*/data of 6 bytes. Expected 7 bytes"):
        check(file, bucket)


def test_a_staged_folder_brings_files_and_takes_back_what_changed(bucket, monkeypatch):
    for name in ("grown", "same", "gone"):
        (bucket / name).write_bytes(b"1\n")
    tf.io.gfile.makedirs(str(bucket / "checkpoints"))
    folder = StagedFolder(bucket)
    assert sorted(path.name for path in folder.path.iterdir()) == ["gone", "grown", "same"]

    with (folder.path / "grown").open("a") as file:
        file.write("2\n")
    (folder.path / "gone").unlink()
    (folder.path / "new").write_text("1\n")
    uploaded = []
    monkeypatch.setattr(
        "staged_folder.upload", lambda source, target: (uploaded.append(target.name), paths.upload(source, target))
    )
    folder.publish()
    assert uploaded == ["grown", "new"]
    assert paths.read_bytes(bucket / "grown") == b"1\n2\n"
    assert sorted(path.name for path in bucket.iterdir()) == ["checkpoints", "grown", "new", "same"]
    folder.publish()
    assert uploaded == ["grown", "new"]


def test_a_local_folder_is_its_own_stage(tmp_path):
    folder = StagedFolder(tmp_path)
    assert folder.path == tmp_path
    folder.publish()
    assert list(tmp_path.iterdir()) == []
