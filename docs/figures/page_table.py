"""Writes tables into the pages of docs/, between the lines `<!-- NAME -->` and `<!-- end -->`."""

import re


def write(page, name, head, rows):
    """Replaces a table.

    Args:
        page: The `Path` of the page.
        name: The name of the table.
        head: The names of the columns, strings.
        rows: The rows, each as many strings.
    """
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    text, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)",
        lambda found: found[1] + table + found[2],
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"A page has one place for a table. Received: {count} for {name!r} in {page.name}.")
    page.write_text(text, encoding="utf-8")
