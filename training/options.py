"""What a training run is asked for and what it gives back. No heavy imports: the CLI reads this.

Every default that depends on another option is None here and is settled by `settle`, so that a
run's record names the values that were used and never "default".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from engines.errors import OptionError
from engines.names import choose
from engines.quantization import BITS

Progress = Callable[[str, int, int], None]
"""(stage, done, total)"""

SCHEDULES = ("constant", "cosine")
PRECISIONS = ("fp32", "bf16")
COUNTS = (
    "steps", "lr", "batch_size", "examples", "validation_examples", "validate_every",
    "checkpoint_every", "accumulate",
)  # fmt: skip
PICTURE_STEPS, LORA_STEPS = 400, 100
FREE_RATE, LORA_RATE = 0.3, 2e-3
SOFT_PROMPT_RATE, SOFT_PROMPT_SCHEDULE = 0.1, "cosine"
INITS = ("RANDOM", "SAMPLE_VOCAB", "TEXT")
GENERATED_EXAMPLES = 4000
"""How many training examples a shipped task draws; the default steps see each about 1.6 times."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train`.

    model: `demo`, a folder or a hub id. task: a shipped task's name or a JSONL file.
    lr: without epsilon, Adam's rate on the pixels' logits; with it, the size of a sign step as a
    share of the full range (0..1), as epsilon is. examples: how many training examples at most.
    variation, low: weights of the terms of `training.likeness`. robust: names of distortions that
    the picture is to survive. precision: of training steps, fp32 or bf16. weights:
    "int8" or "int4" to train against what a bundle of that precision computes with, None for the
    model's own. recompute: activations, for less memory. log_to: where metrics go beside
    metrics.jsonl. device: where the model is, such as cuda; the picture stays on the CPU.
    device_map: "auto" or a JSON file, to spread the decoder's layers over devices and disk.
    accumulate: parts that a batch is cut into, for less memory. settings: the objective's own.
    """

    model: str
    task: str
    out: Path
    objective: str = "sft"
    steps: int | None = None
    lr: float | None = None
    schedule: str = "constant"
    batch_size: int = 16
    seed: int = 0
    size: int | None = None
    init: Path | None = None
    epsilon: str | None = None
    examples: int | None = None
    validation_examples: int = 100
    validate_every: int = 25
    checkpoint_every: int = 25
    controls: bool = True
    variation: float = 0.0
    low: float = 0.0
    robust: tuple[str, ...] = ()
    precision: str = "fp32"
    weights: str | None = None
    recompute: bool = False
    log_to: tuple[str, ...] = ()
    accumulate: int = 1
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    device: str = "cpu"
    device_map: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class TrainResult:
    """What `train` made. `score` is the share of validation examples, 0..1, that the saved
    picture gets exactly right. `seconds` is the time in the loop, over all resumed parts and with
    validation; `step_seconds` that of one step, on average. `measured` is what the objective
    found out at the end."""

    out: Path
    picture: Path
    picture_sha256: str
    step: int
    score: float
    loss: float
    seconds: float
    step_seconds: float
    steps: int
    weights_sha256: str
    data_hash: str
    controls: Mapping[str, float]
    measured: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class AdapterOptions:
    """Options that the baselines share; those shared with `TrainOptions` mean the same."""

    model: str
    task: str
    out: Path
    objective: str = "sft"
    steps: int = PICTURE_STEPS
    lr: float = LORA_RATE
    schedule: str = "constant"
    batch_size: int = 16
    seed: int = 0
    examples: int | None = None
    validation_examples: int = 100
    validate_every: int = 25
    checkpoint_every: int = 25
    precision: str = "fp32"
    accumulate: int = 1
    device: str = "cpu"
    resume: bool = False

    @property
    def prefix_tokens(self) -> int:
        """Tokens that the adapter puts before every chat."""
        return 0


@dataclass(frozen=True)
class LoraOptions(AdapterOptions):
    """Options of the LoRA baseline. alpha: the update counts alpha/rank times, None is 2 * rank."""

    steps: int = LORA_STEPS
    rank: int = 8
    alpha: int | None = None


@dataclass(frozen=True)
class SoftPromptOptions(AdapterOptions):
    """Options of the soft prompt. tokens: how many vectors stand before the chat. init: what they
    start from, one of peft's INITS. init_text: its tokens are repeated, for TEXT."""

    lr: float = SOFT_PROMPT_RATE
    schedule: str = SOFT_PROMPT_SCHEDULE
    tokens: int = 64
    init: str = "SAMPLE_VOCAB"
    init_text: str | None = None

    @property
    def prefix_tokens(self) -> int:
        return self.tokens


@dataclass(frozen=True)
class AdapterResult:
    """What training a baseline made: `adapter` is a folder that peft loads; the rest as in
    `TrainResult`."""

    out: Path
    adapter: Path
    step: int
    score: float
    loss: float
    seconds: float
    step_seconds: float
    steps: int
    trained_parameters: int
    weights_sha256: str
    data_hash: str
    notes: tuple[str, ...]


def parse_epsilon(text: str) -> int:
    """The radius of an L-infinity ball in 8-bit units, 1..255, from `32/255` or `0.125`.

    Rounded down: a picture of whole numbers that is within the result is within what was asked.
    """
    try:
        share = Fraction(text.strip())
    except (ValueError, ZeroDivisionError) as error:
        raise _bad_epsilon(text) from error
    units = int(share * 255)
    if share > 1 or units < 1:
        raise _bad_epsilon(text)
    return units


def settle(options: TrainOptions) -> TrainOptions:
    """`options` with every default filled in.

    Raises:
        OptionError: a value is out of range or two options contradict each other.
    """
    if options.epsilon is not None and options.init is None:
        raise OptionError(
            got=f"--epsilon {options.epsilon} without --init",
            expected="a picture to stay close to",
            fix="add --init PICTURE.png, or leave --epsilon out",
        )
    settled = replace(options, lr=rate_of(options), steps=steps_of(options))
    check_common(settled)
    choose("precision", settled.precision, PRECISIONS)
    if settled.weights is not None:
        choose("weights", settled.weights, BITS)
    for name in ("variation", "low"):
        if not 0 <= getattr(settled, name) < float("inf"):
            raise OptionError(
                got=f"{name} = {getattr(settled, name)}",
                expected="a number from 0 up",
                fix="give another weight",
            )
    return settled


def radius_of(options: TrainOptions) -> int | None:
    """How many levels a pixel may move from the start; None for no bound."""
    return None if options.epsilon is None else parse_epsilon(options.epsilon)


def rate_of(options: TrainOptions) -> float:
    """The learning rate, by default 0.3, or a sixteenth of the ball's radius."""
    if options.lr is not None:
        return options.lr
    radius = radius_of(options)
    return FREE_RATE if radius is None else radius / 16 / 255


def steps_of(options: TrainOptions | AdapterOptions) -> int:
    """The number of steps."""
    return PICTURE_STEPS if options.steps is None else options.steps


def check_adapter(options: AdapterOptions) -> None:
    """Raise OptionError for the first value that is out of range, or that does not go with another
    one."""
    check_common(options)
    choose("precision", options.precision, PRECISIONS)
    for name in ("rank", "alpha", "tokens"):
        _check_positive(name, getattr(options, name, None))
    if not isinstance(options, SoftPromptOptions):
        return
    choose("init", options.init, INITS)
    if (options.init == "TEXT") != bool(options.init_text):
        raise OptionError(
            got=f"init = {options.init} with the text {options.init_text!r}",
            expected="a text for TEXT, and none for the others",
            fix="give --init TEXT and --init-text together",
        )


def check_common(options: TrainOptions | AdapterOptions) -> None:
    """Raise OptionError for an unknown schedule, or a count or rate that is not positive."""
    choose("schedule", options.schedule, SCHEDULES)
    for name in COUNTS:
        _check_positive(name, getattr(options, name, None))


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise OptionError(
            got=f"{name} = {value}",
            expected="a number above 0",
            fix=f"give another --{name.replace('_', '-')}",
        )


def _bad_epsilon(text: str) -> OptionError:
    return OptionError(
        got=f"--epsilon {text}",
        expected="a share of the full range of a colour, from 1/255 to 255/255",
        fix="write it like 32/255",
    )
