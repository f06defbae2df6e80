"""What the decoder's state consists of, known to every engine and free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the decoder's state.

    `shape` is that of one row of the batch, None where the length of the past stands. `past` and
    `present` are the names that graphs give to it.
    """

    past: str
    present: str
    shape: tuple[int | None, ...]

    @property
    def length_axis(self) -> int | None:
        """The axis (batch included) that grows with the past, or None for a fixed size."""
        return self.shape.index(None) + 1 if None in self.shape else None


def key_value(layer: int, heads: int, head_dim: int) -> tuple[StateTensor, StateTensor]:
    """Keys and values of an attention layer, each (heads, past, head_dim)."""
    keys, values = (
        StateTensor(
            f"past_key_values.{layer}.{kind}",
            f"present.{layer}.{kind}",
            (heads, None, head_dim),
        )
        for kind in ("key", "value")
    )
    return keys, values


def conv_recurrent(
    layer: int, conv: tuple[int, int], recurrent: tuple[int, int, int]
) -> tuple[StateTensor, StateTensor]:
    """Convolution (channels, kernel - 1) and recurrent (heads, dk, dv) state of a layer."""
    return (
        StateTensor(f"past_conv.{layer}", f"present_conv.{layer}", conv),
        StateTensor(f"past_recurrent.{layer}", f"present_recurrent.{layer}", recurrent),
    )
