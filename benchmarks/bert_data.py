"""Times tpu/prepare_bert_data.py against tf-models-official's create_pretraining_data on the same text and vocabulary.

    .venv/bin/python benchmarks/bert_data.py [--text FILE] [--rounds 5] [--json FILE]

What is timed, for both: from a text with one sentence a line, blank lines between documents, and a vocabulary, to
TFRecord files of examples of 128 tokens and at most 20 predictions, by a fresh process once it has imported what it
needs. Ours is the command itself, with checksums, manifest and the start of more processes, less the time of the same
command with --help. Model Garden's is `create_training_instances` and `write_instance_to_example_files`, called as
its own main calls them; it has no option to use more than one process. The seconds of start-up, most of them for
TensorFlow in Model Garden's case, are given apart.

The default text is the documentation in the sources of CPython and TensorFlow, a million words. Rounds are
interleaved, so that a load on the machine meets all; a ratio is that of the medians, and its range that of single
rounds. Before the clock starts, the token ids of both are compared on every sentence.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from machine import ROOT, describe_machine, print_machine

sys.path.insert(0, str(ROOT / "tpu"))
COMMAND = ROOT / "tpu" / "prepare_bert_data.py"

SEQ_LENGTH, MAX_PREDICTIONS, MASK_PROBABILITY, SHORT_PROBABILITY, SEED = 128, 20, 0.15, 0.1, 12345
PACKAGES = ("tensorflow", "tf-models-official", "tokenizers", "numpy")
THEIRS, OURS = "create_pretraining_data", "prepare_bert_data"
CONFIG = """
data: {{vocab_size: {vocab_size}, dupe_factor: {dupe_factor}}}
model: {{layers: 1, hidden_size: 8, attention_heads: 1, intermediate_size: 8}}
optimizer: {{}}
stages:
  - {{seq_length: 128, max_predictions: 20, global_batch_size: 1, steps: 1, learning_rate: 1, warmup_steps: 0}}
"""


def main():
    """Runs the rounds and prints a table."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text with blank lines between documents (default: documentation)")
    parser.add_argument("--vocab_size", type=int, default=8000, help="of the vocabulary to learn (default: 8000)")
    parser.add_argument("--dupe_factor", type=int, default=5, help="how often a document is masked anew (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default: 5)")
    parser.add_argument("--processes", type=int, default=cores, help="beside one process (default: one for each core)")
    parser.add_argument("--json", type=Path, help="a file for the results")
    parser.add_argument("--model_garden_in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model_garden_in:
        print(json.dumps(run_model_garden(arguments.model_garden_in, arguments.dupe_factor)))
        return

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        facts = make_inputs(folder, arguments.text, arguments.vocab_size, arguments.dupe_factor)
        processes = sorted({1, arguments.processes})
        rounds, start_ups = [], {THEIRS: [], OURS: []}
        for number in range(arguments.rounds):
            theirs = time_model_garden(folder, arguments.dupe_factor)
            start_up = time_command("--help")
            seconds = {THEIRS: theirs["seconds"]}
            for count in processes:
                seconds[ours(count)] = time_ours(folder, count) - start_up
            rounds.append(seconds)
            start_ups[THEIRS].append(theirs["start_up_seconds"])
            start_ups[OURS].append(start_up)
            print(f"round {number + 1}: " + ", ".join(f"{name} {s:.2f} s" for name, s in seconds.items()), flush=True)
        facts |= {"examples": count_examples(folder), "examples_model_garden": theirs["examples"]}
        facts["model_garden_same_ids"] = theirs["same_ids"]
        facts["start_up_seconds"] = {name: statistics.median(seconds) for name, seconds in start_ups.items()}
    results = {
        **describe_machine(cores, PACKAGES),
        **facts,
        "rounds": rounds,
        "table": summarize(rounds, facts["sentences"]),
    }
    print_report(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def ours(processes):
    """The name of a row of ours."""
    return f"{OURS}, {processes} process{'es' if processes > 1 else ''}"


# --- the inputs, the same for both ---


def make_inputs(folder, text, vocab_size, dupe_factor):
    """Writes a sentence-split text, a vocabulary learned from it, a config and a held-out text of two words."""
    import text_files
    import vocabulary
    import wordpiece
    from sentences import split_sentences

    if text:
        documents = list(text_files.open_text("train", text, document_per_file=False).documents())
    else:
        documents = documentation()
    sentences = [[s for line in document for s in split_sentences(line)] for document in documents]
    (folder / "text").write_text("\n\n".join(map("\n".join, sentences)) + "\n", encoding="utf-8")
    (folder / "held_out").write_text("one\n\ntwo\n")
    learned = wordpiece.train_vocabulary(lambda: (s for document in sentences for s in document), vocab_size)
    vocabulary.write(learned, folder / "vocab.txt")
    (folder / "config.yaml").write_text(CONFIG.format(vocab_size=len(learned), dupe_factor=dupe_factor))
    lines = [sentence for document in sentences for sentence in document]
    words = sum(len(sentence.split()) for sentence in lines)
    return {
        "text": str(text) if text else "the documentation of CPython and TensorFlow",
        "documents": len(documents),
        "sentences": len(lines),
        "words": words,
        "vocab_size": len(learned),
        "dupe_factor": dupe_factor,
    }


def documentation():
    """The documents of CPython and TensorFlow, as lists of paragraphs."""
    import python_docs

    tensorflow = Path(sysconfig.get_path("purelib")) / "tensorflow"
    raw = dict([*python_docs.documents(), *python_docs.documents(tensorflow)])
    return list(python_docs.clean(raw.items()).values())


# --- ours ---


def time_ours(folder, processes):
    """The seconds of the whole command."""
    output_dir = folder / "ours"
    for path in output_dir.glob("*"):
        path.unlink()
    inputs = ["--config_file", folder / "config.yaml", "--train_text", folder / "text"]
    inputs += ["--held_out_text", folder / "held_out", "--sentence_per_line", "--vocab_file", folder / "vocab.txt"]
    return time_command(*inputs, "--output_dir", output_dir, "--processes", str(processes))


def time_command(*arguments):
    """The seconds from the start of our command to its end."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def count_examples(folder):
    """How many training examples ours wrote."""
    import bert_manifest

    return bert_manifest.Manifest.load(folder / "ours").records(folder / "ours", "train", SEQ_LENGTH)[1]


# --- Model Garden's ---


def time_model_garden(folder, dupe_factor):
    """What `run_model_garden` gives, in a fresh process."""
    command = [sys.executable, __file__, "--model_garden_in", folder, "--dupe_factor", str(dupe_factor)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads(result.stdout.splitlines()[-1])


def run_model_garden(folder, dupe_factor):
    """Does what the main of `create_pretraining_data` does, with a clock."""
    begun = time.perf_counter()
    from official.nlp.data import create_pretraining_data as theirs
    from official.nlp.tools import tokenization

    start_up_seconds = time.perf_counter() - begun
    tokenizer = tokenization.FullTokenizer(vocab_file=str(folder / "vocab.txt"), do_lower_case=True)
    same_ids = compare_ids(folder, tokenizer)

    begun = time.perf_counter()
    rng = random.Random(SEED)
    instances = theirs.create_training_instances(
        [str(folder / "text")],
        tokenizer,
        theirs.get_processor_text_fn(False, True),
        SEQ_LENGTH,
        dupe_factor,
        SHORT_PROBABILITY,
        MASK_PROBABILITY,
        MAX_PREDICTIONS,
        rng,
    )
    files = [str(folder / f"model_garden-{number}") for number in range(4)]
    theirs.write_instance_to_example_files(
        instances, tokenizer, SEQ_LENGTH, MAX_PREDICTIONS, files, gzip_compress=False, use_v2_feature_names=True
    )
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "start_up_seconds": start_up_seconds,
        "examples": len(instances),
        "same_ids": same_ids,
    }


def compare_ids(folder, tokenizer):
    """Whether both give the same token ids for every sentence."""
    import vocabulary
    import wordpiece

    word_piece = wordpiece.WordPiece(vocabulary.read(folder / "vocab.txt"))
    lines = (folder / "text").read_text(encoding="utf-8").split("\n")
    theirs = (tokenizer.convert_tokens_to_ids(tokenizer.tokenize(line)) for line in lines)
    return all(word_piece.token_ids(line) == ids for line, ids in zip(lines, theirs, strict=True))


# --- the report ---


def summarize(rounds, sentences):
    """A row for each: median seconds, sentences per second, and the ratio to Model Garden's with its range."""
    rows = []
    theirs = statistics.median(seconds[THEIRS] for seconds in rounds)
    for name in rounds[0]:
        median = statistics.median(seconds[name] for seconds in rounds)
        ratios = [seconds[THEIRS] / seconds[name] for seconds in rounds]
        rows.append(
            {
                "name": name,
                "seconds": median,
                "sentences_per_second": sentences / median,
                "ratio": theirs / median,
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            }
        )
    return rows


def print_report(results):
    """Prints the facts and the table."""
    print_machine(results, PACKAGES)
    print(
        f"text: {results['text']}, {results['documents']:,} documents, {results['sentences']:,} sentences, "
        f"{results['words']:,} words; vocabulary of {results['vocab_size']:,}; each document masked "
        f"{results['dupe_factor']} times"
    )
    print(
        f"examples: {results['examples']:,}, Model Garden's {results['examples_model_garden']:,}; token ids "
        f"{'identical' if results['model_garden_same_ids'] else 'DIFFERENT'}"
    )
    start_ups = (f"{name} {seconds:.1f} s" for name, seconds in results["start_up_seconds"].items())
    print(f"start-up, not counted below: {', '.join(start_ups)}")
    print(f"\n{'':32} {'seconds':>8} {'sentences/s':>12} {'ratio':>7}  range")
    for row in results["table"]:
        print(
            f"{row['name']:32} {row['seconds']:8.2f} {row['sentences_per_second']:12,.0f} {row['ratio']:7.1f}  "
            f"{row['lowest_ratio']:.1f} to {row['highest_ratio']:.1f}"
        )


if __name__ == "__main__":
    main()
