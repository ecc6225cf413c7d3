"""Writes tables into the pages of docs/, between the lines `<!-- NAME -->` and `<!-- end -->`."""

import re


def table(head, rows):
    """The text of a table.

    Args:
        head: The names of the columns, strings.
        rows: The rows, each as many strings.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(page, name, text):
    """Replaces what stands between two lines.

    Args:
        page: The `Path` of the page.
        name: The name in the first line.
        text: What to write there, whole lines.
    """
    old = page.read_text(encoding="utf-8")
    new, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda found: found[1] + text + found[2], old, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"A page has one place for a text. Received: {count} for {name!r} in {page.name}.")
    page.write_text(new, encoding="utf-8")
