"""The losses written from their definitions, sharing no code with the package."""

import torch
import torch.nn.functional as F


def rows(count, dim, dtype=torch.float64, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    found = F.normalize(torch.randn(count, dim, dtype=torch.float64, generator=generator), dim=1)
    return found.to(dtype).requires_grad_(grad)


def pairs(count, dim, dtype=torch.float64, seed=0, text_grad=False, noise=0.7):
    """Speech near its own text, so that the softmax is neither flat nor saturated."""
    text = rows(count, dim, torch.float64, seed)
    speech = F.normalize(text + noise * rows(count, dim, torch.float64, seed + 1), dim=1)
    return speech.to(dtype).requires_grad_(), text.to(dtype).requires_grad_(text_grad)


def weights(text, name="linear", value=None, ids=None):
    cosines = text.detach() @ text.detach().T
    linear = (1 + cosines) / 2
    own = torch.eye(len(text), dtype=torch.bool)
    if name == "linear":
        return linear
    if name == "power":
        return linear**value
    if name == "softmax":
        return torch.exp(cosines / value)
    if name == "threshold":
        return torch.where((cosines >= value) | own, linear, torch.zeros_like(linear))
    if name == "top_k":
        chosen = torch.zeros_like(linear)
        for i in range(len(text)):
            order = (cosines[i] + 10 * own[i]).argsort(descending=True)[:value]
            chosen[i, order] = 1.0
        return linear * chosen
    if name == "identity":
        return own.to(linear)
    if name == "same_text":
        return (ids[:, None] == ids[None, :]).to(linear)
    raise AssertionError(name)


def cwcl(speech, text, scale, anchor="speech", w=None):
    w = weights(text) if w is None else w
    y = w / w.sum(1, keepdim=True)
    to_text = scale * speech @ text.T
    if anchor == "speech":
        return -(y * F.log_softmax(to_text, 1)).sum() / len(speech)
    if anchor == "text":
        return -(y * F.log_softmax(to_text.T, 1)).sum() / len(speech)
    return (cwcl(speech, text, scale, "speech", w) + cwcl(speech, text, scale, "text", w)) / 2


def contrastive(speech, text, scale, direction="both", ids=None):
    logits = scale * speech @ text.T
    if ids is not None:
        same = (ids[:, None] == ids[None, :]) & ~torch.eye(len(ids), dtype=torch.bool)
        logits = logits.masked_fill(same, float("-inf"))
    labels = torch.arange(len(speech))
    if direction == "speech_to_text":
        return F.cross_entropy(logits, labels)
    if direction == "text_to_speech":
        return F.cross_entropy(logits.T, labels)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


def worst(found, expected):
    """Largest difference relative to the largest expected value."""
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-300))
        for a, b in zip(found, expected, strict=True)
    )
