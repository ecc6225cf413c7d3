"""Times tpu/prepare_bert_data.py against tf-models-official's create_pretraining_data on the same text and vocabulary.

    python benchmarks/bert_data.py [--text FILE] [--rounds 2] [--json FILE]

What is timed, for both: from a text with one sentence a line, blank lines between documents, and a vocabulary, to
TFRecord files of examples of 128 tokens and at most 20 predictions, by a fresh process once it has imported what it
needs. Ours is the command itself, with checksums, manifest and the start of more processes, less the time of the same
command with --help, each the median of three. Model Garden's is `create_training_instances` and
`write_instance_to_example_files`, called as its own main calls them; it has no option to use more than one process.

The default text is the documentation in the sources of CPython and TensorFlow, a million words. A ratio is to Model
Garden. Before the clock starts, the token ids of both are compared on every sentence.
"""

import argparse
import json
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import cases
import child
from interleaved import OtherLoad, summarize
from machine import ROOT

sys.path.insert(0, str(ROOT / "tpu"))
COMMAND = ROOT / "tpu" / "prepare_bert_data.py"

SEQ_LENGTH, MAX_PREDICTIONS, MASK_PROBABILITY, SHORT_PROBABILITY, SEED = 128, 20, 0.15, 0.1, 12345
PACKAGES = ("tensorflow", "tf-models-official", "tokenizers", "numpy")
# Of ours, which take two seconds, for one of Model Garden's.
CALLS = 3
THEIRS, OURS = "create_pretraining_data", "prepare_bert_data"
CONFIG = """
data: {{vocab_size: {vocab_size}, dupe_factor: {dupe_factor}}}
model: {{layers: 1, hidden_size: 8, attention_heads: 1, intermediate_size: 8}}
optimizer: {{}}
stages:
  - {{seq_length: 128, max_predictions: 20, global_batch_size: 1, steps: 1, learning_rate: 1, warmup_steps: 0}}
"""


def main():
    """Times the rounds."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text with blank lines between documents (default: documentation)")
    parser.add_argument("--vocab_size", type=int, default=8000, help="of the vocabulary to learn (default: 8000)")
    parser.add_argument("--dupe_factor", type=int, default=5, help="how often a document is masked anew (default: 5)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is timed (default: 2)")
    parser.add_argument("--processes", type=int, default=cores, help="beside one process (default: one for each core)")
    parser.add_argument("--model_garden_in", type=Path, help=argparse.SUPPRESS)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.model_garden_in:
        print(json.dumps(run_model_garden(arguments.model_garden_in, arguments.dupe_factor)))
        return
    rounds, dupe_factor = (1, 1) if arguments.quick else (arguments.rounds, arguments.dupe_factor)
    with tempfile.TemporaryDirectory() as folder, OtherLoad() as load:
        folder = Path(folder)
        note = make_inputs(folder, arguments.text, arguments.vocab_size, dupe_factor)
        counts = sorted({1, arguments.processes})
        seconds = {THEIRS: []} | {ours(count): [] for count in counts}
        for _ in range(rounds):
            theirs = time_model_garden(folder, dupe_factor)
            if not theirs["same_ids"]:
                raise RuntimeError("The token ids of Model Garden differ from ours.")
            seconds[THEIRS].append(theirs["seconds"])
            start_up = median_of_calls(lambda: time_command("--help"))
            for count in counts:
                seconds[ours(count)].append(median_of_calls(lambda count=count: time_ours(folder, count)) - start_up)
        note += (
            f"; {count_examples(folder):,} examples, Model Garden's {theirs['examples']:,}, with the same token ids."
        )
    measured = [cases.make("examples for BERT", "seconds", summarize(seconds, THEIRS), {}, load, note)]
    cases.finish("bert_data", PACKAGES, measured, arguments)


def ours(processes):
    """The name of a row of ours."""
    return f"{OURS}, {processes} process{'es' if processes > 1 else ''}"


# --- the inputs, the same for both ---


def make_inputs(folder, text, vocab_size, dupe_factor):
    """Writes a sentence-split text, a vocabulary learned from it, a config and a held-out text of two words.

    Returns:
        What the text is, in words.
    """
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
    source = text or "The documentation of CPython and TensorFlow"
    return (
        f"{source}: {len(documents):,} documents, {len(lines):,} sentences, {words:,} words; a vocabulary of "
        f"{len(learned):,}; each document masked {dupe_factor} times"
    )


def documentation():
    """The documents of CPython and TensorFlow, as lists of paragraphs."""
    import python_docs

    tensorflow = Path(sysconfig.get_path("purelib")) / "tensorflow"
    raw = dict([*python_docs.documents(), *python_docs.documents(tensorflow)])
    return list(python_docs.clean(raw.items()).values())


# --- ours ---


def median_of_calls(time_it):
    """The median of `CALLS` times in seconds."""
    return statistics.median(time_it() for _ in range(CALLS))


def time_ours(folder, processes):
    """The seconds of the whole command."""
    output_dir = folder / "ours"
    for path in output_dir.glob("*"):
        path.unlink()
    inputs = ["--config_file", folder / "config.yaml", "--train_text", folder / "text"]
    inputs += ["--held_out_text", folder / "held_out", "--sentence_per_line", "--vocab_file", folder / "vocab.txt"]
    return time_command(*inputs, "--output_dir", output_dir, "--processes", processes)


def time_command(*arguments):
    """The seconds from the start of our command to its end."""
    begun = time.perf_counter()
    child.run(COMMAND, *arguments)
    return time.perf_counter() - begun


def count_examples(folder):
    """How many training examples ours wrote."""
    import bert_manifest

    return bert_manifest.Manifest.load(folder / "ours").records(folder / "ours", "train", SEQ_LENGTH)[1]


# --- Model Garden's ---


def time_model_garden(folder, dupe_factor):
    """What `run_model_garden` gives, in a fresh process."""
    return child.ask(__file__, "--model_garden_in", folder, "--dupe_factor", dupe_factor)


def run_model_garden(folder, dupe_factor):
    """Does what the main of `create_pretraining_data` does, with a clock."""
    from official.nlp.data import create_pretraining_data as theirs
    from official.nlp.tools import tokenization

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
    return {"seconds": time.perf_counter() - begun, "examples": len(instances), "same_ids": same_ids}


def compare_ids(folder, tokenizer):
    """Whether both give the same token ids for every sentence."""
    import vocabulary
    import wordpiece

    word_piece = wordpiece.WordPiece(vocabulary.read(folder / "vocab.txt"))
    lines = (folder / "text").read_text(encoding="utf-8").split("\n")
    theirs = (tokenizer.convert_tokens_to_ids(tokenizer.tokenize(line)) for line in lines)
    return all(word_piece.token_ids(line) == ids for line, ids in zip(lines, theirs, strict=True))


if __name__ == "__main__":
    cases.run(main)
