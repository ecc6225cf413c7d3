"""Fixtures of the configs' tests."""

from many_models import gradients_are_forgotten  # noqa: F401 - pytest finds it here
