"""The picture in the training loop: the frozen model under it, and the PNG that is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engines.picture import Picture, load_picture, save_picture
from engines.provenance import Provenance
from training.picture import PictureParameter, to_pixels
from training.policy import Policy, picture_policy

if TYPE_CHECKING:
    from engines.chat import Chat
    from engines.families.parts import Parts


class PictureLearner:
    """A picture, trained through the vision tower and the frozen language model.

    Args:
        folder: where the PNGs are written; the best is `art.png`.
        provenance: of the PNG; its step and score are filled in at each keeping.
    """

    def __init__(
        self,
        parts: Parts,
        chat: Chat,
        picture: PictureParameter,
        folder: Path,
        provenance: Provenance,
    ) -> None:
        self.parts, self.chat, self.picture = parts, chat, picture
        self.art, self._candidate = folder / "art.png", folder / ".candidate.png"
        self.provenance = provenance
        self._kept: tuple[int, float, torch.Tensor] | None = None

    def policy(self) -> Policy:
        return picture_policy(self.parts, self.chat, self.picture())

    def gradient_norm(self) -> float:
        return float(self.picture.gradient().norm())

    def update(self, rate: float) -> None:
        self.picture.update(rate)

    def candidate(self, step: int) -> Policy:
        """The model under the PNG as it comes back from the disk."""
        pixels = to_pixels(self.picture())
        save_picture(self._candidate, pixels, replace(self.provenance, step=step))
        try:
            loaded = load_picture(self._candidate, self.parts.picture_size)
        finally:
            self._candidate.unlink(missing_ok=True)
        return policy_of(self.parts, self.chat, loaded)

    def keep(self, step: int, exact: float) -> None:
        self._kept = (step, exact, torch.from_numpy(to_pixels(self.picture())))
        self._write_art()

    def state(self) -> dict[str, Any]:
        return {"picture": self.picture.state(), "kept": self._kept}

    def restore(self, state: dict[str, Any]) -> None:
        self.picture.restore(state["picture"])
        self._kept = state["kept"]
        # The file may be newer than the checkpoint, or gone.
        self._write_art()

    def _write_art(self) -> None:
        if self._kept is not None:
            step, exact, pixels = self._kept
            save_picture(self.art, pixels.numpy(), replace(self.provenance, step=step, score=exact))


def policy_of(parts: Parts, chat: Chat, picture: Picture) -> Policy:
    """The model under a finished picture, without gradients."""
    with torch.no_grad():
        return picture_policy(parts, chat, torch.tensor(picture.pixels).float())
