from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from training import linear_cross_entropy as module
from training.linear_cross_entropy import linear_cross_entropy


def draw(positions: int = 11, width: int = 6, vocabulary: int = 17) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator)
    return hidden, weight, torch.randint(vocabulary, (positions,), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 17 * 4, 1 << 20])
def test_losses_and_gradients_are_those_of_whole_logits(
    monkeypatch: pytest.MonkeyPatch, chunk: int, temperature: float
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    hidden, weight, targets = draw()
    # Unlike weights of the positions: the gradient is not that of a mean alone.
    share = torch.linspace(-1, 2, len(targets))
    losses, right = linear_cross_entropy(hidden, weight, targets, temperature)
    (found,) = torch.autograd.grad(losses @ share, hidden)

    logits = F.linear(hidden, weight) / temperature
    expected = F.cross_entropy(logits, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected @ share, hidden)
    assert torch.allclose(losses, expected, atol=1e-5)
    assert torch.allclose(found, gradient, atol=1e-5)
    assert torch.equal(right, logits.argmax(-1) == targets)
    assert not right.requires_grad


def test_under_autocast_it_is_near_in_bf16() -> None:
    hidden, weight, targets = draw()
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = linear_cross_entropy(hidden, weight, targets)
    (found,) = torch.autograd.grad(losses.sum(), hidden)
    whole, _ = linear_cross_entropy(hidden, weight, targets)
    (expected,) = torch.autograd.grad(whole.sum(), hidden)
    assert losses.dtype == torch.float32
    assert torch.allclose(losses, whole, atol=0.1)
    assert F.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999


def test_no_position_is_no_loss() -> None:
    hidden, weight, _ = draw()
    losses, right = linear_cross_entropy(hidden[:0], weight, torch.empty(0, dtype=torch.long))
    assert losses.shape == right.shape == (0,)


def test_a_head_that_is_trained_is_refused() -> None:
    hidden, weight, targets = draw()
    with pytest.raises(ValueError, match="frozen"):
        linear_cross_entropy(hidden, weight.requires_grad_(), targets)
