"""A folder whose files grow line by line, which no object of Cloud Storage can."""

import tempfile
from pathlib import Path

from paths import is_remote, upload


class StagedFolder:
    """A folder to append to: itself if it is local, else a local copy that is taken back when asked.

    Only the files directly in the folder are copied.

    Args:
        folder: A path, of `paths.as_path`.

    Attributes:
        path: The local `Path`.
    """

    def __init__(self, folder):
        self._remote = folder if is_remote(folder) else None
        if self._remote is None:
            self.path = folder
            return
        self._temporary = tempfile.TemporaryDirectory()
        self.path = Path(self._temporary.name)
        if folder.exists():
            for file in folder.iterdir():
                if file.is_file():
                    (self.path / file.name).write_bytes(file.read_bytes())
        self._published = self._versions()

    def publish(self):
        """Takes back what has changed since the last time; nothing to do for a local folder.

        Raises:
            OSError: A file could not be written.
        """
        if self._remote is None:
            return
        versions = self._versions()
        for name in sorted(versions):
            if versions[name] != self._published.get(name):
                upload(self.path / name, self._remote / name)
        for name in self._published.keys() - versions.keys():
            (self._remote / name).unlink(missing_ok=True)
        self._published = versions

    def _versions(self):
        status = {file.name: file.stat() for file in self.path.iterdir()}
        return {name: (entry.st_size, entry.st_mtime_ns) for name, entry in status.items()}
