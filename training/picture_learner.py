"""The picture in the training loop: the frozen model under it, and the PNG that is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engines.errors import CheckFailed
from engines.picture import load_picture, save_picture
from engines.provenance import Provenance
from training import processes
from training.distortions import distorted
from training.likeness import Likeness
from training.memory import lighten
from training.picture import PictureParameter, to_pixels
from training.policy import Policy, PrefixPolicy, picture_policy
from training.strip import Development

if TYPE_CHECKING:
    from engines.chat import Chat
    from engines.families.parts import Parts


@dataclass(frozen=True)
class Treatment:
    """What the picture and the model go through in training, beside the objective.

    likeness: what holds the picture to its start. distortions: what is done to it before the
    model sees it, one drawn from `seed` for every `same_view` steps. bf16, recompute: see
    `training.memory`.
    """

    likeness: Likeness = field(default_factory=Likeness)
    distortions: tuple[str, ...] = ()
    seed: int = 0
    same_view: int = 1
    bf16: bool = False
    recompute: bool = False

    def lighten(self, parts: Parts) -> Parts:
        """The model as training steps run it; validation always runs it whole."""
        return lighten(parts, bf16=self.bf16, recompute=self.recompute)


class PictureLearner:
    """A picture, trained through the vision tower and the frozen language model.

    Several processes have the same picture at all times: each adds its rows' gradient, and all take
    the step along the sum.

    Args:
        folder: where the PNGs are written; the best is `art.png`.
        provenance: of the PNG; its step and score are filled in at each keeping.
        treatment: what else the picture goes through.
    """

    joins_processes = True

    def __init__(
        self,
        parts: Parts,
        chat: Chat,
        picture: PictureParameter,
        folder: Path,
        provenance: Provenance,
        treatment: Treatment = Treatment(),
    ) -> None:
        self.parts, self.chat, self.picture = parts, chat, picture
        self.treatment, self._light = treatment, treatment.lighten(parts)
        self.art, self._candidate = folder / "art.png", folder / ".candidate.png"
        self._strip = folder / "strip.png"
        self.provenance = provenance
        self.start, self.development = picture().detach(), Development()
        self._kept: tuple[int, float, torch.Tensor] | None = None

    def policy(self, step: int) -> Policy:
        treatment, self._picture = self.treatment, self.picture()
        # Cut off, so that the gradients of all processes can be added here.
        self._shown = self._picture.detach().requires_grad_()
        turn = step // treatment.same_view
        seen = distorted(self._shown, treatment.distortions, treatment.seed, turn)
        self._whole = picture_policy(self._light, self.chat, seen)
        self._cut = self._whole.cut()
        return self._cut

    def collect(self) -> dict[str, float]:
        penalty = self.treatment.likeness.penalty(self._shown, self.start)
        # Once, and not once a process.
        self._whole.flow(self._cut, *([penalty] if processes.is_main() else []))
        own = self._shown.grad
        gradient = processes.summed(torch.zeros_like(self._shown) if own is None else own)
        if gradient.any():
            self._picture.backward(gradient)
        measured = {"gradient_norm": float(self.picture.gradient().norm())}
        return measured | ({"penalty": float(penalty.detach())} if penalty.requires_grad else {})

    def update(self, rate: float) -> None:
        self.picture.update(rate)

    def candidate(self, step: int) -> Policy:
        """The model under the PNG as it comes back from the disk.

        Raises:
            CheckFailed: this process has another picture than the main one.
        """
        pixels = to_pixels(self.picture())
        self.development.add(pixels)
        loaded = processes.from_main(lambda: self._reloaded(pixels, step))
        same = np.array_equal(loaded, pixels)
        if processes.anywhere(not same):
            raise CheckFailed(
                f"the processes' pictures have come apart by step {step}.\n"
                "Train on machines of one kind, with the same version of PyTorch."
            )
        return policy_of(self.parts, self.chat, loaded)

    def keep(self, step: int, exact: float) -> None:
        self._kept = (step, exact, torch.from_numpy(to_pixels(self.picture())))
        self._write_art()

    def write_strip(self) -> None:
        """The picture's development, as RUN/strip.png."""
        if processes.is_main():
            self.development.write(self._strip)

    def best(self) -> PrefixPolicy:
        """The model under the picture that was kept, as it lies on the disk."""
        return policy_of(self.parts, self.chat, self.best_pixels())

    def best_pixels(self) -> np.ndarray:
        """The picture that was kept, uint8 (size, size, 3), as it lies on the disk."""
        return processes.from_main(lambda: load_picture(self.art, self.parts.picture_size).pixels)

    def state(self) -> dict[str, Any]:
        development = self.development.state()
        return {"picture": self.picture.state(), "kept": self._kept, "strip": development}

    def restore(self, state: dict[str, Any]) -> None:
        self.picture.restore(state["picture"])
        self._kept = state["kept"]
        self.development.restore(state["strip"])
        # The file may be newer than the checkpoint, or gone.
        self._write_art()

    def _reloaded(self, pixels: np.ndarray, step: int) -> np.ndarray:
        """`pixels` as they come back from a PNG."""
        save_picture(self._candidate, pixels, replace(self.provenance, step=step))
        try:
            return load_picture(self._candidate, self.parts.picture_size).pixels
        finally:
            self._candidate.unlink(missing_ok=True)

    def _write_art(self) -> None:
        if self._kept is not None and processes.is_main():
            step, exact, pixels = self._kept
            save_picture(self.art, pixels.numpy(), replace(self.provenance, step=step, score=exact))


def policy_of(parts: Parts, chat: Chat, pixels: np.ndarray) -> PrefixPolicy:
    """The model under a finished picture, uint8 (size, size, 3), without gradients."""
    with torch.no_grad():
        return picture_policy(parts, chat, torch.tensor(pixels).float())
