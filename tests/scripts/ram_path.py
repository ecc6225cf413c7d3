"""Paths of ram://, TensorFlow's file system in memory: in the tests it stands for a bucket."""

from etils import epath
from etils.epath import backend, gpath


@epath.register_path_cls("ram://")
class RamPath(gpath.PosixGPath):
    """What `epath` has for gs://, for ram://."""

    _uri_scheme = "ram"
    _backend = backend.tf_backend

    @property
    def _path_str(self):
        return "ram://" + "/".join(self.parts[1:])


def copy_to(folder, place):
    """Copies the files directly in a local folder to a remote one."""
    for file in folder.iterdir():
        if file.is_file():
            (place / file.name).write_bytes(file.read_bytes())
