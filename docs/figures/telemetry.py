"""Trains a small residual network on scikit-learn's digits with LAMB, and draws `trust_ratios.png`.

    python docs/figures/telemetry.py

It needs scikit-learn and matplotlib; half a minute on two cores.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

sys.path.insert(0, str(Path(__file__).parents[2]))
import tf_lamb

GLOBAL_BATCH_SIZE = 256
EPOCHS = 50
BLOCKS = 6
FILTERS = 32


def data():
    """Images of shape (8, 8, 1) in [0, 1] and their digits: for training, and held out."""
    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    return train_test_split(images, digits, test_size=0.2, stratify=digits, random_state=0)


def residual_network():
    """A stem, residual blocks of two convolutions, and a linear head."""
    image = keras.Input((8, 8, 1))
    # Without noise the network knows all its images by heart after 400 steps, and its updates are decay alone.
    x = keras.layers.GaussianNoise(0.5)(image)
    x = keras.layers.Conv2D(FILTERS, 3, padding="same", use_bias=False, name="stem")(x)
    for block in range(BLOCKS):
        y = x
        for layer in range(2):
            y = keras.layers.BatchNormalization(name=f"block_{block}_norm_{layer}")(y)
            y = keras.layers.Activation("relu")(y)
            y = keras.layers.Conv2D(
                FILTERS, 3, padding="same", use_bias=False, name=f"block_{block}_convolution_{layer}"
            )(y)
        x = x + y
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization(name="last_norm")(x))
    return keras.Model(image, keras.layers.Dense(10, name="head")(x))


def main():
    """Trains, prints the last update, and draws."""
    keras.utils.set_random_seed(0)
    images, held_out_images, digits, held_out_digits = data()
    total_steps = EPOCHS * -(-len(images) // GLOBAL_BATCH_SIZE)
    optimizer = tf_lamb.LAMB(
        tf_lamb.schedules.WarmupPolynomialDecay(0.02, total_steps, warmup_steps=total_steps // 10),
        weight_decay=0.01,
        exclude_from_weight_decay=tf_lamb.rules.NORMALIZATION_AND_BIAS,
        telemetry=True,
    )
    model = residual_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as folder:
        history = Path(folder) / "history.csv"
        model.fit(
            images,
            digits,
            batch_size=GLOBAL_BATCH_SIZE,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[tf_lamb.telemetry.TelemetryCallback(history, every_steps=4)],
        )
        tf_lamb.telemetry.plot(history, Path(__file__).parent / "trust_ratios.png")
    print(tf_lamb.telemetry.table(optimizer))
    _, accuracy = model.evaluate(held_out_images, held_out_digits, verbose=0)
    print(f"held-out accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
