"""What is said of a strategy that cannot be made, before anything is."""

import argparse
import os
import sys
from pathlib import Path

import pytest

import paths
import strategy as strategies
from config import ConfigError


def arguments(*flags):
    parser = argparse.ArgumentParser()
    strategies.add_arguments(parser)
    return parser.parse_args(flags)


@pytest.mark.parametrize(
    ("strategy", "cpu_replicas", "message"),
    [
        ("mirrored", 0, r"--cpu_replicas must be at least 1\. Received: 0"),
        ("multi_worker", 2, r"from the environment variable TF_CONFIG\. Received: none\. Expected for example"),
    ],
)
def test_strategies_that_cannot_be_made(strategy, cpu_replicas, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=message):
        strategies.make(strategy, cpu_replicas, "local")


def test_a_tpu_needs_its_software(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ConfigError, match="--strategy tpu needs libtpu"):
        strategies.prepare(arguments("--strategy", "tpu"))


def test_a_named_tpu_reads_and_writes_what_it_can_reach(bucket, monkeypatch):
    monkeypatch.setattr(strategies, "_set_tpu_environment", lambda: None)
    named = arguments("--strategy", "tpu", "--tpu", "my-pod")
    strategies.prepare(named, bucket, None)
    with pytest.raises(ConfigError, match="machines of its own. Received: --tpu my-pod with runs/a. Expected .*gs://"):
        strategies.prepare(named, bucket, Path("runs/a"))
    strategies.prepare(arguments("--strategy", "tpu"), Path("runs/a"))


def test_a_bucket_that_cannot_be_reached_is_said(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    with pytest.raises(ConfigError, match="^s3://bucket/run cannot be reached"):
        strategies.prepare(arguments(), None, paths.as_path("s3://bucket/run"))
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
