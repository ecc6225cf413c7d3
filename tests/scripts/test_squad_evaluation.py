"""EM and F1 against the published definition, on answers that are right, nearly right and wrong."""

import json
import random

import pytest

pytest.importorskip("official", reason="needs tf-models-official")

import squad_evaluation  # noqa: E402
import squad_file  # noqa: E402

import squad_predict  # noqa: E402

pytestmark = pytest.mark.model_garden


def spoiled(content, version_2):
    """Answers to the questions of a file, each spoiled in one of many ways, and made odds of "no answer"."""
    chosen = random.Random(3)
    ways = [
        lambda text: text,
        lambda text: f"  The {text.upper()}!? ",
        lambda text: text.split()[0],
        lambda text: f"{text} and then some more of it",
        lambda text: f"an {text.replace(' ', '  the ')} -- 'quoted' (twice)",
        lambda text: f"“{text}”",
        lambda text: f"{text}—a",
        lambda text: " ".join(reversed(text.split())),
        lambda text: f"{text} {text}",
        lambda text: "...",
        lambda text: "the",
        lambda text: "" if version_2 else "something else",
    ]
    answers, odds = {}, {}
    for index, (context, question) in enumerate(squad_file.questions(content)):
        text = question["answers"][-1]["text"] if question["answers"] else context.split()[3]
        # Of two neighbours of one kind in turn, so that questions without an answer meet every way too.
        answers[question["id"]] = ways[(index // 4 + index) % len(ways)](text)
        odds[question["id"]] = chosen.uniform(-5, 5) + (0 if question["answers"] else 5)
    return answers, odds


@pytest.fixture(scope="module", params=[False, True], ids=["v1", "v2"])
def evaluated(request, tmp_path_factory):
    """The version, the questions, made answers and odds, and what ours says of them."""
    version_2 = request.param
    content = squad_file.make(version_2)
    path = tmp_path_factory.mktemp("scores") / "dev.json"
    path.write_text(json.dumps(content))
    answers, odds = spoiled(content, version_2)
    files = {squad_predict.PREDICTIONS: answers, squad_predict.NULL_ODDS: odds}
    questions = [question for _, question in squad_file.questions(content)]
    return version_2, questions, answers, odds, squad_predict.evaluate(path, files, version_2)


def test_scores_equal_the_published_definition(evaluated):
    version_2, questions, answers, _, ours = evaluated
    expected = squad_evaluation.evaluate(questions, answers, version_2)
    assert (ours["exact" if version_2 else "exact_match"], ours["f1"]) == pytest.approx(expected, abs=1e-9)
    assert 15 < expected[0] < expected[1] < 85, "Neither may be trivial, or the test says nothing."
    assert ours["total"] == len(questions) == 120


def test_scores_of_questions_with_and_without_an_answer(evaluated):
    version_2, questions, answers, _, ours = evaluated
    if not version_2:
        assert set(ours) == {"exact_match", "f1", "total"}
        return
    for prefix, wanted in (("HasAns", True), ("NoAns", False)):
        part = [question for question in questions if bool(question["answers"]) is wanted]
        expected = squad_evaluation.evaluate(part, answers, version_2=True)
        assert (ours[f"{prefix}_exact"], ours[f"{prefix}_f1"]) == pytest.approx(expected, abs=1e-9)
        assert ours[f"{prefix}_total"] == len(part) >= 30


def test_best_thresholds(evaluated):
    version_2, questions, answers, odds, ours = evaluated
    if not version_2:
        pytest.skip("SQuAD 1.1 has no thresholds")
    for which, name in enumerate(("exact", "f1")):
        assert ours[f"best_{name}"] == pytest.approx(squad_evaluation.best(questions, answers, odds, which), abs=1e-9)
        assert ours[f"best_{name}"] > ours[name]
        assert ours[f"best_{name}_thresh"] in odds.values()


@pytest.mark.parametrize("changes", [{"articles": ()}, {"punctuation": ""}, {"articles": ("the",)}])
def test_a_wrong_definition_is_noticed(evaluated, changes):
    """Articles kept, punctuation kept, one article forgotten: each changes both scores on this file."""
    version_2, questions, answers, _, ours = evaluated
    wrong = squad_evaluation.evaluate(questions, answers, version_2, **changes)
    assert abs(wrong[1] - ours["f1"]) > 0.01
    if changes != {"articles": ("the",)}:
        assert abs(wrong[0] - ours["exact" if version_2 else "exact_match"]) > 0.1


def test_only_the_first_gold_answer_is_not_enough(evaluated):
    version_2, questions, answers, _, ours = evaluated
    first = [{**question, "answers": question["answers"][:1]} for question in questions]
    assert squad_evaluation.evaluate(first, answers, version_2)[1] < ours["f1"] - 1
