"""Settings of Sphinx. `sphinx-build -W docs build/docs` makes the pages; it needs the extras `docs` and `models`.

Nothing is fetched while building. A public name that is not on the API page, or that has no docstring, is a warning,
and with -W an error.
"""

import importlib
import inspect
import os
import re
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["KERAS_BACKEND"] = "tensorflow"  # The face for tf_keras needs it.

project = "tf-lamb"
copyright = "the authors of tf-lamb"
html_title = "tf-lamb"
html_theme = "furo"
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# `code` in docstrings is code, not the title of a work.
default_role = "code"

# Beside what `tf_lamb.__all__` names. They are imported only when asked for, or are there to be read.
FURTHER_NAMES = ["tf_lamb.layerwise.LayerwiseOptimizer"]
FURTHER_MODULES = [
    f"tf_lamb.{name}" for name in ("dialects", "telemetry", "migrate", "tf_keras", "model_garden", "core")
]


def public_names():
    """The full names of everything public: classes, functions and data of the public modules.

    Those of a module are its `__all__`; without one, what it defines itself under names without an underscore.
    """
    package = importlib.import_module("tf_lamb")
    names, modules = list(FURTHER_NAMES), list(FURTHER_MODULES)
    for name in package.__all__:
        value = getattr(package, name)
        if isinstance(value, types.ModuleType):
            modules.append(value.__name__)
        else:
            names.append(f"tf_lamb.{name}")
    for module_name in dict.fromkeys(modules):
        module = importlib.import_module(module_name)
        own = [name for name, value in vars(module).items() if _is_defined_in(value, module)]
        names += [f"{module_name}.{name}" for name in getattr(module, "__all__", own) if not name.startswith("_")]
    return names


def _is_defined_in(value, module):
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__


# --- docstrings into reStructuredText -----------------------------------------------------------------------------

SECTION = re.compile(r"\s*(Args|Attributes|Example|Raises|Returns|Differs from):?$")
# Stands for a colon that napoleon must leave alone: it would take what is before it for a type.
COLON = "\ue000"


def before_napoleon(app, what, name, obj, options, lines):
    """Marks indented blocks as literal, and hides the colons that do not end a type."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)
    result, last = [], ""
    for i, line in enumerate(lines):
        if line.strip() and not lines[i - 1].strip() and _indent(line) > _indent(last) and not SECTION.match(last):
            # After a paragraph, what is indented deeper is equations.
            result += [" " * _indent(last) + "::", ""]
        if last.strip() == "Returns:":
            line = line.replace(":", COLON)
        result.append(line)
        last = line if line.strip() else last
    lines[:] = result


def after_napoleon(app, what, name, obj, options, lines):
    """Puts the hidden colons back."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def skip_member(app, what, name, obj, skip, options):
    """Leaves out what Keras or Python defines; None stands for autodoc's own decision."""
    function = getattr(inspect.unwrap(obj), "fget", obj) if isinstance(obj, property) else obj
    home = getattr(function, "__module__", None)
    foreign = home is not None and not home.startswith("tf_lamb")
    return True if foreign or type(obj).__name__ == "_tuplegetter" else None


def _indent(line):
    return len(line) - len(line.lstrip())


# --- nothing public without documentation -------------------------------------------------------------------------


def without_docstring(name):
    """The full names, of a public class or function and its public methods, that have no docstring."""
    module_name, _, own_name = name.rpartition(".")
    value = getattr(importlib.import_module(module_name), own_name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return []
    members = vars(value) if inspect.isclass(value) else {}
    functions = {
        f"{name}.{each}": x for each, x in members.items() if inspect.isfunction(x) and not each.startswith("_")
    }
    return [each for each, x in {name: value, **functions}.items() if not x.__doc__]


def warn_of_undocumented(app, environment):
    """Warns of public names that no page documents, or that have no docstring."""
    from sphinx.util import logging

    documented = environment.get_domain("py").objects
    for name in public_names():
        if name not in documented:
            logging.getLogger(__name__).warning("%s is public, and not on the page docs/api.md", name)
        for each in without_docstring(name):
            logging.getLogger(__name__).warning("%s is public, and has no docstring", each)


def setup(app):
    """Connects the above."""
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("env-check-consistency", warn_of_undocumented)
