"""Does a vLLM server do what Hugging Face's own generate does on the untouched model?

A server shows tokens and their probabilities alone, so these are compared: the chat as it reached
the model (which shows that no picture was resized), greedy answers and their log-probabilities
under the picture, under another one and under none, and task accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from art_export.probes import LENGTHS, probe_prompts
from art_export.subject import Base
from art_export.verify import Check, TaskSample
from engines.chat import Chat
from engines.errors import OptionError, ServerError
from engines.model import ModelSource, resolve_model, weight_files, weights_sha256
from engines.names import choose
from engines.picture import Pixels, encode_picture
from engines.reference import Reference, ReferenceAnswer
from engines.vllm_server import ServerAnswer, ServerOptions, VllmServer

NEW_TOKENS = 32
CONFIG_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
MARGINS = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.25}
"""The same answer may part where PyTorch's own first two logits are no further apart than this:
two steps of bf16 between 16 and 32, where the greatest logits lie. Kernels that add up in another
order decide such a tie in another way."""
LOGPROBS = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.5}
"""Largest absolute difference of a generated token's log-probability."""
_KINDS = OURS, OTHER, NONE = ("the picture", "another picture", "no picture")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ServerVerifyOptions:
    """server: where it is. base: what it is to serve, and the picture. dtype: in which PyTorch
    computes, "fp32", "fp16" or "bf16"; None takes that of the model's files, as vLLM does.
    prompts: how many greedy answers to compare, over all pictures."""

    server: ServerOptions
    base: Base
    dtype: str | None = None
    prompts: int = 60
    tasks: tuple[TaskSample, ...] = ()


@dataclass(frozen=True)
class ServerReport:
    """All checks, and what they were about."""

    url: str
    served: str
    art: str | None
    base_model: str
    dtype: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def verify_server(options: ServerVerifyOptions, progress: Progress | None = None) -> ServerReport:
    """Run every check. A failed one does not stop the others, unless nothing after it would mean
    anything: another model than the one asked about.

    Raises:
        ModelError: the base model is not there.
        OptionError: there is no such dtype, or fewer than three prompts.
        ServerError: the server cannot be reached, or fails.
    """
    source = resolve_model(options.base.model)
    dtype = _dtype(options.dtype, source)
    if options.prompts < len(_KINDS):
        raise OptionError(
            got=f"{options.prompts} prompts",
            expected=f"at least {len(_KINDS)}: one for each of {', '.join(_KINDS)}",
            fix="ask for more with --prompts",
        )
    server = VllmServer(options.server, Chat.load(source.path, options.base.size))
    checks: list[Check] = []
    stages = 4 + 2 * len(_KINDS) + len(options.tasks)
    for check in _checks(server, options, source, dtype):
        checks.append(check)
        if progress:
            progress(check.name, min(len(checks), stages), stages)
    return ServerReport(
        url=options.server.url,
        served=server.model.name,
        art=options.base.art,
        base_model=options.base.model,
        dtype=dtype,
        checks=tuple(checks),
    )


def _dtype(asked: str | None, source: ModelSource) -> str:
    if asked is not None:
        return choose("dtype", asked, MARGINS)
    text = source.config.get("text_config", {})
    named = (source.config.get("dtype"), source.config.get("torch_dtype"), text.get("dtype"))
    return CONFIG_DTYPES.get(next((name for name in named if name), "float32"), "fp32")


def _checks(
    server: VllmServer, options: ServerVerifyOptions, source: ModelSource, dtype: str
) -> Iterator[Check]:
    yield _version(server)
    same = _same_model(server, options.base, source)
    yield same
    if not same.passed:
        return
    run = _Run(server, Reference(source, dtype), options.base, dtype)
    yield from run.answers(options.prompts)
    for task in options.tasks:
        yield run.task(task)


def _version(server: VllmServer) -> Check:
    version = server.version()
    limit = server.model.max_length
    detail = f"vLLM {version or 'of unknown version'} serves '{server.model.name}', " + (
        "no limit told" if limit is None else f"at most {limit} tokens"
    )
    return Check("server", True, detail)


def _same_model(server: VllmServer, base: Base, source: ModelSource) -> Check:
    """Weights are compared where the server's folder can be read here, and names otherwise."""
    name, served = "base model", server.model
    own = weights_sha256(source.path)
    if own != base.weights:
        return Check(name, False, f"{base.model}: weights {own[:12]} here, not {base.weights[:12]}")
    if served.parent is not None:
        return Check(name, False, f"'{served.name}' is an adapter on '{served.parent}'")
    folder = Path(served.root or served.name)
    if folder.is_dir() and weight_files(folder):
        found = weights_sha256(folder)
        detail = f"{folder}: weights {found[:12]}"
        if found != own:
            detail += f", and {base.model} has {own[:12]}: another base model"
        return Check(name, found == own, detail)
    if str(folder) == base.model:
        return Check(name, True, f"served under the same hub id, {base.model}")
    return Check(
        name, True, f"its files cannot be read from here ({folder}); the answers below must show it"
    )


@dataclass(frozen=True, eq=False)
class _Kind:
    """One of the three things that a prompt may follow."""

    name: str
    pixels: Pixels | None
    png: bytes | None


class _Run:
    """The checks that need server and reference."""

    def __init__(self, server: VllmServer, reference: Reference, base: Base, dtype: str) -> None:
        self.server, self.reference, self.dtype = server, reference, dtype
        self.kinds = _kinds(base)

    def answers(self, count: int) -> Iterator[Check]:
        """Greedy answers, the three kinds mixed in one stream of parallel requests."""
        rows = [self.kinds[row % len(self.kinds)] for row in range(count)]
        prompts = probe_prompts(self.server.chat, count, self._room())
        pngs = [kind.png for kind in rows]
        found = self.server.ask(prompts, pngs, NEW_TOKENS, logprobs=True)
        _check_ids(found)
        pixels = [kind.pixels for kind in rows]
        yield self._prompt_check(found, prompts, pixels)
        expected = self.reference.generate(prompts, pixels, NEW_TOKENS)
        for kind in self.kinds:
            mine = [row for row, other in enumerate(rows) if other is kind]
            pairs = [(found[row], expected[row]) for row in mine]
            yield _token_check(kind.name, pairs, MARGINS[self.dtype])
            yield _logprob_check(kind.name, pairs, LOGPROBS[self.dtype])
        yield self._seen(prompts[0])

    def task(self, task: TaskSample) -> Check:
        """Accuracy of both under the picture, or under none where there is none."""
        kind = self.kinds[0]
        total = len(task.prompts)
        ours = self.server.generate(task.prompts, [kind.png] * total, task.max_new_tokens)
        theirs = self.reference.generate(task.prompts, [kind.pixels] * total, task.max_new_tokens)
        scores = [
            sum(map(task.is_correct, texts, task.references))
            for texts in ([a.text for a in ours], [a.text for a in theirs])
        ]
        detail = f"server {scores[0]}/{total}, PyTorch {scores[1]}/{total}"
        return Check(f"accuracy, {task.name}", scores[0] == scores[1], detail)

    def _prompt_check(
        self,
        found: Sequence[ServerAnswer],
        prompts: Sequence[str],
        pixels: Sequence[Pixels | None],
    ) -> Check:
        """Against the reference's own tokens, whose visual ones its processor has counted."""
        wrong = []
        for row, answer in enumerate(found):
            inputs = self.reference.inputs([prompts[row]], [pixels[row]])
            expected = tuple(inputs["input_ids"][0].tolist())
            if answer.prompt_tokens != len(expected) or answer.prompt_ids != expected:
                wrong.append(f"prompt {row}: {answer.prompt_tokens} tokens for {len(expected)}")
        detail = f"{len(found) - len(wrong)}/{len(found)} chats equal"
        total = sum(answer.prompt_tokens for answer in found)
        detail += f"; {wrong[0]}" if wrong else f", {total} tokens"
        return Check("prompt tokens", not wrong, detail)

    def _seen(self, prompt: str) -> Check:
        """The three kinds must not be one: a server that drops pictures would answer alike."""
        pngs = [kind.png for kind in self.kinds]
        answers = self.server.ask([prompt] * len(pngs), pngs, 1, logprobs=True)
        values = [answer.logprobs[0] for answer in answers]
        tokens = [answer.token_ids[0] for answer in answers]
        different = len(set(zip(tokens, values, strict=True))) == len(pngs)
        shown = ", ".join(f"{value:.3f}" for value in values)
        return Check("pictures are seen", different, f"log-probability of the first token: {shown}")

    def _room(self) -> int:
        """Tokens for the user's text within a chat that both can hold."""
        chat, served = self.server.chat, self.server.model.max_length
        limit = chat.max_length if served is None else min(served, chat.max_length)
        frame = len(self.server.prompt_ids("x", with_picture=True))
        return min(LENGTHS[-1], limit - frame - NEW_TOKENS)


def _kinds(base: Base) -> tuple[_Kind, ...]:
    rng = np.random.default_rng(8)
    noise: Pixels = rng.integers(0, 256, (base.size, base.size, 3), dtype=np.uint8)
    if base.picture is None:
        # Nothing to check but that pictures travel: two of noise do.
        pixels = noise[::-1].copy()
        first = _Kind(OURS, pixels, encode_picture(pixels, None))
    else:
        first = _Kind(OURS, base.picture.picture.pixels, base.picture.png)
    return first, _Kind(OTHER, noise, encode_picture(noise, None)), _Kind(NONE, None, None)


def _check_ids(answers: Sequence[ServerAnswer]) -> None:
    if all(answer.prompt_ids and answer.token_ids and answer.logprobs for answer in answers):
        return
    raise ServerError(
        got="a server that does not tell its tokens or their log-probabilities",
        expected="vLLM 0.10.2 or newer, started without --max-logprobs 0",
        fix="upgrade the server",
    )


Pair = tuple[ServerAnswer, ReferenceAnswer]


def _token_check(name: str, pairs: Sequence[Pair], allowed: float) -> Check:
    """`max_absolute` is PyTorch's greatest margin between two tokens where an answer parts."""
    margins: dict[int, float] = {}
    for index, (answer, reference) in enumerate(pairs):
        step = _agreement(answer, reference)
        if step < len(reference.logits):
            top = np.sort(reference.logits[step])[-2:]
            margins[index] = float(top[1] - top[0])
    total = sum(len(reference.logits) for _, reference in pairs)
    detail = f"{len(pairs) - len(margins)}/{len(pairs)} answers equal, {total} tokens"
    if not margins:
        return Check(f"greedy tokens, {name}", True, detail)
    worst = max(margins.values())
    detail += "; the others part at a tie" if worst <= allowed else ""
    return Check(f"greedy tokens, {name}", worst <= allowed, detail, worst, None, allowed)


def _logprob_check(name: str, pairs: Sequence[Pair], allowed: float) -> Check:
    """Of every token of the server that follows the same tokens in both."""
    differences = np.concatenate([_logprob_differences(*pair) for pair in pairs])
    worst = float(differences.max(initial=0.0))
    # `<=` and not `>`: a NaN must fail.
    passed = worst <= allowed
    detail = f"{len(differences)} tokens"
    return Check(f"log-probabilities, {name}", passed, detail, worst, None, allowed)


def _logprob_differences(answer: ServerAnswer, reference: ReferenceAnswer) -> NDArray[np.float64]:
    """(steps,): up to and with the first token that differs, since what precedes it is the same."""
    steps = min(_agreement(answer, reference) + 1, len(answer.token_ids), len(reference.logits))
    logprobs = torch.log_softmax(torch.from_numpy(reference.logits[:steps]), -1)
    tokens = torch.tensor(answer.token_ids[:steps])[:, None]
    expected = logprobs.gather(1, tokens)[:, 0].double().numpy()
    differences: NDArray[np.float64] = np.abs(np.array(answer.logprobs[:steps]) - expected)
    return differences


def _agreement(answer: ServerAnswer, reference: ReferenceAnswer) -> int:
    """How many tokens from the start are the same, the end token included."""
    expected = reference.logits.argmax(-1).tolist()
    for step, (ours, theirs) in enumerate(zip(answer.token_ids, expected, strict=False)):
        if ours != theirs:
            return step
    return min(len(answer.token_ids), len(expected))
