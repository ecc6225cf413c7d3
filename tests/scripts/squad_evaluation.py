"""The published evaluation of SQuAD 1.1 and 2.0, written from its definition: it imports nothing of Model Garden.

An answer is compared in small letters, without the ASCII punctuation, without the words "a", "an" and "the", and with
single spaces. Exact match is equality of what is left; F1 is of the bags of its words. The best over the gold answers
counts, and scores are means over questions in percent.
"""

import collections
import itertools

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def normal_words(answer, articles=("a", "an", "the"), punctuation=PUNCTUATION):
    kept = "".join(character for character in answer.lower() if character not in punctuation)
    runs = [(is_word, "".join(run)) for is_word, run in itertools.groupby(kept, lambda c: c.isalnum() or c == "_")]
    return "".join(" " if is_word and run in articles else run for is_word, run in runs).split()


def f1(gold, answer, version_2=False, **changes):
    gold, answer = normal_words(gold, **changes), normal_words(answer, **changes)
    if version_2 and not (gold and answer):
        return float(gold == answer)
    common = (collections.Counter(gold) & collections.Counter(answer)).total()
    # 2 / (1/precision + 1/recall) with precision = common / len(answer) and recall = common / len(gold).
    return 2 * common / (len(gold) + len(answer)) if common else 0.0


def exact(gold, answer, **changes):
    return float(normal_words(gold, **changes) == normal_words(answer, **changes))


def golds(question, version_2):
    texts = [answer["text"] for answer in question["answers"]]
    return texts if not version_2 else [text for text in texts if normal_words(text)] or [""]


def scores(question, answer, version_2, **changes):
    """Exact match and F1 of one question, between 0 and 1."""
    texts = golds(question, version_2)
    return (
        max(exact(text, answer, **changes) for text in texts),
        max(f1(text, answer, version_2, **changes) for text in texts),
    )


def mean(values):
    return 100 * sum(values) / len(values)


def evaluate(questions, answers, version_2=False, **changes):
    """(EM, F1) in percent over a list of questions."""
    pairs = [scores(question, answers[question["id"]], version_2, **changes) for question in questions]
    return mean([pair[0] for pair in pairs]), mean([pair[1] for pair in pairs])


def best(questions, answers, null_odds, which):
    """The best score in percent over all thresholds of the odds above which a question counts as not answered.

    A question that has no answer scores 1 where none is given, be it for the odds or because the answer was empty.
    """
    results = []
    for threshold in (-float("inf"), *null_odds.values()):
        total = 0.0
        for question in questions:
            answer = answers[question["id"]]
            if null_odds[question["id"]] > threshold or not question["answers"]:
                given = "" if null_odds[question["id"]] > threshold else answer
                total += float(not question["answers"] and not given)
            else:
                total += scores(question, answer, True)[which]
        results.append(total)
    return 100 * max(results) / len(questions)
