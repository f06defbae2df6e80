"""How a batch is run: rows with one prompt after that prompt, read once, and rows of like lengths
together.

Which passes there are changes what is computed, not what comes out, but for rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.batches import Batch
from training.placement import is_placed
from training.policy import PrefixPolicy

COST = {"cpu": 64}
"""What a pass of the decoder costs beside its positions, in positions: 25 to 40 ms of the shipped
model forth and back on one thread of a CPU, where a position costs 0.5 ms."""
ELSEWHERE = 2048
"""The same on other devices, where starting the kernels is what a small pass costs: an estimate,
not measured."""
Rows = list[int]


@dataclass(frozen=True, eq=False)
class Pass:
    """A part of a batch in one run of the decoder. rows: which of the batch's rows these are.
    shared: how many first tokens they share, which `policy` has read already."""

    policy: PrefixPolicy
    batch: Batch
    rows: Rows
    shared: int = 0

    @property
    def positions(self) -> int:
        """How many positions are computed, those of the shared tokens once."""
        return self.batch.input_ids.numel() + self.shared


def passes_of(policy: PrefixPolicy, batch: Batch) -> list[Pass]:
    """The passes over `batch`. A model whose layers are loaded for each use gets one."""
    if is_placed(policy.parts) or len(batch.input_ids) == 1:
        return [Pass(policy, batch, list(range(len(batch.input_ids))))]
    cost = COST.get(batch.input_ids.device.type, ELSEWHERE)
    before, lengths = _spans(batch)
    groups, rest = shared_prompts(batch.input_ids.tolist(), before, cost)
    found = []
    for rows in groups:
        shared = before[rows[0]]
        after, first = policy.after(batch.input_ids[rows[0], :shared]), True
        for some in by_length(rows, [lengths[row] - shared for row in rows], cost):
            part = _part(batch, some, shared, lengths)
            found.append(Pass(after, part, some, shared if first else 0))
            first = False
    for some in by_length(rest, [lengths[row] for row in rest], cost):
        found.append(Pass(policy, _part(batch, some, 0, lengths), some))
    return found


def in_order(found: Sequence[Pass], values: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
    """Values (tokens,) of the answer tokens of each pass, as the answer tokens of `batch`."""
    if len(found) == 1:
        return values[0]
    counts, pieces = batch.wanted.sum(1).tolist(), dict[int, torch.Tensor]()
    for one, value in zip(found, values, strict=True):
        pieces.update(zip(one.rows, value.split([counts[row] for row in one.rows]), strict=True))
    return torch.cat([pieces[row] for row in range(len(counts))])


def shared_prompts(
    ids: Sequence[Sequence[int]], before: Sequence[int], cost: int
) -> tuple[list[Rows], Rows]:
    """Groups of rows whose first `before` tokens are alike and better read once, and the others.

    ids: tokens of every row. cost: of a pass, in positions.
    """
    alike: dict[tuple[int, ...], Rows] = defaultdict(list)
    for row, (tokens, count) in enumerate(zip(ids, before, strict=True)):
        alike[tuple(tokens[:count])].append(row)
    # A pass for the prompt, and one for what follows it.
    groups = [rows for prompt, rows in alike.items() if len(prompt) * (len(rows) - 1) > 2 * cost]
    taken = {row for rows in groups for row in rows}
    return groups, [row for row in range(len(ids)) if row not in taken]


def by_length(rows: Rows, lengths: Sequence[int], cost: int) -> list[Rows]:
    """`rows` as they are, or the shorter and the longer ones apart if that leaves out more
    padding than another pass costs."""
    order = sorted(range(len(rows)), key=lambda place: lengths[place])
    if not order:
        return []
    longest = lengths[order[-1]]
    saved = [count * (longest - lengths[order[count - 1]]) for count in range(1, len(order))]
    if not saved or max(saved) <= cost:
        return [rows]
    cut = saved.index(max(saved)) + 1
    return [[rows[place] for place in half] for half in (order[:cut], order[cut:])]


def _spans(batch: Batch) -> tuple[list[int], list[int]]:
    """Of every row, how many tokens come before the first position that predicts an answer token,
    and how many positions there are up to the last."""
    length = batch.input_ids.shape[1]
    wanted = batch.wanted.long()
    first = length - batch.keep + wanted.argmax(1)
    last = length - wanted.flip(1).argmax(1)
    return first.tolist(), last.tolist()


def _part(batch: Batch, rows: Rows, shared: int, lengths: Sequence[int]) -> Batch:
    """`rows` without their first `shared` tokens and without padding that none of them needs."""
    longest = max(lengths[row] for row in rows)
    first = max(shared, batch.input_ids.shape[1] - batch.keep)
    where = torch.tensor(rows, device=batch.input_ids.device)
    skipped = first - (batch.input_ids.shape[1] - batch.keep)
    targets = batch.targets[where, skipped : skipped + longest - first]
    return Batch(batch.input_ids[where, shared:longest], targets, longest - first)
