"""The picture as a parameter.

Whatever the parametrisation, the model sees whole numbers 0..255 in training too, so that the
PNG is exactly what was trained; the gradient passes through the rounding unchanged
(straight-through estimator, Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
import torch

NOISE = 0.1
"""Standard deviation of the start in logits: about 6 levels round the middle grey."""
EDGE = 0.25
"""How close to 0 and 255 a start may come, in levels: it still rounds there, and the sigmoid's
slope is not yet lost in fp32."""
MOMENTUM = 0.9


class PictureParameter(Protocol):
    """A picture that gradient descent can change."""

    def __call__(self) -> torch.Tensor:
        """float32 (size, size, 3), whole numbers 0..255, differentiable."""

    def update(self, rate: float) -> None:
        """One step along the gradient of the last backward pass, which is then forgotten.
        `rate` multiplies the learning rate."""

    def gradient(self) -> torch.Tensor:
        """The gradient of the last backward pass, in the parameter's own shape."""

    def state(self) -> dict[str, Any]:
        """Everything that later steps depend on."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


class _RoundThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.round().clamp(0.0, 255.0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


def round_through(values: torch.Tensor) -> torch.Tensor:
    """`values` rounded to whole numbers in 0..255, with the gradient of the identity."""
    rounded: torch.Tensor = _RoundThrough.apply(values)  # type: ignore[no-untyped-call]
    return rounded


def to_pixels(picture: torch.Tensor) -> np.ndarray:
    """uint8 (size, size, 3), C-contiguous, from whole numbers in 0..255."""
    return np.ascontiguousarray(picture.detach().cpu().numpy().astype(np.uint8))


class FreePicture:
    """255 * sigmoid(logits), with Adam on the logits: no pixel can leave the range.

    Args:
        start: uint8 (size, size, 3), met exactly by the first picture.
    """

    def __init__(self, start: np.ndarray, lr: float) -> None:
        levels = torch.tensor(start, dtype=torch.float64).clamp(EDGE, 255 - EDGE)
        self.logits = (levels / 255).logit().float().requires_grad_()
        self.lr = lr
        self.adam = torch.optim.Adam([self.logits], lr=lr)

    def __call__(self) -> torch.Tensor:
        return round_through(255 * self.logits.sigmoid())

    def gradient(self) -> torch.Tensor:
        return _gradient(self.logits)

    def update(self, rate: float) -> None:
        self.adam.param_groups[0]["lr"] = self.lr * rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        adam = copy.deepcopy(self.adam.state_dict())
        return {"logits": self.logits.detach().clone(), "adam": adam}

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.adam.load_state_dict(state["adam"])


class BallPicture:
    """A picture no pixel of which is more than `radius` levels from `start`.

    Sign steps with momentum on the gradient's direction (MI-FGSM, Dong et al., arXiv 1710.06081),
    each followed by a hard clamp. The bounds are whole numbers, so rounding cannot leave them.

    Args:
        start: uint8 (size, size, 3). radius: levels, 1..255. lr: the size of a step, in levels.
    """

    def __init__(self, start: np.ndarray, radius: int, lr: float) -> None:
        centre = torch.tensor(start, dtype=torch.float32)
        self.low, self.high = (centre - radius).clamp(min=0), (centre + radius).clamp(max=255)
        self.values = centre.clone().requires_grad_()
        self.momentum = torch.zeros_like(centre)
        self.lr = lr

    def __call__(self) -> torch.Tensor:
        return round_through(self.values)

    def gradient(self) -> torch.Tensor:
        return _gradient(self.values)

    @torch.no_grad()
    def update(self, rate: float) -> None:
        gradient = self.gradient()
        scale = gradient.abs().mean().clamp(min=torch.finfo(torch.float32).tiny)
        self.momentum = MOMENTUM * self.momentum + gradient / scale
        self.values -= self.lr * rate * self.momentum.sign()
        self.values.clamp_(self.low, self.high)
        self.values.grad = None

    def state(self) -> dict[str, Any]:
        return {"values": self.values.detach().clone(), "momentum": self.momentum}

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.values.copy_(state["values"])
        self.momentum = state["momentum"].clone()


def grey_start(size: int, seed: int) -> np.ndarray:
    """The default start, uint8 (size, size, 3): middle grey with a little noise."""
    noise = torch.randn(size, size, 3, generator=torch.Generator().manual_seed(seed)) * NOISE
    return to_pixels(round_through(255 * noise.sigmoid()))


def make_picture(
    start: np.ndarray, lr: float, radius: int | None = None
) -> FreePicture | BallPicture:
    """The parametrisation that the options ask for.

    Args:
        start: uint8 (size, size, 3).
        lr: Adam's rate; with `radius`, the size of a step as a share of the full range.
        radius: levels that a pixel may move from `start`, or None for no bound.
    """
    if radius is None:
        return FreePicture(start, lr)
    return BallPicture(start, radius, lr * 255)


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
