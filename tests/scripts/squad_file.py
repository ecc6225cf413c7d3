"""Made SQuAD files over real text: CPython's documentation, with questions about what follows a few words of it."""

import json
import random
from pydoc_data.topics import topics

import python_docs
from wordpiece import train_vocabulary

SEED = 7


def paragraphs():
    """Paragraphs of 25 to 60 words of the documentation, each with the name of its document."""
    cleaned = python_docs.clean(sorted(topics.items()))
    return [(name, text) for name, texts in cleaned.items() for text in texts if 25 <= len(text.split()) <= 60]


def make(version_2, count=120):
    """The content of a SQuAD file, with up to three gold answers to a question.

    Answers begin with articles where the text has them, and end with its punctuation or without. In version 2.0 every
    fourth question is about words of another paragraph, and has no answer.
    """
    chosen = random.Random(SEED)
    texts = chosen.sample(paragraphs(), count // 2)
    articles = []
    for index, (name, context) in enumerate(texts):
        qas = []
        for part in range(2):
            number = 2 * index + part
            impossible = version_2 and number % 4 == 3
            source = texts[index - 1][1] if impossible else context
            starts = [position for position in range(len(source)) if position == 0 or source[position - 1] == " "]
            half = len(starts) // 2
            first = chosen.randrange(4, half - 4) if part == 0 else chosen.randrange(half + 2, len(starts) - 5)
            # The answer takes the article before it along, if there is one.
            if source[starts[first - 1] :].split()[0].lower() in ("a", "an", "the"):
                first -= 1
            begin, end = starts[first], starts[first + 3] - 1
            asked = source[starts[first - 4] : begin].strip()
            golds = [(begin, source[begin:end])]
            golds += [
                (begin, source[begin : starts[first + 2] - 1]),
                (starts[first + 1], source[starts[first + 1] : end]),
            ]
            answers = [{"text": text, "answer_start": start} for start, text in golds[: 1 + number % 3]]
            qas.append(
                {
                    "id": f"q{number:03d}",
                    "question": f'Which words follow "{asked}" in {name}?',
                    "answers": [] if impossible else answers,
                    **({"is_impossible": impossible} if version_2 else {}),
                }
            )
        articles.append({"title": name, "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "v2.0" if version_2 else "1.1", "data": articles}


def questions(content):
    """Pairs of a context and a question's dict."""
    return [
        (paragraph["context"], question)
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def with_one_answer(content):
    """The same file to train on: only the first answer of each question."""
    content = json.loads(json.dumps(content))
    for _, question in questions(content):
        question["answers"] = question["answers"][:1]
    return content


def vocabulary():
    """A vocabulary of 1,500 tokens of the documentation."""
    return list(train_vocabulary(lambda: (text for _, text in paragraphs()), 1500).tokens)


def write(folder, version_2=False, count=120):
    """Writes train.json, dev.json and vocab.txt into a folder, and returns what dev.json holds."""
    content = make(version_2, count)
    (folder / "train.json").write_text(json.dumps(with_one_answer(content)), encoding="utf-8")
    (folder / "dev.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary()), encoding="utf-8")
    return content
