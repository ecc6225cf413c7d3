"""Splits English prose into sentences."""

import re

_POSSIBLE_END = re.compile(r"([.!?]+)[\"'”’)\]]*\s+(?=\S)")
_LOWER_CASE_WORD = re.compile(r"[a-z]+(?:[-'’][a-z]+)*[,;:.!?)\"'”’]*(?:\s|$)")
# "J.", "e.g.", "U.S." and abbreviations that a name, a number or a reference follows.
_ABBREVIATION = re.compile(r"(?:[A-Za-z]\.)*[A-Za-z]|eg|ie|cf|vs|[Mm]rs?|[Dd]r|Prof|[Ff]igs?|[Ss]ect?|pp|al")


def split_sentences(paragraph: str) -> list[str]:
    """Splits English prose into sentences.

    A sentence ends where ".", "!" or "?", and any closing quotes and brackets, meet white space - unless what
    follows is an ordinary lower-case word ("etc. and", "... or"), or the full stop belongs to single letters
    ("e.g.", "J. Smith"), to one of a few abbreviations ("cf.", "Fig.") or to the number of a list item. A full
    stop inside a word or a number never ends a sentence.

    Example:
        >>> split_sentences("Use pi, i.e. 3.14. The file __init__.py is run. open() is not.")
        ['Use pi, i.e. 3.14.', 'The file __init__.py is run.', 'open() is not.']
    """
    sentences = []
    start = 0
    for match in _POSSIBLE_END.finditer(paragraph):
        if _LOWER_CASE_WORD.match(paragraph, match.end()):
            continue
        last_word = paragraph[start : match.start()].rpartition(" ")[2].lstrip("\"'“‘([")
        is_list_number = last_word.isdigit() and paragraph[start : match.start()].strip() == last_word
        if match[1] == "." and (_ABBREVIATION.fullmatch(last_word) or is_list_number):
            continue
        sentences.append(paragraph[start : match.end()].strip())
        start = match.end()
    sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if sentence]
