"""From what transformers passes to `forward` to rows that an engine can prefill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from art_export.bundle import Bundle
from art_export.optimum_cache import Row, chat_positions, text_row
from art_export.processed_pixels import ProcessedPixels
from engines.bundle import NO_ART
from engines.contract import Floats, Ints
from engines.errors import PictureError, PromptError
from engines.picture import Picture, check_base, load_picture
from engines.prefix import PrefixState

ART: Floats = np.zeros((0, 0, 0), np.float32)
"""Stands for the art's visual tokens, which are not computed while its stored state will do."""


class ChatInputs:
    """The chats of one bundle, as token ids with placeholders and as pictures."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._engine = bundle, bundle.runtime.engine
        self._layout = bundle.runtime.chat.layout
        self._head = np.array(bundle.runtime.chat.prefix_ids(), np.int64)
        self._processed = ProcessedPixels(bundle.folder.path, self._layout.size)
        self._empty = bundle.prefix(None)
        self._picture: Picture | None = None
        self._prefix: PrefixState | None = None
        self._features: Floats | None = None

    def use_art(self, art: str | Path | Picture | None) -> None:
        """Choose what placeholders without pixels show: see `ArtModelForImageTextToText`."""
        folder = self._bundle.folder
        name = folder.active() if art is None else art
        self._picture = self._prefix = self._features = None
        if name in folder.art_names():
            self._picture = folder.read_art(str(name)).picture
            self._prefix = self._bundle.prefix(str(name))
        elif name is not None and name != NO_ART:
            size = self._layout.size
            picture = name if isinstance(name, Picture) else load_picture(name, size)
            folder.check_picture_size(picture)
            check_base(picture, folder.manifest.weights_sha256)
            self._picture = picture
            self._prefix = self._bundle.runtime.prefix(picture.pixels)

    def features(
        self, ids: Ints, pixel_values: Any, image_grid_thw: Any, pixels: Any
    ) -> list[Floats | None]:
        """Visual tokens (pictures, tokens, width) of every row; None for none, ART for the art.

        Raises:
            PromptError: pictures and placeholders do not match.
            PictureError: a picture is of another size than the bundle's.
        """
        placeholders = (ids == self._layout.image_token_id).sum(1)
        counts, rest = np.divmod(placeholders, self._layout.tokens)
        if rest.any():
            raise self._mismatch(f"rows with {placeholders.tolist()} placeholders")
        if pixel_values is not None:
            pixels = self._processed.pixels(pixel_values, image_grid_thw)
        if pixels is None:
            if (self._picture is None and counts.any()) or (counts > 1).any():
                raise self._mismatch(f"{int(counts.sum())} places for pictures, and no pictures")
            return [ART if count else None for count in counts]
        if len(pixels) != counts.sum():
            raise self._mismatch(f"{len(pixels)} pictures for {int(counts.sum())} places")
        seen = self._engine.vision(self._checked(pixels)) if len(pixels) else ART
        ends = np.cumsum(counts)
        parts = [seen[end - count : end] for count, end in zip(counts, ends, strict=True)]
        return [part if len(part) else None for part in parts]

    def last(self, features: Sequence[Floats | None], ids: Ints | None) -> list[Floats | None]:
        """Those of the pictures that stand in `ids`, the end of their rows; None: in no row."""
        if ids is None:
            return [None] * len(features)
        counts = (ids == self._layout.image_token_id).sum(1) // self._layout.tokens
        return [
            None if not count else seen if seen is ART or seen is None else seen[-count:]
            for seen, count in zip(features, counts.tolist(), strict=True)
        ]

    def encoded(self, features: Sequence[Floats | None]) -> list[Floats | None]:
        """The same, with the art's own visual tokens in the place of ART."""
        if any(seen is ART for seen in features) and self._features is None and self._picture:
            self._features = self._engine.vision(self._picture.pixels[None])
        return [self._features if seen is ART else seen for seen in features]

    def rows(
        self, ids: Ints, mask: Any, features: Sequence[Floats | None], logits_to_keep: int
    ) -> list[Row]:
        """Rows without their padding; one that begins as an art's state does starts from it.

        Args:
            mask: (batch, length) or None, 0 for padding.
            features: as `features` returns them.
        """
        visible = np.ones_like(ids) if mask is None else mask.cpu().numpy()[:, -ids.shape[1] :]
        if (np.diff(visible) < 0).any() or not visible[:, -1].all():
            raise PromptError(
                got="an attention_mask with padding after tokens, or a row of padding alone",
                expected="padding at the left end only",
                fix="set padding_side='left' in the tokenizer",
            )
        texts = [row[shown != 0] for row, shown in zip(ids, visible, strict=True)]
        return [
            self._stored(text, seen, logits_to_keep) or self._whole(text, seen)
            for text, seen in zip(texts, features, strict=True)
        ]

    def _stored(self, ids: Ints, seen: Floats | None, logits_to_keep: int) -> Row | None:
        length = len(self._head)
        # The stored state has no logits: all that are asked for must be of what follows it.
        follows = 0 < logits_to_keep <= len(ids) - length
        if self._prefix and seen is ART and follows and np.array_equal(ids[:length], self._head):
            return text_row(self._prefix, ids[length:])
        return None

    def _whole(self, ids: Ints, seen: Floats | None) -> Row:
        return Row(self._empty, ids, self.encoded([seen])[0], *chat_positions(self._layout, ids))

    def _checked(self, pixels: Any) -> Any:
        values, size = np.asarray(pixels), self._layout.size
        if values.dtype != np.uint8 or values.shape[1:] != (size, size, 3):
            raise PictureError(
                got=f"pixels of dtype {values.dtype} and shape {values.shape}",
                expected=f"uint8 (n, {size}, {size}, 3), which this bundle was built for",
                fix="give pictures of that size, channels last, or build with another --size",
            )
        return values

    def _mismatch(self, got: str) -> PromptError:
        return PromptError(
            got=got,
            expected=f"{self._layout.tokens} placeholders a picture, and as many pictures, or an "
            "art in use for a chat with one picture",
            fix="make the inputs with the model's own processor, or choose an art: model.use_art",
        )
