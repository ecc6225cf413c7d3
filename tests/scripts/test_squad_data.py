"""SQuAD files that can be used, and one sentence for those that cannot."""

import copy
import json

import pytest
import squad_file

import squad_data
from config import ConfigError

V1, V2 = squad_file.make(False, 8), squad_file.make(True, 8)


def changed(content, change):
    content = copy.deepcopy(content)
    change(content, [question for _, question in squad_file.questions(content)])
    return content


def read(content, tmp_path, split="train", version_2=False):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return squad_data.read(path, split, version_2)


@pytest.mark.parametrize("version_2", [False, True])
def test_files_that_can_be_used(tmp_path, version_2):
    content = V2 if version_2 else V1
    for split, usable in (("predict", content), ("train", squad_file.with_one_answer(content))):
        kept = read(usable, tmp_path, split, version_2)
        texts = [(paragraph.context, question.question) for paragraph, question in kept.questions()]
        assert texts == [(context, question["question"]) for context, question in squad_file.questions(content)]


def test_a_made_file_says_what_it_promises():
    for content, version_2 in ((squad_file.make(False), False), (squad_file.make(True), True)):
        questions = squad_file.questions(content)
        assert len(questions) == len({question["id"] for _, question in questions}) == 120
        answers = [(context, answer) for context, question in questions for answer in question["answers"]]
        assert all(context[answer["answer_start"] :].startswith(answer["text"]) for context, answer in answers)
        counts = {len(question["answers"]) for _, question in questions}
        assert counts == ({0, 1, 2, 3} if version_2 else {1, 2, 3})
        texts = [answer["text"] for _, answer in answers]
        assert any(text.lower().startswith(("a ", "an ", "the ")) for text in texts)
        assert sum(not text.replace(" ", "").isalnum() for text in texts) > 10


def drop_questions(content, questions):
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = []


@pytest.mark.parametrize(
    ("content", "split", "version_2", "message"),
    [
        ("{", "train", False, r"is not JSON\. Received: .*Expected a SQuAD file\."),
        ("[]", "train", False, r"is not a SQuAD file\. Received: the file: .*Expected data\.\*\.paragraphs"),
        ({"rows": []}, "train", False, r"is not a SQuAD file\. Received: data: Field required\."),
        ({"data": []}, "train", False, r"has no question\. Received: 0 articles\."),
        (changed(V1, drop_questions), "predict", False, r"has no question\. Received: 4 articles\."),
        (
            changed(V1, lambda content, questions: questions[3].pop("id")),
            "predict",
            False,
            r"Received: data\.1\.paragraphs\.0\.qas\.1\.id: Field required\.",
        ),
        (
            changed(V1, lambda content, questions: questions[3].update(id="q000")),
            "predict",
            False,
            r"question 'q000' is there twice\.",
        ),
        (
            changed(V1, lambda content, questions: questions[2]["answers"][0].update(answer_start=10_000)),
            "predict",
            False,
            r"question 'q002' has an answer outside its context\. Received: '.*' at 10000, in a context of \d+",
        ),
        (
            changed(V1, lambda content, questions: questions[2]["answers"][0].update(text="")),
            "predict",
            False,
            r"question 'q002' has an answer outside its context\. Received: '' at",
        ),
        (V1, "train", False, r"question 'q001' has 2 answers\. Expected one in a file to train on\."),
        (V2, "predict", False, r"question 'q003' has no answer, as in SQuAD 2\.0.*Expected true"),
        (squad_file.with_one_answer(V2), "train", False, r"'q003' has no answer, as in SQuAD 2\.0, but the config is"),
        (squad_file.with_one_answer(V1), "train", True, r"does not say is_impossible, as in SQuAD 1\.1, but the con"),
    ],
)
def test_files_that_cannot(tmp_path, content, split, version_2, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(content, tmp_path, split, version_2)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(
        ConfigError, match=r"SQuAD file not found\. Received: .*nowhere\.json\. Expected for example tr"
    ):
        squad_data.read(tmp_path / "nowhere.json", "train", False)
    with pytest.raises(ConfigError, match="cannot be read"):
        squad_data.read(tmp_path, "train", False)
