"""The ready-made exclusion lists hit the normalisation and bias parameters of real models, and nothing else."""

import re

import keras
import pytest

from tf_lamb import rules

# Read off keras-hub 0.32.0: one path of each kind in BERT, ResNet, Llama 3, T5, ViT and Gemma backbones.
KERAS_HUB_NORMALIZATION = """
embeddings_layer_norm/gamma
transformer_layer_0/self_attention_layer_norm/beta
conv1_bn/gamma
stack0_block0_1_bn/beta
transformer_layer_0/self_attention_layernorm/scale
sequence_output_layernorm/scale
transformer_encoder_layer_0/t5_layer_norm_1/weight
vit_encoder/transformer_block_1/ln_1/gamma
decoder_block_0/pre_attention_norm/scale
final_normalization/scale
""".split()
KERAS_HUB_BIAS = """
transformer_layer_0/self_attention_layer/query/bias
transformer_layer_0/feedforward_output_dense/bias
pooled_dense/bias
vit_patching_and_embedding/patch_embedding/bias
""".split()
KERAS_HUB_KERNELS = """
token_embedding/embeddings
token_embedding/reverse_embeddings
transformer_layer_0/self_attention_layer/query/kernel
stack0_block0_1_conv/kernel
self_attention/embeddings
transformer_encoder_layer_0/self_attention/query_projector/kernel
vit_patching_and_embedding/class_token
vit_encoder/transformer_block_1/mlp/dense_1/kernel
decoder_block_0/ffw_gating_2/kernel
""".split()


def hit(patterns, paths):
    return [path for path in paths if any(re.search(pattern, path) for pattern in patterns)]


def test_keras_hub():
    every = KERAS_HUB_NORMALIZATION + KERAS_HUB_BIAS + KERAS_HUB_KERNELS
    assert hit([rules.NORMALIZATION], every) == KERAS_HUB_NORMALIZATION
    assert hit([rules.BIAS], every) == KERAS_HUB_BIAS
    assert hit(rules.NORMALIZATION_AND_BIAS, every) == KERAS_HUB_NORMALIZATION + KERAS_HUB_BIAS


@pytest.mark.parametrize("path", ["normal_dense/kernel", "norm_head/dense/kernel", "biased/kernel", "alphabet/gammas"])
def test_names_that_only_look_alike(path):
    assert not hit(rules.NORMALIZATION_AND_BIAS, [path])


def test_keras_layers():
    layers = [
        keras.layers.Conv1D(2, 3, padding="same"),
        keras.layers.BatchNormalization(),
        keras.layers.LayerNormalization(name="LayerNorm"),
        keras.layers.GroupNormalization(2),
        keras.layers.LSTM(2, return_sequences=True),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((4, 2)), *layers])
    paths = [variable.path for variable in model.trainable_variables]
    kernels = [path for path in paths if path not in hit(rules.NORMALIZATION_AND_BIAS, paths)]
    assert [path.rsplit("/", 1)[1] for path in kernels] == ["kernel", "kernel", "recurrent_kernel", "kernel"]
    normalization = hit([rules.NORMALIZATION], paths)
    assert len(normalization) == 6 and all(path.endswith(("gamma", "beta")) for path in normalization)


@pytest.mark.model_garden
def test_model_garden():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Model Garden runs on TensorFlow")
    from official.nlp.modeling import networks
    from official.vision.modeling import backbones

    bert = networks.BertEncoder(30, hidden_size=8, num_layers=1, num_attention_heads=2, intermediate_size=16)
    resnet = backbones.ResNet(50)
    for model, others in ((bert, ("kernel", "embeddings")), (resnet, ("kernel",))):
        paths = [variable.name.split(":")[0] for variable in model.trainable_variables]
        excluded = hit(rules.NORMALIZATION_AND_BIAS, paths)
        assert {path.rsplit("/", 1)[1] for path in set(paths) - set(excluded)} == set(others)
        assert {path.rsplit("/", 1)[1] for path in excluded} <= {"gamma", "beta", "bias"}
        assert len(excluded) > len(paths) / 2
