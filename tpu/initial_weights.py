"""Weights to begin with, from a pre-trained checkpoint: a run of ours, or either layout of the public BERT.

Three layouts, told apart by the variables that a checkpoint holds:

1. name-based, as TensorFlow 1 wrote the public bert_model.ckpt: `bert/embeddings/word_embeddings`, ...;
2. object-based with an encoder at its root or in its model, as Model Garden publishes them;
3. ours, which is object-based too: the encoder is `model.encoder_network`, and `model._network` after fine-tuning.

Fine-tuning takes the encoder; pre-training takes the heads too, where the checkpoint has them.
"""

import collections
import contextlib
import math
from pathlib import Path

import tensorflow as tf
from official.nlp.tools.tf1_bert_checkpoint_converter_lib import BERT_V2_NAME_REPLACEMENTS
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from config import CHECKPOINTS, ConfigError
from paths import as_path
from run_folder import newest_checkpoint

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
TF1_WORD_EMBEDDINGS = "bert/embeddings/word_embeddings"
# The first that is there is the encoder. A model is looked into before it is taken for the encoder itself.
ENCODER_PATHS = (
    ("encoder",),
    ("model", "encoder"),
    ("model", "encoder_network"),
    ("model", "_network"),
    ("encoder_network",),
    ("model",),
)


def load_encoder(encoder: tf.Module, checkpoint_or_run: str | Path) -> str:
    """Gives an encoder the weights of a checkpoint.

    Args:
        encoder: Model Garden's `BertEncoder`, built, perhaps in the scope of a strategy.
        checkpoint_or_run: The prefix of a checkpoint, a folder of checkpoints, or the folder of a run, of which the
            newest checkpoint is taken.

    Returns:
        What was read, in words.

    Raises:
        ConfigError: There is no checkpoint, it cannot be read, holds no BERT encoder, or one of another shape.
    """
    checkpoint = find_checkpoint(checkpoint_or_run)
    with _damage_is_said(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        shapes = reader.get_variable_to_shape_map()
        if TF1_WORD_EMBEDDINGS in shapes:
            _load_by_name(encoder, reader, shapes, checkpoint)
            return f"encoder of {checkpoint} (TensorFlow 1)"
        if OBJECT_GRAPH in shapes:
            graph = TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH))
            for path in ENCODER_PATHS:
                node = _follow(graph, path)
                if node is not None:
                    _load_by_object(encoder, graph, node, shapes, path, checkpoint)
                    return f"{'.'.join(path)} of {checkpoint}"
    raise ConfigError(
        f"The checkpoint holds no BERT encoder. Received: {checkpoint} with {', '.join(sorted(shapes)[:3])}, ... "
        f"Expected {TF1_WORD_EMBEDDINGS}, or one of {', '.join('.'.join(path) for path in ENCODER_PATHS)}."
    )


def load_pretrainer(model: tf.Module, checkpoint_or_run: str | Path) -> str:
    """Gives a model of pre-training the weights of a checkpoint, those of its heads too if they are there.

    Args:
        model: The model of `bert_task.PretrainTask`, built, perhaps in the scope of a strategy.
        checkpoint_or_run: As in `load_encoder`.

    Returns:
        What was read, in words.

    Raises:
        ConfigError: As `load_encoder`; or a head has another shape.
    """
    checkpoint = find_checkpoint(checkpoint_or_run)
    read = load_encoder(model.encoder_network, checkpoint)
    with _damage_is_said(checkpoint):
        has_heads = _load_heads(model, checkpoint)
    return f"{read}, with its heads" if has_heads else f"{read}; its heads begin at random"


def _load_heads(model, checkpoint):
    """Gives the heads of pre-training their weights; returns False, having done nothing, if they are not there."""
    reader = tf.train.load_checkpoint(checkpoint)
    shapes = reader.get_variable_to_shape_map()
    heads = _heads(model)
    if all(name in shapes for name, _, _ in heads):
        for name, variable, is_transposed in heads:
            value = reader.get_tensor(name)
            value = value.T if is_transposed else value
            if value.shape != variable.shape:
                raise _other_model(checkpoint, f"{name} of {list(value.shape)}", variable.shape.as_list())
            variable.assign(value)
        return True
    if OBJECT_GRAPH in shapes:
        graph = TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH))
        if _follow(graph, ("model", "masked_lm")) is not None:
            try:
                whole = tf.train.Checkpoint(model=model).read(checkpoint)
                whole.assert_existing_objects_matched().expect_partial()
            except (AssertionError, ValueError) as error:
                raise _other_model(checkpoint, str(error).splitlines()[0], "the heads of pre-training") from None
            return True
    return False


@contextlib.contextmanager
def _damage_is_said(checkpoint):
    """Makes what TensorFlow raises of a damaged checkpoint one sentence."""
    try:
        yield
    except ConfigError:
        raise
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise ConfigError(
            f"The checkpoint cannot be read. Received: {checkpoint} ({str(error).splitlines()[0]}). "
            "Expected a whole checkpoint of TensorFlow."
        ) from None


def initialize(load, part, checkpoint_or_run: str | None, model_dir: str | Path) -> None:
    """Gives a model its first weights, unless the run has a checkpoint of its own; prints which.

    Args:
        load: `load_encoder` or `load_pretrainer`.
        part: What it is to load.
        checkpoint_or_run: As in `load_encoder`; None for weights at random.
        model_dir: The folder of the run.
    """
    if newest_checkpoint(as_path(model_dir) / CHECKPOINTS):
        print("the run goes on from its own checkpoint")
    elif checkpoint_or_run:
        print(f"initial weights: {load(part, checkpoint_or_run)}")
    else:
        print("initial weights: random, since no --init_checkpoint is given")


def find_checkpoint(checkpoint_or_run: str | Path) -> str:
    """The prefix of the checkpoint that is meant by a prefix, a folder of checkpoints or a run."""
    path = as_path(checkpoint_or_run)
    for folder in (path / CHECKPOINTS, path):
        if folder.is_dir() and (newest := newest_checkpoint(folder)):
            return newest
    if as_path(f"{path}.index").is_file():
        return str(path)
    raise ConfigError(
        f"No checkpoint found. Received: {checkpoint_or_run}. Expected the folder of a run, "
        "or a checkpoint without its suffix, such as bert_model.ckpt."
    )


def _load_by_name(encoder, reader, shapes, checkpoint):
    names = {}
    for old in shapes:
        new = old
        for pattern, replacement in BERT_V2_NAME_REPLACEMENTS:
            new = new.replace(pattern, replacement)
        names[new] = old
    for variable in encoder.variables:
        name = variable.name.removesuffix(":0")
        if name not in names:
            raise _other_model(checkpoint, "no variable", f"{name} of {variable.shape.as_list()}")
        # TensorFlow 1 kept the heads of attention in one axis; some conversions have them apart.
        if shapes[names[name]] not in (variable.shape.as_list(), _fused(name, variable.shape.as_list())):
            received = f"{names[name]} of {shapes[names[name]]}"
            raise _other_model(checkpoint, received, variable.shape.as_list())
        variable.assign(reader.get_tensor(names[name]).reshape(variable.shape))
    loaded = {variable.name.removesuffix(":0") for variable in encoder.variables}
    # A deeper encoder than ours would lose its last layers unnoticed.
    left = [old for new, old in names.items() if new.startswith("transformer/") and new not in loaded]
    left = [old for old in left if "adam" not in old.lower() and "lamb" not in old.lower()]
    if left:
        raise _other_model(checkpoint, f"{sorted(left)[0]} too", f"{len(encoder.variables)} variables")


def _heads(model):
    """The heads' variables: their names in the public checkpoint, themselves, and whether they are stored transposed.

    BERT's pooler belongs to next-sentence prediction, whose head has it here.
    """
    transform, norm = "cls/predictions/transform/dense", "cls/predictions/transform/LayerNorm"
    masked_lm, (next_sentence,) = model.masked_lm, model.classification_heads
    return [
        (f"{transform}/kernel", masked_lm.dense.kernel, False),
        (f"{transform}/bias", masked_lm.dense.bias, False),
        (f"{norm}/gamma", masked_lm.layer_norm.gamma, False),
        (f"{norm}/beta", masked_lm.layer_norm.beta, False),
        ("cls/predictions/output_bias", masked_lm.bias, False),
        ("bert/pooler/dense/kernel", next_sentence.dense.kernel, False),
        ("bert/pooler/dense/bias", next_sentence.dense.bias, False),
        ("cls/seq_relationship/output_weights", next_sentence.out_proj.kernel, True),
        ("cls/seq_relationship/output_bias", next_sentence.out_proj.bias, False),
    ]


def _fused(name, shape):
    """The shape of a variable with the attention heads in one axis."""
    if "/self_attention/attention_output/kernel" in name:
        return [shape[0] * shape[1], shape[2]]
    if "/self_attention/" in name and "/attention_output/" not in name:
        return [*shape[:-2], shape[-2] * shape[-1]]
    return shape


def _load_by_object(encoder, graph, node, shapes, path, checkpoint):
    expected = collections.Counter(tuple(variable.shape) for variable in encoder.variables)
    received = collections.Counter(tuple(shapes[key]) for key in _keys_below(graph, node))
    if received != expected:
        missing, extra = (max(part, key=math.prod, default=None) for part in (expected - received, received - expected))
        raise _other_model(
            checkpoint,
            f"a variable of {list(extra)}" if extra else "fewer variables",
            list(missing) if missing else "fewer variables",
        )
    root = encoder
    for name in reversed(path):
        root = tf.train.Checkpoint(**{name: root})
    try:
        root.read(checkpoint).assert_existing_objects_matched().expect_partial()
    except AssertionError as error:
        raise _other_model(checkpoint, str(error).splitlines()[0], "the encoder of the config") from None


def _follow(graph, path):
    """The number of the node at a path of attributes from the root; None if there is none."""
    node = 0
    for name in path:
        children = {child.local_name: child.node_id for child in graph.nodes[node].children}
        if name not in children:
            return None
        node = children[name]
    return node


def _keys_below(graph, node):
    """The keys of all variables of a node and of what it holds, each once."""
    seen, waiting, keys = set(), [node], set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [child.node_id for child in graph.nodes[node].children]
            keys |= {attribute.checkpoint_key for attribute in graph.nodes[node].attributes}
    return keys


def _other_model(checkpoint, received, expected):
    return ConfigError(
        f"The checkpoint is of another model or vocabulary. Received: {checkpoint} with {received}. "
        f"Expected: {expected}, by the config and the vocabulary."
    )
