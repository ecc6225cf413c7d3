"""SQuAD files: what they must hold, checked before anything is computed from them."""

import json
from pathlib import Path
from typing import Literal

import pydantic

from config import ConfigError
from paths import read_bytes

Split = Literal["train", "predict"]


class Answer(pydantic.BaseModel):
    """A gold answer: a stretch of the context."""

    text: str
    answer_start: int = pydantic.Field(ge=0, description="its first character in the context.")


class Question(pydantic.BaseModel):
    """A question about a context."""

    id: str
    question: str
    answers: list[Answer] = []
    is_impossible: bool | None = None


class Paragraph(pydantic.BaseModel):
    """A context and its questions."""

    context: str
    qas: list[Question]


class Article(pydantic.BaseModel):
    """The paragraphs of one article."""

    paragraphs: list[Paragraph]


class SquadFile(pydantic.BaseModel):
    """The whole file. Fields that nothing here reads, such as titles, are allowed."""

    data: list[Article]

    def questions(self):
        """Pairs of a `Paragraph` and a `Question`, in the order of the file."""
        for article in self.data:
            for paragraph in article.paragraphs:
                for question in paragraph.qas:
                    yield paragraph, question


def read(path: str | Path, split: Split, version_2_with_negative: bool) -> SquadFile:
    """Reads a SQuAD file and checks that it fits its use.

    Args:
        path: A JSON file of SQuAD 1.1 or 2.0.
        split: Whether it is for training, where each question has one answer or, in 2.0, none, or for prediction,
            where it may have several.
        version_2_with_negative: Whether it is to be SQuAD 2.0.

    Returns:
        The content.

    Raises:
        ConfigError: The file is missing, not SQuAD, or of the other version.
    """
    try:
        content = SquadFile.model_validate(json.loads(read_bytes(path)))
    except FileNotFoundError:
        raise ConfigError(f"SQuAD file not found. Received: {path}. Expected for example {split}-v1.1.json.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Expected a readable file.") from None
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise ConfigError(
            f"{path} is not a SQuAD file. Received: {where}: {problem['msg']}. "
            "Expected data.*.paragraphs.*.context and qas of id, question and answers."
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON. Received: {error}. Expected a SQuAD file.") from None

    seen = set()
    for paragraph, question in content.questions():
        if problem := _problem(paragraph, question, seen, split, version_2_with_negative):
            raise ConfigError(f"{path} cannot be used: question {question.id!r} {problem}")
        seen.add(question.id)
    if not seen:
        raise ConfigError(f"{path} has no question. Received: {len(content.data)} articles. Expected one at least.")
    return content


def _problem(paragraph, question, seen, split, version_2_with_negative):
    """What is wrong with a question, as the end of a sentence; None if nothing is."""
    if question.id in seen:
        return "is there twice. Expected an id for each."
    for answer in question.answers:
        if not answer.text or answer.answer_start + len(answer.text) > len(paragraph.context):
            return (
                f"has an answer outside its context. Received: {answer.text!r} at {answer.answer_start}, in a context "
                f"of {len(paragraph.context)} characters. Expected characters of the context."
            )
    if not version_2_with_negative:
        if question.is_impossible or not question.answers:
            return (
                "has no answer, as in SQuAD 2.0, but the config is for 1.1. Received: "
                "data.version_2_with_negative=false. Expected true, as in configs/squad/v2_bert_large.yaml."
            )
    elif split == "train" and question.is_impossible is None:
        return (
            "does not say is_impossible, as in SQuAD 1.1, but the config is for 2.0. Received: "
            "data.version_2_with_negative=true. Expected false, as in configs/squad/v1_bert_large.yaml."
        )
    if split == "train" and not question.is_impossible and len(question.answers) != 1:
        return f"has {len(question.answers)} answers. Expected one in a file to train on."
    return None
