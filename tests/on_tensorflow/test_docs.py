"""The README and the pages in docs/: their code runs, their links lead somewhere, and the API page has every name."""

import doctest
import importlib.util
import re
from pathlib import Path

import keras
import pytest

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the pages import both faces, and tf_keras needs TensorFlow"
)
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
DIRECTIVE = re.compile(r"^\.\. auto(class|function|data|module):: (\S+)\n((?:   :.*\n)*)", re.MULTILINE)
# Blocks that need a reader's own files, by page and first line, with the reason. They are only compiled.
NOT_RUN = {
    ("migration.md", "from tf_lamb import dialects, migrate"): "loads the reader's .keras file",
    ("migration.md", "import tf_lamb.tf_keras"): "loads the reader's checkpoint",
    ("telemetry.md", "import tf_lamb"): "trains the reader's model",
    ("telemetry.md", "@tf.function(jit_compile=True)"): "trains the reader's model",
}


def blocks(page, language):
    return [code for name, code in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """The anchors of a page's headings, as both GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("docs_conf", ROOT / "docs" / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(page, tmp_path):
    """Runs the blocks of a page in order, those with prompts as doctests; returns how many, and the failures."""
    namespace, failures, count = {"__name__": "__main__"}, [], 0
    runner = doctest.DocTestRunner(verbose=False)
    for code in blocks(page, "python"):
        if ">>>" not in code:
            compiled = compile(code, str(page), "exec")
            if (page.name, code.split("\n")[0]) not in NOT_RUN:
                exec(compiled, namespace)
                count += 1
            continue
        count += 1
        test = doctest.DocTestParser().get_doctest(code, namespace, page.name, str(page), 0)
        runner.run(test, out=failures.append, clear_globs=False)
        namespace.update(test.globs)
    return count, "".join(failures)


@on_tensorflow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, failures = run(page, tmp_path)
    assert not failures, failures


def test_every_exception_is_needed():
    first_lines = {(page.name, code.split("\n")[0]) for page in PAGES for code in blocks(page, "python")}
    assert set(NOT_RUN) <= first_lines


def test_a_wrong_output_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\n>>> x + 1\n3\n\n```\n")
    count, failures = run(page, tmp_path)
    assert count == 2 and "Expected:\n    3\nGot:\n    2" in failures


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = prose(page)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert linked.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    """In `code`: what looks like a file of the tests, the library, the scripts or the pages."""
    for name in re.findall(r"`((?:tests|tf_lamb|docs|tpu|configs|benchmarks)/[\w./-]+\.\w+)`", prose(page)):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_page_is_in_the_index():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {target for target in LINK.findall(text) if target.endswith(".md")}
    assert {page.name for page in PAGES[1:]} - {"index.md"} <= linked


def test_every_figure_is_shown_and_has_its_script():
    shown = {(page.parent / t).resolve() for page in PAGES for t in LINK.findall(prose(page)) if t.endswith(".png")}
    folder = ROOT / "docs" / "figures"
    figures = set(folder.glob("*.png"))
    assert figures <= shown
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    assert [f for f in figures if f.stem not in scripts and not any(f.name in text for text in scripts.values())] == []


def documented(api, names):
    """Of full names of public things, those that the directives of the page document."""
    found = set()
    for kind, target, options in DIRECTIVE.findall(api):
        if kind != "module":
            found.add(target)
        elif ":members:" in options:
            found |= {name for name in names if name.rpartition(".")[0] == target}
    return found


@on_tensorflow
@pytest.mark.model_garden
def test_the_api_page_has_every_public_name(conf):
    pytest.importorskip("official", reason="tf-models-official is not installed")
    names = conf.public_names()
    assert {"tf_lamb.LAMB", "tf_lamb.schedules.goyal", "tf_lamb.tf_keras.LARS", "tf_lamb.core.lamb"} <= set(names)
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(names) - documented(api, names) == set()
    assert [each for name in names for each in conf.without_docstring(name)] == []


def test_a_name_that_is_missing_on_the_api_page_is_seen():
    names = ["tf_lamb.LAMB", "tf_lamb.NEW", "tf_lamb.rules.Plan"]
    api = ".. autoclass:: tf_lamb.LAMB\n.. automodule:: tf_lamb.rules\n   :members:\n.. automodule:: tf_lamb\n"
    assert set(names) - documented(api, names) == {"tf_lamb.NEW"}


@on_tensorflow
def test_docstrings_become_restructured_text(conf):
    lines = [
        "The rate is",
        "",
        "    a * b",
        "",
        "Returns:",
        "    A pair: two numbers.",
        "",
        "Example:",
        "",
        "    >>> 1",
    ]
    conf.before_napoleon(None, "function", "f", None, None, lines)
    conf.after_napoleon(None, "function", "f", None, None, lines)
    assert lines[:5] == ["The rate is", "", "::", "", "    a * b"]
    assert lines[6:] == ["Returns:", "    A pair: two numbers.", "", "Example:", "", "    >>> 1"]
