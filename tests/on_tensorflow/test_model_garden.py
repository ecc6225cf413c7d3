"""Experiments of tf-models-official find our LAMB under a key of its own, and a BERT trains with it."""

import pytest
import tensorflow as tf

model_garden = pytest.importorskip("tf_lamb.model_garden", reason="needs tf-models-official", exc_type=ImportError)

from official.core import config_definitions  # noqa: E402
from official.modeling.hyperparams import params_dict  # noqa: E402
from official.modeling.optimization import lamb as their_lamb  # noqa: E402
from official.modeling.optimization import optimizer_factory  # noqa: E402
from official.nlp.configs import bert, encoders  # noqa: E402
from official.nlp.data import pretrain_dataloader  # noqa: E402
from official.nlp.tasks import masked_lm  # noqa: E402

pytestmark = pytest.mark.model_garden

PARAMS = {
    "optimizer": {
        "type": "tf_lamb",
        "tf_lamb": {
            "weight_decay": 0.1,
            "exclude_from_weight_decay": ["bias", "LayerNorm|layer_norm"],
            "exclude_from_layer_adaptation": [],
            "global_clipnorm": 1.0,
        },
    },
    "learning_rate": {"type": "polynomial", "polynomial": {"initial_learning_rate": 0.01, "decay_steps": 10}},
    "warmup": {"type": "linear", "linear": {"warmup_steps": 3}},
}


@pytest.mark.parametrize("use_legacy_optimizer", [True, False])
def test_the_factory_makes_it(use_legacy_optimizer):
    factory = optimizer_factory.OptimizerFactory(model_garden.OptimizationConfig(PARAMS))
    optimizer = factory.build_optimizer(factory.build_learning_rate(), use_legacy_optimizer=use_legacy_optimizer)
    assert isinstance(optimizer, model_garden.LAMB)
    config = optimizer.get_config()
    assert config["weight_decay"] == 0.1
    assert config["global_clipnorm"] == 1.0
    assert config["exclude_from_weight_decay"] == ["bias", "LayerNorm|layer_norm"]
    assert config["exclude_from_layer_adaptation"] == []


def test_every_option_of_the_optimizers_has_a_field():
    factories = {"tf_lamb": (model_garden.LAMB, {"nesterov": "mv"}), "tf_lamb_lars": (model_garden.LARS, {})}
    for key, (optimizer_class, own) in factories.items():
        options = {"layer_axes": {"kernel": 1}, "trust_ratio_bounds": [0.0, 2.0], "moment_dtype": "bfloat16", **own}
        params = {**PARAMS, "optimizer": {"type": key, key: options}}
        factory = optimizer_factory.OptimizerFactory(model_garden.OptimizationConfig(params))
        optimizer = factory.build_optimizer(factory.build_learning_rate())
        assert isinstance(optimizer, optimizer_class)
        config = optimizer.get_config()
        assert {name: config[name] for name in options} == options
        fields = model_garden.OptimizationConfig(params).optimizer.get().as_dict().keys()
        assert fields >= config.keys() - {"plan", "learning_rate", "is_legacy_optimizer"}


def test_model_gardens_own_lamb_stays():
    factory = optimizer_factory.OptimizerFactory(
        model_garden.OptimizationConfig({**PARAMS, "optimizer": {"type": "lamb"}})
    )
    assert isinstance(factory.build_optimizer(factory.build_learning_rate()), their_lamb.LAMB)


def test_overrides_reach_the_config_of_an_experiment():
    trainer = config_definitions.TrainerConfig()
    trainer.optimizer_config = model_garden.OptimizationConfig(PARAMS)
    params = params_dict.override_params_dict(
        trainer, {"optimizer_config": {"optimizer": {"tf_lamb": {"beta_2": 0.95}}}}, is_strict=True
    )
    assert params.optimizer_config.optimizer.get().beta_2 == 0.95
    with pytest.raises(KeyError):
        params_dict.override_params_dict(
            trainer, {"optimizer_config": {"optimizer": {"tf_lamb": {"beta_3": 0.95}}}}, is_strict=True
        )


def test_a_bert_trains_and_its_plan_tells_what_is_excluded():
    task = masked_lm.MaskedLMTask(
        masked_lm.MaskedLMConfig(
            model=bert.PretrainerConfig(
                encoder=encoders.EncoderConfig(
                    type="bert",
                    bert=encoders.BertEncoderConfig(
                        vocab_size=30,
                        hidden_size=8,
                        num_layers=1,
                        num_attention_heads=2,
                        intermediate_size=16,
                        dropout_rate=0.0,
                        attention_dropout_rate=0.0,
                    ),
                ),
                cls_heads=[bert.ClsHeadConfig(inner_dim=8, num_classes=2, dropout_rate=0.0, name="next_sentence")],
            ),
            scale_loss=True,
            train_data=pretrain_dataloader.BertPretrainDataConfig(),
        )
    )
    model, metrics = task.build_model(), task.build_metrics()
    optimizer = task.create_optimizer(model_garden.OptimizationConfig(PARAMS))
    features = {
        "input_word_ids": tf.ones([2, 8], tf.int32),
        "input_mask": tf.ones([2, 8], tf.int32),
        "input_type_ids": tf.zeros([2, 8], tf.int32),
        "masked_lm_positions": tf.ones([2, 3], tf.int32),
        "masked_lm_ids": tf.ones([2, 3], tf.int32),
        "masked_lm_weights": tf.ones([2, 3]),
        "next_sentence_labels": tf.ones([2, 1], tf.int32),
    }
    losses = [float(task.train_step(features, model, optimizer, metrics)["loss"]) for _ in range(5)]
    assert losses[0] == losses[1]  # The first update is at the rate 0 of the warmup.
    assert losses[4] < losses[1]

    plan = {rule.path: rule for rule in optimizer.plan()}
    assert plan["transformer/layer_0/self_attention_layer_norm/gamma"].decay_pattern == "LayerNorm|layer_norm"
    assert plan["transformer/layer_0/intermediate/bias"].decay_pattern == "bias"
    assert plan["word_embeddings/embeddings"].decayed
    assert all(rule.adapted for rule in optimizer.plan())
    assert "decay: bias" in str(optimizer.plan())
