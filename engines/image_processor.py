"""The image processor that a model was published with, as Hugging Face runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor

from engines.errors import ModelError

Pixels = NDArray[np.uint8]


class ImageProcessor:
    """That of a model's or a bundle's folder.

    Raises:
        ModelError: the folder has no processor that can be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            # The PIL back end: torchvision is no dependency, and both leave such a picture alone.
            self._inner = AutoImageProcessor.from_pretrained(folder, backend="pil")
        except (OSError, ValueError) as error:
            raise ModelError(
                got=f"{folder}, whose image processor cannot be loaded: {error}",
                expected="preprocessor_config.json, as the model was published with",
                fix="download the whole model again",
            ) from error

    def check_size(self, size: int, config: Any) -> None:
        """Raise ModelError unless the processor leaves pictures of size x size as they are.
        `config`: the model's configuration."""
        # Qwen's processors repeat a still picture along the temporal axis.
        repeated = getattr(config.vision_config, "temporal_patch_size", 1)
        values = self.processed(np.zeros((size, size, 3), np.uint8))["pixel_values"]
        pixels = values.numel() // 3 // repeated
        if pixels != size * size:
            raise ModelError(
                got=f"a picture size of {size}, {size * size} pixels, of which the model's "
                f"processor makes {pixels}",
                expected="a size that it leaves alone, so that pixels reach the model as trained",
                fix="choose another --size: a multiple of patch size times merge size, within the "
                "limits in the model's preprocessor_config.json",
            )

    def processed(self, pixels: Pixels) -> dict[str, torch.Tensor]:
        """What the processor makes of one picture uint8 (size, size, 3): pixel_values, and what
        the model takes beside them."""
        options: dict[str, Any] = {}
        if hasattr(self._inner, "do_image_splitting"):
            # Unless told otherwise, such a processor enlarges every picture and cuts it into tiles.
            options = {"do_resize": False, "do_image_splitting": False}
            options["max_image_size"] = {"longest_edge": len(pixels)}
        return dict(self._inner(images=Image.fromarray(pixels), return_tensors="pt", **options))
