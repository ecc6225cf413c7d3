"""Initial weights from each layout of a checkpoint: every weight, and the outputs of a forward pass in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

from official.nlp.modeling import models, networks  # noqa: E402

import initial_weights  # noqa: E402
from bert_config import ModelConfig  # noqa: E402
from bert_task import PretrainTask  # noqa: E402
from config import ConfigError  # noqa: E402
from squad_config import SquadConfig  # noqa: E402
from squad_task import SquadTask, encoder_of  # noqa: E402

pytestmark = pytest.mark.model_garden

VOCAB_SIZE, LAYERS, WIDTH, HEADS, INNER, POSITIONS = 60, 2, 16, 4, 24, 32
SHAPE = {
    "layers": LAYERS,
    "hidden_size": WIDTH,
    "attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_positions": POSITIONS,
}


def squad_encoder(vocab_size=VOCAB_SIZE, **changes):
    """An encoder as a SQuAD run makes it."""
    config = SquadConfig.model_validate(
        {
            "data": {"version_2_with_negative": False, "seq_length": 24, "max_query_length": 8, "doc_stride": 8},
            "model": {**SHAPE, **changes},
            "training": {"global_batch_size": 1, "epochs": 1, "learning_rate": 1.0, "warmup_ratio": 0.1},
            "optimizer": {"name": "adamw"},
        }
    )
    return encoder_of(SquadTask(config, vocab_size).build_model())


def published_weights(seed=0):
    """Weights under the names and shapes of the public bert_model.ckpt, heads of pre-training and Adam's included."""
    random = np.random.default_rng(seed)
    shapes = {
        "bert/embeddings/word_embeddings": (VOCAB_SIZE, WIDTH),
        "bert/embeddings/position_embeddings": (POSITIONS, WIDTH),
        "bert/embeddings/token_type_embeddings": (2, WIDTH),
        "bert/pooler/dense/kernel": (WIDTH, WIDTH),
        "bert/pooler/dense/bias": (WIDTH,),
        "cls/predictions/output_bias": (VOCAB_SIZE,),
        "cls/predictions/transform/dense/kernel": (WIDTH, WIDTH),
        "cls/predictions/transform/dense/bias": (WIDTH,),
        "cls/seq_relationship/output_weights": (2, WIDTH),
        "cls/seq_relationship/output_bias": (2,),
    }
    norms = ["bert/embeddings/LayerNorm", "cls/predictions/transform/LayerNorm"]
    for layer in range(LAYERS):
        name = f"bert/encoder/layer_{layer}"
        for part in ("query", "key", "value"):
            shapes[f"{name}/attention/self/{part}/kernel"] = (WIDTH, WIDTH)
            shapes[f"{name}/attention/self/{part}/bias"] = (WIDTH,)
        for part, rows, columns in (
            ("attention/output", WIDTH, WIDTH),
            ("intermediate", WIDTH, INNER),
            ("output", INNER, WIDTH),
        ):
            shapes[f"{name}/{part}/dense/kernel"] = (rows, columns)
            shapes[f"{name}/{part}/dense/bias"] = (columns,)
        norms += [f"{name}/attention/output/LayerNorm", f"{name}/output/LayerNorm"]
    weights = {name: random.normal(size=shape) * 0.3 for name, shape in shapes.items()}
    for name in norms:
        weights |= {
            f"{name}/gamma": random.normal(size=WIDTH) * 0.2 + 1,
            f"{name}/beta": random.normal(size=WIDTH) * 0.2,
        }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    slots = {f"{name}/adam_{slot}": value * 0 + 9 for name, value in weights.items() for slot in "mv"}
    return weights | slots


def save_tf1(values, path):
    """Writes values as TensorFlow 1 does."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.compat.v1.get_variable(name, initializer=value) for name, value in values.items()}
        variables["global_step"] = tf.compat.v1.train.get_or_create_global_step()
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.train.Saver(variables).save(session, str(path), write_meta_graph=False)


def dense(weights, x, name):
    return x @ weights[f"{name}/kernel"].astype(np.float64) + weights[f"{name}/bias"]


def norm(weights, x, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-12)
    return scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def gelu(x):
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def forward(weights, ids, mask, types):
    """The sequence output of BERT in NumPy, float64, from weights under their published names."""

    def heads(x):
        return x.reshape(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)

    names = "word_embeddings token_type_embeddings position_embeddings".split()
    words, kinds, positions = (weights[f"bert/embeddings/{name}"].astype(np.float64) for name in names)
    x = norm(weights, words[ids] + kinds[types] + positions[: ids.shape[1]], "bert/embeddings/LayerNorm")
    for layer in range(LAYERS):
        name = f"bert/encoder/layer_{layer}"
        query, key, value = (
            heads(dense(weights, x, f"{name}/attention/self/{part}")) for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(WIDTH // HEADS) - 1e9 * (1 - mask[:, None, None, :])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True)) @ value
        context = context.transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(
            weights, x + dense(weights, context, f"{name}/attention/output/dense"), f"{name}/attention/output/LayerNorm"
        )
        inner = gelu(dense(weights, x, f"{name}/intermediate/dense"))
        x = norm(weights, x + dense(weights, inner, f"{name}/output/dense"), f"{name}/output/LayerNorm")
    return x


def sequence_output(encoder, ids, mask, types):
    inputs = {"input_word_ids": ids, "input_mask": mask, "input_type_ids": types}
    return encoder({name: tf.constant(value, tf.int32) for name, value in inputs.items()})["sequence_output"].numpy()


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(1)
    mask = np.ones([3, 10], int)
    mask[1, 6:] = 0
    return random.integers(0, VOCAB_SIZE, [3, 10]), mask, random.integers(0, 2, [3, 10])


@pytest.mark.parametrize("heads_apart", [False, True])
def test_the_public_layout_of_tensorflow_1(tmp_path, batch, heads_apart):
    weights = published_weights()
    stored = dict(weights)
    if heads_apart:
        for name, value in weights.items():
            if "/attention/self/" in name and "adam" not in name:
                stored[name] = value.reshape(*value.shape[:-1], HEADS, WIDTH // HEADS)
            if name.endswith("/attention/output/dense/kernel"):
                stored[name] = value.reshape(HEADS, WIDTH // HEADS, WIDTH)
    path = save_tf1(stored, tmp_path / "bert_model.ckpt")
    encoder = squad_encoder()
    assert "(TensorFlow 1)" in initial_weights.load_encoder(encoder, path)

    # Each variable of the encoder by its place in the model, written down here without the converter's table.
    found = {variable.name.removesuffix(":0"): variable.numpy() for variable in encoder.variables}
    expected = {
        "word_embeddings/embeddings": "embeddings/word_embeddings",
        "position_embedding/embeddings": "embeddings/position_embeddings",
        "type_embeddings/embeddings": "embeddings/token_type_embeddings",
        "embeddings/layer_norm/gamma": "embeddings/LayerNorm/gamma",
        "embeddings/layer_norm/beta": "embeddings/LayerNorm/beta",
        "pooler_transform/kernel": "pooler/dense/kernel",
        "pooler_transform/bias": "pooler/dense/bias",
    }
    for layer in range(LAYERS):
        ours, theirs = f"transformer/layer_{layer}", f"encoder/layer_{layer}"
        for kind in ("kernel", "bias"):
            for part in ("query", "key", "value"):
                expected[f"{ours}/self_attention/{part}/{kind}"] = f"{theirs}/attention/self/{part}/{kind}"
            expected[f"{ours}/self_attention/attention_output/{kind}"] = f"{theirs}/attention/output/dense/{kind}"
            expected[f"{ours}/intermediate/{kind}"] = f"{theirs}/intermediate/dense/{kind}"
            expected[f"{ours}/output/{kind}"] = f"{theirs}/output/dense/{kind}"
        for kind in ("gamma", "beta"):
            expected[f"{ours}/self_attention_layer_norm/{kind}"] = f"{theirs}/attention/output/LayerNorm/{kind}"
            expected[f"{ours}/output_layer_norm/{kind}"] = f"{theirs}/output/LayerNorm/{kind}"
    assert found.keys() == expected.keys()
    for name, theirs in expected.items():
        np.testing.assert_array_equal(found[name].ravel(), weights[f"bert/{theirs}"].ravel(), err_msg=name)

    output = sequence_output(encoder, *batch)
    seen = batch[1][..., None]
    np.testing.assert_allclose(output * seen, forward(weights, *batch) * seen, atol=1e-4)
    assert np.abs(output - sequence_output(squad_encoder(), *batch)).max() > 0.1


def test_a_weight_in_the_wrong_place_is_noticed(batch):
    """The forward pass of the test tells each matrix of a layer from its neighbours."""
    weights = published_weights()
    expected = forward(weights, *batch)
    for one, other in (
        ("attention/self/query", "attention/self/key"),
        ("attention/output/dense", "attention/self/value"),
    ):
        swapped = dict(weights)
        one, other = f"bert/encoder/layer_1/{one}/kernel", f"bert/encoder/layer_1/{other}/kernel"
        swapped[one], swapped[other] = swapped[other], swapped[one]
        assert np.abs(forward(swapped, *batch) - expected).max() > 1e-2
    transposed = {**weights, one: weights[one].T}
    assert np.abs(forward(transposed, *batch) - expected).max() > 1e-2


def pretrained():
    return PretrainTask(ModelConfig(**SHAPE), VOCAB_SIZE, baseline_token=1).build_model()


def bert_encoder():
    return networks.BertEncoder(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_sequence_length=POSITIONS,
        type_vocab_size=2,
        dict_outputs=True,
    )


def checkpoints_of():
    """Layouts of object-based checkpoints: the saved objects, their encoder, and what is said of it."""
    model = pretrained()
    yield "a run", {"model": model}, model.encoder_network, "model.encoder_network of"
    yield "Model Garden's trainer", {"model": model, **model.checkpoint_items}, model.encoder_network, "encoder of"
    encoder = bert_encoder()
    yield "a public encoder", {"encoder": encoder}, encoder, "encoder of"
    encoder = bert_encoder()
    yield "an older public encoder", {"model": encoder}, encoder, "model of"
    encoder = bert_encoder()
    span_labeler = models.BertSpanLabeler(encoder)
    yield "fine-tuned", {"model": span_labeler}, encoder, "model._network of"
    holder = tf.Module()
    holder.encoder = bert_encoder()
    yield "an encoder in a model", {"model": holder}, holder.encoder, "model.encoder of"


@pytest.mark.parametrize("number", range(6))
def test_object_based_layouts(tmp_path, batch, number):
    label, objects, source, said = list(checkpoints_of())[number]
    for variable in source.variables:
        variable.assign(np.random.default_rng(len(variable.name)).normal(size=variable.shape) * 0.3)
    path = tf.train.Checkpoint(**objects).save(str(tmp_path / "checkpoints" / "ckpt"))
    encoder = squad_encoder()
    for given in (path, tmp_path / "checkpoints", tmp_path):
        assert initial_weights.load_encoder(encoder, given).startswith(said), label
    for variable, original in zip(encoder.variables, source.variables, strict=True):
        np.testing.assert_array_equal(variable, original, err_msg=variable.name)
    np.testing.assert_array_equal(sequence_output(encoder, *batch), sequence_output(source, *batch))


def outputs_of(model, ids, mask, types, positions):
    inputs = {"input_word_ids": ids, "input_mask": mask, "input_type_ids": types, "masked_lm_positions": positions}
    outputs = model({name: tf.constant(value, tf.int32) for name, value in inputs.items()}, training=False)
    return outputs["mlm_logits"].numpy(), outputs["next_sentence"].numpy()


def test_pretraining_goes_on_from_the_public_layout_with_its_heads(tmp_path, batch):
    """Both heads of BERT in NumPy on its sequence output, from the weights under their published names."""
    weights = published_weights()
    model, positions = pretrained(), np.array([[1, 4], [2, 3], [0, 9]])
    path = save_tf1(weights, tmp_path / "bert_model.ckpt")
    assert initial_weights.load_pretrainer(model, path).endswith("(TensorFlow 1), with its heads")
    sequence = forward(weights, *batch)
    transform = "cls/predictions/transform"
    x = dense(weights, np.take_along_axis(sequence, positions[..., None], 1), f"{transform}/dense")
    x = norm(weights, gelu(x), f"{transform}/LayerNorm")
    words = weights["bert/embeddings/word_embeddings"].astype(np.float64)
    pooled = np.tanh(dense(weights, sequence[:, 0], "bert/pooler/dense"))
    next_sentence = (
        pooled @ weights["cls/seq_relationship/output_weights"].T + weights["cls/seq_relationship/output_bias"]
    )
    mlm_logits, ns_logits = outputs_of(model, *batch, positions)
    np.testing.assert_allclose(mlm_logits, x @ words.T + weights["cls/predictions/output_bias"], atol=1e-4)
    np.testing.assert_allclose(ns_logits, next_sentence, atol=1e-4)


def test_pretraining_goes_on_from_a_run(tmp_path, batch):
    source, model, positions = pretrained(), pretrained(), np.array([[1, 4], [2, 3], [0, 9]])
    path = tf.train.Checkpoint(model=source).save(str(tmp_path / "checkpoints" / "ckpt"))
    said = initial_weights.load_pretrainer(model, tmp_path)
    assert said == f"model.encoder_network of {path}, with its heads"
    for ours, theirs in zip(outputs_of(model, *batch, positions), outputs_of(source, *batch, positions), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_pretraining_from_an_encoder_alone(tmp_path):
    model, encoder = pretrained(), bert_encoder()
    heads = [variable.numpy() for variable in model.masked_lm.trainable_variables]
    path = tf.train.Checkpoint(encoder=encoder).save(str(tmp_path / "ckpt"))
    assert initial_weights.load_pretrainer(model, path).endswith("; its heads begin at random")
    for variable, original in zip(model.encoder_network.variables, encoder.variables, strict=True):
        np.testing.assert_array_equal(variable, original, err_msg=variable.name)
    for variable, before in zip(model.masked_lm.trainable_variables, heads, strict=True):
        if "embeddings" not in variable.name:
            np.testing.assert_array_equal(variable, before)


def test_heads_of_another_shape(tmp_path):
    weights = published_weights()
    weights["cls/seq_relationship/output_bias"] = np.zeros([3], np.float32)
    path = save_tf1(weights, tmp_path / "bert_model.ckpt")
    with pytest.raises(
        ConfigError, match=r"Received: .* with cls/seq_relationship/output_bias of \[3\]\. Expected: \[2\]"
    ):
        initial_weights.load_pretrainer(pretrained(), path)


def test_a_damaged_head(tmp_path):
    weights = published_weights()
    weights["cls/seq_relationship/output_bias"] = np.array([123.25, 77.5], np.float32)
    path = save_tf1(weights, tmp_path / "bert_model.ckpt")
    data = Path(f"{path}.data-00000-of-00001")
    saved = weights["cls/seq_relationship/output_bias"].tobytes()
    data.write_bytes(data.read_bytes().replace(saved, saved[::-1]))
    with pytest.raises(ConfigError, match=r"The checkpoint cannot be read\. Received: .*bert_model"):
        initial_weights.load_pretrainer(pretrained(), path)


def test_in_the_scope_of_a_strategy(tmp_path, two_replicas):
    weights = published_weights()
    path = save_tf1(weights, tmp_path / "bert_model.ckpt")
    with two_replicas.scope():
        encoder = squad_encoder()
        initial_weights.load_encoder(encoder, path)
    for copy in two_replicas.experimental_local_results(encoder.variables[0]):
        np.testing.assert_array_equal(copy, weights["bert/embeddings/word_embeddings"])


@pytest.mark.parametrize("layout", ["tensorflow 1", "objects"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 61}, r"of another model or vocabulary\. Received: .*\[60, 16\]\. Expected: \[61, 16\], by"),
        ({"hidden_size": 20}, r"of another model or vocabulary\. Received: .*\[60, 16\]\. Expected: \[60, 20\]"),
        ({"intermediate_size": 25}, r"of another model or vocabulary\. Received: .*24.* Expected: \[.*25"),
        ({"max_positions": 40}, r"of another model or vocabulary\. Received: .*\[32, 16\]\. Expected: \[40, 16\]"),
        ({"layers": 3}, r"of another model or vocabulary\. Received: "),
        ({"layers": 1}, r"of another model or vocabulary\. Received: "),
    ],
)
def test_a_checkpoint_of_another_shape(tmp_path, layout, changes, message):
    if layout == "objects":
        path = tf.train.Checkpoint(model=pretrained()).save(str(tmp_path / "ckpt"))
    else:
        path = save_tf1(published_weights(), tmp_path / "bert_model.ckpt")
    with pytest.raises(ConfigError, match=message) as error:
        initial_weights.load_encoder(squad_encoder(**changes), path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_checkpoint_of_bert(tmp_path):
    encoder = squad_encoder()
    with pytest.raises(ConfigError, match=r"No checkpoint found\. Received: .*nowhere\. Expected the folder of a run"):
        initial_weights.load_encoder(encoder, tmp_path / "nowhere")
    for name, checkpoint in {
        "other": tf.train.Checkpoint(net=tf.Variable(1.0)).save(str(tmp_path / "other")),
        "named": save_tf1({"dense/kernel": np.ones([2, 2], np.float32)}, tmp_path / "named"),
    }.items():
        with pytest.raises(
            ConfigError, match=rf"holds no BERT encoder\. Received: .*{name}.* with .*Expected bert/emb"
        ):
            initial_weights.load_encoder(encoder, checkpoint)
    broken = tf.train.Checkpoint(encoder=bert_encoder()).save(str(tmp_path / "broken"))
    data = tmp_path / f"{broken.rsplit('/', 1)[1]}.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"The checkpoint cannot be read\. Received: .*broken"):
        initial_weights.load_encoder(encoder, broken)
    index = tmp_path / f"{broken.rsplit('/', 1)[1]}.index"
    index.write_bytes(b"no index")
    with pytest.raises(ConfigError, match=r"The checkpoint cannot be read\. Received: .*broken"):
        initial_weights.load_encoder(encoder, broken)
