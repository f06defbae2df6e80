"""Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300, section 4.1) of a picture.

Answers are drawn by an inference engine, compiled for instance: the weights never change, so there
is nothing to synchronise but the picture. They are rewarded by a rule, compared within the group
of answers to one prompt, and the likelier ones of the better are made likelier still.

Departures from the published algorithm:
- The importance ratio is between PyTorch's policies now and at the time of the rollouts, as
  published; the answers were drawn by another engine though, whose probabilities differ a little.
  Each token is therefore also weighted by p_torch / p_engine, truncated at `truncate` (truncated
  importance sampling; Espeholt et al., arXiv 1802.01561, section 4.1, for the truncation). The
  mismatch is logged. truncate=0 turns the weight off.
- The KL penalty, off by default, is to the model without any picture and not to a policy that is
  replaced between iterations. Its estimator is the published one (section 4.1.1, equation 4), and
  is not weighted for the mismatch.
- One update per batch of rollouts by default (`updates`): then every ratio is 1 and clipping does
  nothing.
- Rewards come from rules alone; there is no reward model and no process supervision.
- A group whose answers all earn the same has no advantage. It is left out of the pass, where the
  published division is by a standard deviation of 0.
- Log-probabilities are those at the temperature of sampling, so that the policy that is improved
  is the one that was drawn from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from engines.errors import OptionError
from engines.sampling import Sample, SamplingOptions
from engines.vllm_server import ServerOptions
from training.batches import Row, batch_indices
from training.encoding import check_room, text_alone
from training.likelihood import token_logprobs
from training.objectives.base import Loss, Material, Objective, parse_settings
from training.policy import Policy, text_policy
from training.rewards import load_reward
from training.rollouts import EngineRollouts, Rollouts, SharedRollouts, open_runtime, pixels_of
from training.scoring import Score
from training.server_rollouts import VLLM, ServerRollouts
from training.tasks import Example

if TYPE_CHECKING:
    from training.setup import Setup

MANY_CUT = 0.1
"""Share of answers cut off above which the user is told."""


@dataclass(frozen=True)
class Settings:
    """group: answers to a prompt. clip: how far a ratio may leave 1. kl: weight of the divergence
    from the model without a picture. updates: steps taken on one batch of rollouts. truncate:
    greatest weight against the engine's mismatch. reward: a name, or the task's own.
    engine, bundle: what draws, see `training.rollouts`; or url, served_model: a vLLM server.
    rows: answers decoded at once."""

    group: int = 8
    temperature: float = 1.0
    clip: float = 0.2
    kl: float = 0.0
    updates: int = 1
    truncate: float = 2.0
    max_new_tokens: int | None = None
    reward: str | None = None
    engine: str | None = None
    bundle: str | None = None
    url: str | None = None
    served_model: str | None = None
    rows: int = 128


@dataclass(frozen=True)
class Group:
    """Answers to one prompt.

    ids: token ids of prompt and answer, with where the answer starts. advantages: one an answer.
    engine, old, reference: log-probabilities of each answer's tokens by the engine, by PyTorch at
    the time of the rollouts (empty: they are those of the step itself) and without a picture
    (empty: not asked for).
    """

    ids: list[tuple[int, ...]]
    start: int
    rewards: list[float]
    advantages: list[float]
    finished: list[bool]
    engine: list[list[float]]
    old: list[list[float]]
    reference: list[list[float]]

    @property
    def rows(self) -> list[Row]:
        return [Row(ids, self.start) for ids in self.ids]

    @property
    def tells(self) -> bool:
        """Whether some answers earned more than others."""
        return any(self.advantages)


class Grpo(Objective):
    """Rewarded rollouts; scored by greedy answers on the validation examples."""

    def __init__(self, material: Material) -> None:
        self.settings = parse_settings(Settings, material.settings)
        _check(self.settings)
        # Ratios are between the picture before and after an update, not between distortions of it.
        self.same_view = self.settings.updates
        self.material, setup = material, material.setup
        self.source, self.data = setup.data.source, setup.data
        self.reward = load_reward(self.settings.reward, self.source)
        self.limit = self.settings.max_new_tokens or self.source.max_new_tokens
        self.rollouts = SharedRollouts(self._open(setup))
        asked = [setup.chat.tail_ids(e.prompt) for e in (*self.data.train, *self.data.validation)]
        check_room(setup.chat, asked, material.prefix, self.limit)
        self.groups: list[Group] = []
        self.seconds, self.cut_off = 0.0, 0.0

    def batch(self, policy: Policy, step: int) -> Sequence[Group]:
        if step % self.settings.updates == 0:
            self.groups = self._roll(policy, step // self.settings.updates)
        return self.groups

    def loss(self, policy: Policy, part: Sequence[Group]) -> Loss:
        measured = _measured(part)
        used = [group for group in part if group.tells or self.settings.kl]
        if not used:
            return Loss(torch.zeros(()), measured)
        rows = [row for group in used for row in group.rows]
        logprobs, mask = token_logprobs(policy, rows, self.settings.temperature)
        terms, more = self._terms(logprobs, mask, used)
        # A mean over an answer's tokens, then over all answers, those without advantage too.
        answers = (terms * mask).sum(-1) / mask.sum(-1)
        return Loss(answers.sum() / sum(len(group.ids) for group in part), measured | more)

    def score(self, policy: Policy) -> Score:
        """exact: share of validation examples whose greedy answer the task's own scorer takes for
        right. loss: 1 less the mean reward."""
        examples = self.data.validation
        found = self.rollouts.greedy(pixels_of(policy), [example.prompt for example in examples])
        pairs = list(zip([answer.text for answer in found], examples, strict=True))
        exact = fmean(self.source.is_correct(text, example.answer) for text, example in pairs)
        return Score(exact, 1 - fmean(self.reward(text, e.answer) for text, e in pairs))

    def report(self, policy: Policy) -> dict[str, Any]:
        """Who drew, and how long that took in this part of the run."""
        if self.cut_off > MANY_CUT:
            self.notes = (
                f"{self.cut_off:.0%} of the last answers were cut off at {self.limit} tokens and "
                "earned nothing for what was missing: raise max_new_tokens",
            )
        return {"rollout_engine": self.rollouts.name, "rollout_seconds": round(self.seconds, 3)}

    def state(self) -> dict[str, Any]:
        kept = self.groups if self.settings.updates > 1 else []
        return {"groups": [asdict(group) for group in kept]}

    def restore(self, state: dict[str, Any]) -> None:
        self.groups = [Group(**group) for group in state["groups"]]

    def close(self) -> None:
        self.rollouts.close()

    def _open(self, setup: Setup) -> Rollouts:
        asked = self.settings
        if asked.url is None:
            runtime = open_runtime(setup, asked.engine, asked.bundle)
            return EngineRollouts(runtime, self.limit, asked.rows)
        if asked.engine not in (None, VLLM) or asked.bundle is not None or asked.temperature != 1:
            raise OptionError(
                got="the setting url with another engine, a bundle or a temperature other than 1",
                expected="a vLLM server alone; its log-probabilities are those at temperature 1",
                fix="leave out what does not go with it",
            )
        options = ServerOptions(asked.url, asked.served_model, parallel=asked.rows)
        return ServerRollouts(options, setup.chat, self.limit)

    def _roll(self, policy: Policy, number: int) -> list[Group]:
        began, seed = time.perf_counter(), self.material.seed
        picked = batch_indices(len(self.data.train), self.material.batch_size, seed, number)
        examples = [self.data.train[index] for index in picked]
        seeds = [
            [(seed, number, place, one) for one in range(self.settings.group)]
            for place in range(len(examples))
        ]
        options = SamplingOptions(self.settings.temperature)
        prompts = [example.prompt for example in examples]
        drawn = self.rollouts.draw(pixels_of(policy), prompts, options, seeds)
        self.seconds += time.perf_counter() - began
        groups = [self._group(policy, *pair) for pair in zip(examples, drawn, strict=True)]
        self.cut_off = fmean(not done for group in groups for done in group.finished)
        return groups

    def _group(self, policy: Policy, example: Example, answers: list[Sample]) -> Group:
        chat = self.material.setup.chat
        seen = self.material.form(chat, example)
        prompt = seen.ids[: seen.start]
        rewards = [self.reward(answer.text, example.answer) for answer in answers]
        ids = [(*prompt, *answer.token_ids) for answer in answers]
        old = self._logprobs(policy, ids, len(prompt)) if self.settings.updates > 1 else []
        reference: list[list[float]] = []
        if self.settings.kl:
            bare = text_alone(chat, example)
            bare_ids = bare.ids[: bare.start]
            whole = [(*bare_ids, *answer.token_ids) for answer in answers]
            with torch.no_grad():
                frozen = text_policy(self.material.setup.parts)
            reference = self._logprobs(frozen, whole, bare.start)
        return Group(
            ids=ids,
            start=len(prompt),
            rewards=rewards,
            advantages=advantages_of(rewards),
            finished=[answer.finished for answer in answers],
            engine=[list(answer.logprobs) for answer in answers],
            old=old,
            reference=reference,
        )

    @torch.no_grad()
    def _logprobs(
        self, policy: Policy, ids: list[tuple[int, ...]], start: int
    ) -> list[list[float]]:
        rows = [Row(row, start) for row in ids]
        found, mask = token_logprobs(policy, rows, self.settings.temperature)
        return [row[here].tolist() for row, here in zip(found, mask, strict=True)]

    def _terms(
        self, logprobs: torch.Tensor, mask: torch.Tensor, groups: Sequence[Group]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of every token (answers, keep), and what to log of it."""
        settings = self.settings
        now = logprobs.detach()
        old = _spread([one for group in groups for one in group.old], mask, now)
        engine = _spread([one for group in groups for one in group.engine], mask, now)
        gains = [gain for group in groups for gain in group.advantages]
        advantages = torch.tensor(gains, device=now.device)[:, None]
        ratio = (logprobs - old).exp()
        within = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        gained = torch.minimum(ratio * advantages, within * advantages)
        weight = (old - engine).exp()
        capped = weight.clamp(max=settings.truncate) if settings.truncate else weight
        terms = -gained * (capped if settings.truncate else 1.0)
        measured = {
            "mismatch": (old - engine).abs()[mask].mean(),
            "mismatch_weight": weight[mask].mean(),
            "truncated": (weight != capped)[mask].float().mean(),
            "clipped": (ratio.detach() != within.detach())[mask].float().mean(),
        }
        if settings.kl:
            distance = _spread([o for group in groups for o in group.reference], mask, now)
            distance = distance - logprobs
            divergence = distance.exp() - distance - 1
            terms = terms + settings.kl * divergence
            measured["kl"] = divergence.detach()[mask].mean()
        return terms, {name: float(value) for name, value in measured.items()}


def advantages_of(rewards: Sequence[float]) -> list[float]:
    """Rewards of one group, less their mean, over their standard deviation; 0 where that is 0."""
    values = torch.tensor(rewards, dtype=torch.float64)
    spread = values.std(correction=0)
    # Equal rewards have a standard deviation of rounding errors.
    if spread < 1e-9:
        return [0.0] * len(rewards)
    found: list[float] = ((values - values.mean()) / spread).tolist()
    return found


def _spread(
    answers: Sequence[Sequence[float]], mask: torch.Tensor, otherwise: torch.Tensor
) -> torch.Tensor:
    """Numbers of the answers' tokens where the answers are, or `otherwise` if there are none."""
    if not answers:
        return otherwise
    spread = torch.zeros_like(otherwise)
    spread[mask] = torch.tensor([number for answer in answers for number in answer]).to(spread)
    return spread


def _measured(part: Sequence[Group]) -> dict[str, float]:
    """What the rollouts of a part were like."""
    lengths = [len(ids) - group.start for group in part for ids in group.ids]
    return {
        "reward": fmean(reward for group in part for reward in group.rewards),
        "telling_groups": fmean(group.tells for group in part),
        "answer_tokens": fmean(lengths),
        "cut_off": fmean(not done for group in part for done in group.finished),
    }


def _check(settings: Settings) -> None:
    for name, fits, wanted in (
        ("group", settings.group >= 2, "at least 2, to compare"),
        ("temperature", settings.temperature > 0, "a number above 0"),
        ("clip", 0 < settings.clip < 1, "a share between 0 and 1"),
        ("kl", settings.kl >= 0, "a number from 0 up"),
        ("updates", settings.updates >= 1, "at least 1"),
        ("truncate", settings.truncate == 0 or settings.truncate >= 1, "0, or at least 1"),
        ("rows", settings.rows >= 1, "at least 1"),
    ):
        if not fits:
            raise OptionError(
                got=f"{name} = {getattr(settings, name)}",
                expected=wanted,
                fix=f"give another {name}",
            )
