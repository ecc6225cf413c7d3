"""Answers to SQuAD questions: logits of every feature, n-best lists, and the scores of the official evaluation."""

import json

import tensorflow as tf
from official.nlp.data import squad_lib
from official.nlp.tasks.question_answering import RawAggregatedResult
from official.nlp.tools import squad_evaluate_v1_1, squad_evaluate_v2_0
from tqdm import tqdm

import squad_input
from atomic_file import atomic_path
from paths import as_path, read_bytes

PREDICTIONS, N_BEST, NULL_ODDS = "predictions.json", "nbest_predictions.json", "null_odds.json"


def logits(strategy, task, model, dataset, steps):
    """Runs the model over a dataset.

    Args:
        strategy: The `tf.distribute.Strategy`.
        task: The `SquadTask`.
        model: Its model.
        dataset: A distributed dataset of `squad_input.predict_batches`.
        steps: The number of its global batches.

    Returns:
        A `RawAggregatedResult` for each feature, on every host for the features of all.
    """

    @tf.function
    def step(inputs):
        outputs = strategy.run(lambda inputs: task.validation_step(inputs, model), args=(inputs,))
        return {name: strategy.gather(value, axis=0) for name, value in outputs.items()}

    results, batches = [], iter(dataset)
    for _ in tqdm(range(steps), desc="predict", unit="step", dynamic_ncols=True):
        outputs = step(next(batches))
        columns = [outputs[name].numpy() for name in ("unique_ids", "start_logits", "end_logits")]
        for unique_id, start, end in zip(*columns, strict=True):
            if unique_id != squad_input.PADDING_ID:
                results.append(RawAggregatedResult(int(unique_id), start.tolist(), end.tolist()))
    return results


def answers(examples, features, results, config):
    """Turns logits into answers as the published code does.

    Args:
        examples: The `SquadExample`s of `squad_features.read_examples`.
        features: The `InputFeatures` of `squad_features.read_features`.
        results: The `RawAggregatedResult`s of `logits`.
        config: The `SquadConfig`.

    Returns:
        A dict of what goes into each file, by its name, each keyed by the question's id: the answer; the n-best list
        of `text`, `probability`, `start_logit` and `end_logit`; and for SQuAD 2.0 the score of "no answer" less that of
        the best answer.
    """
    version_2 = config.data.version_2_with_negative
    predictions, n_best, null_odds = squad_lib.postprocess_output(
        all_examples=examples,
        all_features=features,
        all_results=results,
        n_best_size=config.prediction.n_best_size,
        max_answer_length=config.prediction.max_answer_length,
        do_lower_case=True,
        version_2_with_negative=version_2,
        null_score_diff_threshold=config.prediction.null_score_diff_threshold,
    )
    files = {PREDICTIONS: predictions, N_BEST: n_best}
    return files | ({NULL_ODDS: null_odds} if version_2 else {})


def evaluate(squad_file, files, version_2_with_negative):
    """Scores answers as the official evaluation scripts do, in percent and under their names.

    Args:
        squad_file: The path of the JSON file with the gold answers.
        files: What `answers` returned.
        version_2_with_negative: Whether the file is SQuAD 2.0.

    Returns:
        `exact_match`, `f1` and `total` for SQuAD 1.1. For 2.0 `exact`, `f1` and `total` over all questions, over those
        with an answer (`HasAns_*`) and those without (`NoAns_*`), and `best_*`: the scores at the threshold of "no
        answer" that is best for them.
    """
    dataset = json.loads(read_bytes(squad_file))["data"]
    if not version_2_with_negative:
        scores = squad_evaluate_v1_1.evaluate(dataset, files[PREDICTIONS])
        return {
            "exact_match": 100 * scores["exact_match"],
            "f1": 100 * scores["final_f1"],
            "total": len(files[PREDICTIONS]),
        }
    scores = squad_evaluate_v2_0.evaluate(dataset, files[PREDICTIONS])
    groups = ("exact", "f1", "total")
    kept = {
        name: value for name, value in scores.items() if name.removeprefix("HasAns_").removeprefix("NoAns_") in groups
    }
    # Only the thresholds need the odds; the other scores are of the answers as they were given.
    scores = squad_evaluate_v2_0.evaluate(dataset, files[PREDICTIONS], files[NULL_ODDS])
    best = {"best_exact": "final_exact", "best_exact_thresh": "final_exact_thresh"}
    best |= {"best_f1": "final_f1", "best_f1_thresh": "final_f1_thresh"}
    return kept | {name: scores[theirs] for name, theirs in best.items()}


def write(files, folder):
    """Writes each content of a dict as the JSON file of its name, four spaces deep as the published code does."""
    for name, content in files.items():
        with atomic_path(as_path(folder) / name) as unfinished:
            unfinished.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
