"""Fixtures of the configs' tests."""

from traced_graphs import gradients_are_forgotten  # noqa: F401 - pytest finds it here
