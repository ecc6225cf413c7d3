"""The telemetry callback for tf_keras models."""

from tf_lamb.telemetry_history import RecordingCallback
from tf_lamb.tf_keras import tf_keras  # From there, since that module says clearly what is missing.


class TelemetryCallback(RecordingCallback, tf_keras.callbacks.Callback):
    """`tf_lamb.telemetry.TelemetryCallback` for tf_keras models, with the same arguments and the same files."""

    def __init__(self, history_csv=None, log_dir=None, every_steps=None):
        super().__init__(history_csv, log_dir, every_steps)
        # Otherwise tf_keras would wait for the logs of every batch.
        self._supports_tf_logs = True
