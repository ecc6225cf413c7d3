"""The checkpoints of a run: written whole, tested by their checksums when read, the newest few kept.

A checkpoint is `ckpt-STEP.index`, which TensorFlow writes last, and the files of its data. TensorFlow stores a checksum
of each tensor and tests it on reading.
"""

import re
import tempfile
import warnings

import tensorflow as tf

from config import ConfigError, RunError


class Checkpoints:
    """Saves and restores trackable objects, by the run's count of steps.

    Args:
        folder: Where the checkpoints are, of any file system that TensorFlow knows.
        step: The variable that counts steps; it is saved, too.
        every_steps: How many steps lie between two checkpoints.
        is_chief: Whether this process writes them. The others write elsewhere, since all of them have to take part.
        keep: How many to keep.
        **objects: What to save, by name.
    """

    def __init__(self, folder, step, every_steps, is_chief=True, keep=3, **objects):
        self.folder, self.every_steps = str(folder), every_steps
        self._step, self._keep, self._is_chief = step, keep, is_chief
        self._checkpoint = tf.train.Checkpoint(step=step, **objects)
        self._saved_step = None

    def restore(self):
        """Restores the newest checkpoint that is whole.

        Returns:
            Its prefix, or None if there is no checkpoint at all.

        Raises:
            ConfigError: None of them can be read, or one is of another model.
        """
        prefix = restore_newest(self._checkpoint, self.folder)
        self._saved_step = None if prefix is None else int(self._step.numpy())
        return prefix

    @property
    def is_due(self):
        """Whether the present step should be saved."""
        step = int(self._step.numpy())
        return step != self._saved_step and step % self.every_steps == 0

    def save(self):
        """Saves the present step, unless that is done; then removes the oldest beyond those to keep.

        Raises:
            RunError: The files cannot be written; those of earlier checkpoints are as they were.
        """
        step = int(self._step.numpy())
        if step == self._saved_step:
            return
        if not self._is_chief:
            with tempfile.TemporaryDirectory() as elsewhere:
                self._checkpoint.write(f"{elsewhere}/ckpt")
            self._saved_step = step
            return
        tf.io.gfile.makedirs(self.folder)
        prefix = f"{self.folder}/ckpt-{step}"
        try:
            self._checkpoint.write(prefix)
        except (tf.errors.OpError, OSError) as error:
            _remove(prefix)
            raise RunError(
                f"The checkpoint of step {step:,} could not be written: {_first_line(error)}. "
                f"The newest whole one is {newest_name(self.folder)}. Expected: a writable folder with free space; "
                "the same command then continues."
            ) from None
        self._saved_step = step
        prefixes = list_prefixes(self.folder)
        for old in prefixes[: -self._keep]:
            _remove(old)
        # For tf.train.latest_checkpoint, which other tools ask.
        tf.compat.v1.train.update_checkpoint_state(self.folder, prefix, prefixes[-self._keep :])


def list_prefixes(folder):
    """The prefixes of a folder's checkpoints, oldest first."""
    found = {}
    for path in tf.io.gfile.glob(f"{folder}/ckpt-*.index"):
        match = re.search(r"ckpt-(\d+)\.index$", path)
        if match:
            found[int(match[1])] = path.removesuffix(".index")
    return [found[step] for step in sorted(found)]


def step_of(prefix):
    """The step of a checkpoint."""
    return int(prefix.rsplit("-", 1)[-1])


def newest_name(folder):
    """The newest checkpoint of a folder, or words for none; for messages."""
    prefixes = list_prefixes(folder)
    return prefixes[-1] if prefixes else "none"


def restore_newest(checkpoint, folder):
    """Restores a `tf.train.Checkpoint` from the newest prefix of a folder that is whole, with a warning of each other.

    Returns:
        The prefix, or None if the folder has no checkpoint.

    Raises:
        ConfigError: None of the checkpoints can be read, or one is of another model.
    """
    prefixes = list_prefixes(folder)
    for prefix in reversed(prefixes):
        try:
            # `read` leaves what is saved alone if it is not asked for, such as the optimizer's state in an export.
            checkpoint.read(prefix).assert_existing_objects_matched().expect_partial()
        except (tf.errors.OpError, IndexError, RuntimeError) as error:  # TensorFlow raises each of them.
            warnings.warn(f"The checkpoint {prefix} is damaged and left out: {_first_line(error)}.", stacklevel=2)
        except (AssertionError, ValueError) as error:
            raise ConfigError(
                f"The checkpoint is of another model. Received: {prefix} ({_first_line(error)}). "
                "Expected the variables of this run's config."
            ) from None
        else:
            return prefix
    if prefixes:
        raise ConfigError(
            f"No checkpoint can be read. Received: {len(prefixes)} damaged ones in {folder}. "
            "Expected a whole one; remove the folder to begin anew."
        )
    return None


def remove_unfinished(folder):
    """Removes what a process that was killed while it saved has left."""
    for path in tf.io.gfile.glob(f"{folder}/ckpt-*_temp*"):
        tf.io.gfile.rmtree(path)
    whole = set(list_prefixes(folder))
    for path in tf.io.gfile.glob(f"{folder}/ckpt-*.data-*"):
        if path.split(".data-")[0] not in whole:
            tf.io.gfile.remove(path)


def _remove(prefix):
    # The index first: without it, the rest is no checkpoint.
    for path in [f"{prefix}.index", *tf.io.gfile.glob(f"{prefix}.data-*")]:
        if tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)
    for path in tf.io.gfile.glob(f"{prefix}_temp*"):
        tf.io.gfile.rmtree(path)


def _first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
