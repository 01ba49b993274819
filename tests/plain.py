"""The parts of backbones in plain numpy, from their parameters. No test in here."""

import itertools

import numpy as np
import torch


def numpy_embedding(model, batch, embedding=None):
    """The input of the backbone, recomputed feature by feature."""
    table = (embedding or model.embedding).table.weight.detach().numpy()
    schema, start, parts = model.schema, 0, []
    for at, feature in enumerate(schema.categorical):
        parts.append(table[start + batch.ids[:, at].numpy()])
        start += schema.num_ids[feature.name]
    for feature in schema.multi:
        values, offsets = batch.multi[feature.name].values.numpy(), batch.multi[feature.name].offsets.numpy()
        rows = [table[start + values[a:b]] for a, b in itertools.pairwise(offsets)]
        parts.append(np.stack([r.mean(0) if len(r) else np.zeros(table.shape[1]) for r in rows]))
        start += schema.num_ids[feature.name]
    return np.concatenate([*parts, batch.numerical.double().numpy()], axis=1)


def linear(layer, x):
    return x @ layer.weight.detach().numpy().T + (
        layer.bias.detach().numpy() if layer.bias is not None else 0
    )


def numpy_tower(tower, x):
    layers = [m for m in tower if isinstance(m, torch.nn.Linear)]
    for layer in layers[:-1]:
        x = np.maximum(linear(layer, x), 0)
    return linear(layers[-1], x)[:, 0]


def numpy_mlp(layers, x):
    """Linear and ReLU, layer by layer."""
    for layer in layers:
        x = np.maximum(linear(layer, x), 0) if isinstance(layer, torch.nn.Linear) else x
    return x


def softmax(z, axis=1):
    z = np.exp(z - z.max(axis, keepdims=True))
    return z / z.sum(axis, keepdims=True)


def numpy_experts(experts, x):
    """The outputs [B, d] of each expert, one after the other."""
    found = []
    for e in range(len(experts.weights[0])):
        h = x
        for weight, bias in zip(experts.weights, experts.biases, strict=True):
            h = np.maximum(h @ weight[e].detach().numpy() + bias[e].detach().numpy(), 0)
        found.append(h)
    return found


def numpy_mixture(gate, x, experts):
    weights = softmax(linear(gate, x))
    assert weights.shape[1] == len(experts)
    return sum(weights[:, e : e + 1] * f for e, f in enumerate(experts))
