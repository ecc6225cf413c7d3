"""Writes the English documentation that ships with CPython as plain text: a small real corpus, always at hand.

    python tpu/python_docs.py --output_dir data/python_docs [--held_out_fraction 0.1]

Documents are the topics of `pydoc` and the docstrings of each module of the standard library. `train.txt` and
`held_out.txt` hold one paragraph a line and one blank line between two documents. The same CPython release gives
the same files.

No paragraph is in both files: repeated paragraphs are dropped first, whole documents are held out after that, by
a hash of the document's name.
"""

import argparse
import ast
import hashlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from atomic_file import atomic_path

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
MIN_PARAGRAPHS = 2
MIN_WORDS = 8
MIN_PLAIN_SHARE = 0.75
FUNCTION_WORDS = frozenset(
    "a an and are as at be but by can for from has have if in is it its may must no not of on or should so than that "
    "the then there these this to was when which will with you".split()
)

# A doctest, a comment, an import, or the head of a compound statement.
_CODE = re.compile(
    r"^\s*(>>>|\.\.\.( |$)|# |import \w|from \S+ import |(for|if|while|with|def|class|try|else)\b.*:\s*(#.*)?$)",
    re.MULTILINE,
)
_RULER = re.compile(r"^\s*([-=*~^+|#_.\" ]*)([-=*~^+#_])\2{2,}([-=*~^+|#_.\" ]*)$", re.MULTILINE)
_SIGNATURE = re.compile(r"^\s*(class |def )?[\w.*]+\(.*\)(\s*(->|=>|=|--).*|:)?$")
_BULLET = re.compile(r"^\s*([-*•+]|\(?\d+[.)])\s+")
_DIRECTIVE = re.compile(r"^\s*\.\. \w+::\s*")
_ROLE = re.compile(r":\w+(?::\w+)?:(?=`)")
_QUOTED = re.compile(r"``([^`]+)``|`([^`']+)[`']|(?<![\w*])\*{1,2}(\w[^*]*?)\*{1,2}(?![\w*])")
_PLAIN_WORD = re.compile(r"[\"'“‘(\[]*[A-Za-z]+(?:[-'’/][A-Za-z]+)*[\"'”’)\].,;:!?]*")


def documents(stdlib: Path | None = None) -> Iterator[tuple[str, str]]:
    """The documentation as it stands: pairs of a document's name and its raw text, in the order of names.

    Args:
        stdlib: The folder of the standard library; by default that of the running interpreter.
    """
    from pydoc_data.topics import topics

    stdlib = stdlib or Path(sysconfig.get_path("stdlib"))
    for name in sorted(topics):
        yield f"topic:{name}", topics[name]
    for path in sorted(stdlib.rglob("*.py"), key=lambda path: path.relative_to(stdlib).parts):
        relative = path.relative_to(stdlib)
        if not SKIPPED_FOLDERS.intersection(relative.parts):
            yield f"module:{'.'.join(relative.with_suffix('').parts)}", "\n\n".join(docstrings(path.read_bytes()))


def docstrings(source: bytes | str) -> list[str]:
    """The docstrings of a module, its classes and its functions in order of appearance; none if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a library is no concern here
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    owners = [n for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    owners.sort(key=lambda node: node.lineno)
    found = (ast.get_docstring(owner) for owner in [tree, *owners])
    return [text for text in found if text]


def paragraphs(text: str) -> list[str]:
    """The English prose of a document, one string without line breaks for each paragraph.

    A block between blank lines is dropped if a line of it is code or a ruler (headings, tables). Else lines that are
    a call signature go, and so do the marks of bullets, ``literals`` and *emphasis*. What is left is kept if it
    reads as English, see `is_prose`. That drops grammar, lists of names and most of the code that is left.
    """
    kept = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if _CODE.search(block) or _RULER.search(block):
            continue
        lines = [line for line in block.splitlines() if not _SIGNATURE.match(line)]
        lines = [_BULLET.sub("", _DIRECTIVE.sub("", line)) for line in lines]
        unmarked = _QUOTED.sub(lambda match: match[1] or match[2] or match[3], _ROLE.sub("", " ".join(lines)))
        paragraph = " ".join(unmarked.split())
        if is_prose(paragraph):
            kept.append(paragraph)
    return kept


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph reads as English.

    It has at least `MIN_WORDS` words, of which a share of `MIN_PLAIN_SHARE` is made of letters alone (give or take
    punctuation) and two or more are different function words such as "the" or "is".
    """
    words = paragraph.split()
    if len(words) < MIN_WORDS:
        return False
    plain = sum(_PLAIN_WORD.fullmatch(word) is not None for word in words)
    return plain >= MIN_PLAIN_SHARE * len(words) and len(FUNCTION_WORDS.intersection(paragraph.lower().split())) >= 2


def clean(raw: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Documents as paragraphs, each paragraph only where it comes first; short documents are left out.

    Two paragraphs are the same if they differ in case and spacing only.

    Args:
        raw: Pairs of a document's name and its text.

    Returns:
        The paragraphs of each document that still has `MIN_PARAGRAPHS` of them, in the order of `raw`.
    """
    seen = set()
    cleaned = {}
    for name, text in raw:
        first_seen = []
        for paragraph in paragraphs(text):
            key = " ".join(paragraph.casefold().split())
            if key not in seen:
                seen.add(key)
                first_seen.append(paragraph)
        if len(first_seen) >= MIN_PARAGRAPHS:
            cleaned[name] = first_seen
    return cleaned


def is_held_out(name: str, fraction: float) -> bool:
    """Whether a document is held out: a fixed property of its name, whatever else the corpus holds."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < fraction * 2**64


def write_text(paragraphs_by_document: dict[str, list[str]], path: Path) -> None:
    """Writes one paragraph a line and one blank line between two documents."""
    with atomic_path(path) as unfinished:
        text = "\n\n".join("\n".join(document) for document in paragraphs_by_document.values())
        unfinished.write_text(text + "\n", encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> int:
    """Writes both files and prints what they hold.

    Returns:
        The exit code: 0, or 2 after one sentence on stderr about an argument that cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python_docs", description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder of train.txt and held_out.txt")
    parser.add_argument("--held_out_fraction", type=float, default=0.1, help="the share of documents to hold out")
    args = parser.parse_args(arguments)

    cleaned = clean(documents())
    held_out = {name: document for name, document in cleaned.items() if is_held_out(name, args.held_out_fraction)}
    train = {name: document for name, document in cleaned.items() if name not in held_out}
    try:
        if not train or not held_out:
            raise ValueError(
                f"A file would be empty. Received: --held_out_fraction {args.held_out_fraction}, {len(cleaned)} "
                "documents. Expected a number between 0 and 1 that leaves documents on both sides."
            )
        args.output_dir.mkdir(parents=True, exist_ok=True)
        # So that an interruption cannot leave a new file beside an old one that shares paragraphs with it.
        (args.output_dir / "held_out.txt").unlink(missing_ok=True)
        for file_name, split in (("train.txt", train), ("held_out.txt", held_out)):
            write_text(split, args.output_dir / file_name)
            lines = [paragraph for document in split.values() for paragraph in document]
            words = sum(len(line.split()) for line in lines)
            print(f"{file_name}: {len(split):,} documents, {len(lines):,} paragraphs, {words:,} words")
    except ValueError as error:
        print(f"python_docs: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"python_docs: {error.strerror}. Received: --output_dir {args.output_dir}. Expected a folder to write to.",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
