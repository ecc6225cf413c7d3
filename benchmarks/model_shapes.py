"""The shapes of the trainable variables of the models that the optimizers are timed on."""


def bert(layers, width, heads, vocabulary=30_522, positions=512):
    """Those of a BERT pre-trainer as tf-models-official builds it, masked-LM and next-sentence heads included."""
    inner, head = 4 * width, (heads, width // heads)
    shapes = [(vocabulary, width), (positions, width), (2, width), (width,), (width,)]
    for _ in range(layers):
        shapes += [(width, *head), head] * 3 + [(*head, width), (width,), (width,), (width,)]
        shapes += [(width, inner), (inner,), (inner, width), (width,), (width,), (width,)]
    shapes += [(width, width), (width,)]
    shapes += [(width, width), (width,), (width,), (width,), (vocabulary,)]
    return shapes + [(width, 2), (2,)]


def resnet_50():
    """Those of ResNet-50 for a thousand classes: stem, four groups of bottleneck blocks, classifier."""
    shapes, channels = [(7, 7, 3, 64), (64,), (64,)], 64
    for group, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**group
        for block in range(blocks):
            kernels = [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            if block == 0:
                kernels.append((1, 1, channels, 4 * width))
            for kernel in kernels:
                shapes += [kernel, kernel[-1:], kernel[-1:]]
            channels = 4 * width
    return shapes + [(channels, 1000), (1000,)]


MODELS = {
    "BERT-tiny": lambda: bert(2, 128, 2),
    "BERT-base": lambda: bert(12, 768, 12),
    "BERT-large": lambda: bert(24, 1024, 16),
    "ResNet-50": resnet_50,
}
