"""The chunked operators against the recurrences that define them, step by step."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from engines.families.operators import (
    causal_conv,
    gated_delta_rule,
    last_positions,
    rms_norm,
)


def _inputs(length: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    query, key = (F.normalize(draw(2, length, 3, 8), dim=-1) for _ in range(2))
    return (
        query,
        key,
        draw(2, length, 3, 5),
        -draw(2, length, 3).abs(),
        draw(2, length, 3).sigmoid(),
        draw(2, 3, 8, 5),
    )


def _step_by_step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = []
    for t in range(query.shape[1]):
        state = state * log_decay[:, t].exp()[..., None, None]
        known = torch.einsum("bhkv,bhk->bhv", state, key[:, t])
        error = beta[:, t, :, None] * (value[:, t] - known)
        state = state + torch.einsum("bhk,bhv->bhkv", key[:, t], error)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, query[:, t]) * 8**-0.5)
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize("length", [1, 5, 63, 64, 65, 130])
def test_delta_rule_is_the_recurrence(length: int) -> None:
    inputs = _inputs(length)
    for found, expected in zip(gated_delta_rule(*inputs), _step_by_step(*inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_delta_rule_has_the_gradients_of_the_recurrence() -> None:
    gradients = []
    for rule in (gated_delta_rule, _step_by_step):
        inputs = [tensor.requires_grad_() for tensor in _inputs(70)]
        output, state = rule(*inputs)
        (output.sin().sum() + state.cos().sum()).backward()
        gradients.append([tensor.grad for tensor in inputs])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_delta_rule_goes_on_from_a_state() -> None:
    query, key, value, decay, beta, state = _inputs(90)

    def run(part: slice, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v, g, b = (x[:, part] for x in (query, key, value, decay, beta))
        return gated_delta_rule(q, k, v, g, b, start)

    expected, last = run(slice(None), state)
    first, middle = run(slice(0, 37), state)
    second, end = run(slice(37, None), middle)
    torch.testing.assert_close(torch.cat([first, second], 1), expected)
    torch.testing.assert_close(end, last)


def test_conv_is_causal_and_goes_on_from_a_state() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 6, 9, generator=generator)
    weight = torch.randn(6, 1, 4, generator=generator)
    state = torch.zeros(2, 6, 3)
    expected = F.silu(F.conv1d(F.pad(inputs, (3, 0)), weight, groups=6))
    whole, last = causal_conv(inputs, weight, state)
    first, middle = causal_conv(inputs[..., :2], weight, state)
    second, end = causal_conv(inputs[..., 2:], weight, middle)
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(torch.cat([first, second], -1), expected)
    assert torch.equal(end, last)
    assert torch.equal(last, inputs[..., -3:])


@pytest.mark.parametrize(("count", "kept"), [(0, 4), (1, 1), (3, 3), (9, 4)])
def test_last_positions(count: int, kept: int) -> None:
    hidden = torch.arange(8.0).view(1, 4, 2)
    assert torch.equal(last_positions(hidden, count), hidden[:, 4 - kept :])


def test_the_norms_gradient_is_that_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(8, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, weight, 1e-3), x)
    defined = weight * x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    assert torch.allclose(rms_norm(x, weight, 1e-3), defined, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(rms_norm(x, weight, 1e-3), defined, atol=1e-12)


def test_a_norm_whose_weight_is_trained_gives_it_a_gradient() -> None:
    x, weight = torch.randn(2, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    rms_norm(x, weight, 1e-6).sum().backward()
    assert weight.grad is not None and weight.grad.any()


def test_places_choose_single_positions() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    kept = last_positions(hidden, torch.tensor([1, 5]))
    assert kept.tolist() == [[[2.0, 3.0], [10.0, 11.0]]]
