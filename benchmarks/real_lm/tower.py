"""The small vision tower under the real language model: never trained, and of our own making.

Its visual tokens have the size of the language model's own embeddings. Both towers are linear maps
of patches with a few transformer layers between; they differ in which directions their tokens take:

- `random`: transformers' own initialisation, its projection scaled so that a token of a noise
  picture is as long as an embedding. Its directions know nothing of the language model.
- `spanning`: tokens of a noise picture have the mean and the covariance of the embeddings, so that
  the picture's numbers are spread over the embedding space as the vocabulary is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WIDTH, PATCH = 384, 16
PLACES = 0.2
"""Standard deviation of position embeddings, beside about 0.6 of a noise picture's patches: a plain
picture is then no singular point of the norm that follows."""
NOISE_PICTURES = 8

Projection = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""(hidden (n, inputs), embeddings (vocabulary, width), generator) -> projection (width, inputs)"""


def vision_config(size: int) -> dict[str, int | float]:
    """Two layers on patches of 16 x 16; 2 x 2 patches become one visual token."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "image_size": size,
        "patch_size": PATCH,
        "initializer_range": 0.02,
    }


@torch.no_grad()
def fit_tower(model: Any, name: str, seed: int) -> None:
    """Give a fresh SmolVLM's tower its patches, places and projection, in place."""
    projection, shift = TOWERS[name]
    generator = torch.Generator().manual_seed(seed)
    tower, connector = model.model.vision_model, model.model.connector
    patches = tower.embeddings.patch_embedding
    values = patches.weight[0].numel()
    patches.weight.copy_(torch.randn(patches.weight.shape, generator=generator) / values**0.5)
    patches.bias.zero_()
    places = tower.embeddings.position_embedding.weight
    places.copy_(PLACES * torch.randn(places.shape, generator=generator))
    tower.post_layernorm.bias.fill_(shift)
    embeddings = model.get_input_embeddings().weight.float()
    seen = _hidden(model, generator)
    weight = connector.modality_projection.proj.weight
    weight.copy_(projection(seen, embeddings, generator))


def random_projection(
    hidden: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Gaussian, scaled so that tokens are as long as embeddings on average."""
    drawn = torch.randn(embeddings.shape[1], hidden.shape[1], generator=generator)
    made = (hidden @ drawn.T).norm(dim=1).mean()
    scaled: torch.Tensor = drawn * (embeddings.norm(dim=1).mean() / made)
    return scaled


def spanning_projection(
    hidden: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Orthogonal directions, coloured by the covariance of the embeddings, about their mean."""
    width, inputs = embeddings.shape[1], hidden.shape[1]
    ones = torch.ones(inputs) / inputs**0.5
    drawn = torch.randn(inputs, width, generator=generator)
    drawn -= ones[:, None] * (ones @ drawn)
    directions = torch.linalg.qr(drawn)[0].T
    spread = (hidden @ directions.T).std(0).mean()
    values, vectors = torch.linalg.eigh(torch.cov(embeddings.T))
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shift = embeddings.mean(0)[:, None] * (ones / inputs**0.5)
    fitted: torch.Tensor = root @ directions / spread + shift
    return fitted


def _hidden(model: Any, generator: torch.Generator) -> torch.Tensor:
    """(n, inputs) what the projection gets to see of noise pictures."""
    tower, connector = model.model.vision_model, model.model.connector
    size = tower.embeddings.image_size
    noise = torch.rand(NOISE_PICTURES, 3, size, size, generator=generator) * 2 - 1
    hidden = tower(pixel_values=noise).last_hidden_state
    shuffled: torch.Tensor = connector.pixel_shuffle(hidden, connector.scale_factor)
    return shuffled.flatten(0, 1)


TOWERS: dict[str, tuple[Projection, float]] = {
    "random": (random_projection, 0.0),
    "spanning": (spanning_projection, 1.0),
}
"""name -> projection, and the bias of the norm before it: a constant is orthogonal to whatever a
norm without it puts out, so that a projection can add a mean by it."""
