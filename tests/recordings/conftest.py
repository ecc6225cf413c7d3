"""Each script that records runs in an environment of its own, so doctest must not import it here."""

collect_ignore_glob = ["record_*.py"]
