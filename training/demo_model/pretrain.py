"""Pretrain the shipped model: `python -m training.demo_model.pretrain -o RUN`.

Seeded and resumable: run the same command again to go on from the last checkpoint. Every step
draws its batch from a generator seeded by (seed, step), so an interrupted run sees the same data.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from torch.nn import functional as F
from transformers import (
    GenerationConfig,
    Qwen2VLImageProcessorPil,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5Tokenizer,
)

from training.demo_model import corpus, images
from training.demo_model.architecture import make_config, make_model
from training.demo_model.batches import Batch, forward, make_batch
from training.demo_model.tokenizer import train_tokenizer
from training.tasks import TASKS

PICTURE_EVERY = 4
SCALE_WEIGHT = 0.05
"""Weight of the penalty that keeps visual tokens at the rms of text embeddings."""


@dataclass(frozen=True)
class Options:
    steps: int
    batch_size: int
    lr: float
    seed: int
    size: int = 256
    warmup: int = 100
    cooldown: int = 1000
    rehearse_steps: int = 150
    rehearse_lr: float = 1e-3
    align_steps: int = 200
    align_lr: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    validation: int = 200


def make_tokenizer(seed: int) -> Qwen3_5Tokenizer:
    rng = random.Random(f"tokenizer/{seed}")
    chats = [corpus.text_chat(rng) for _ in range(20_000)]
    chats += [corpus.picture_chat(rng, 32) for _ in range(500)]
    frame = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}"
    return train_tokenizer(frame.format(chat.prompt, chat.answer) for chat in chats)


Optimizers = tuple[torch.optim.Optimizer, ...]


def make_optimizers(model: Qwen3_5ForConditionalGeneration, options: Options) -> Optimizers:
    """Muon (Jordan et al., 2024) for the matrices of the layers, AdamW for all else, at one rate:
    Muon's updates are scaled to AdamW's rms (Liu et al., arXiv 2502.16982, section 2.2).

    The vision tower is slowed down. At the language model's rate its outputs grow by three orders
    of magnitude, after which no picture can steer anything.
    """
    matrices: dict[float, list[torch.nn.Parameter]] = {}
    others: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = 0.025 if "patch_embed" in name else 0.4 if "visual" in name else 1.0
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).setdefault(scale, []).append(parameter)
    muon = torch.optim.Muon(
        [{"params": members, "scale": scale} for scale, members in matrices.items()],
        lr=options.lr,
        weight_decay=options.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [{"params": members, "scale": scale} for scale, members in others.items()],
        lr=options.lr,
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,
    )
    return muon, adamw


def rate_at(step: int, options: Options) -> float:
    """Linear warm-up, a plateau, and a linear cool-down over the last `cooldown` steps.

    Until the cool-down a run does not depend on its length, so one that turns out too short can
    be resumed with more steps.
    """
    rise = (step + 1) / options.warmup
    fall = (options.steps - step) / options.cooldown
    return options.lr * min(1.0, rise, fall)


def batch_at(step: int, options: Options, tokenizer: Qwen3_5Tokenizer) -> Batch:
    """The batch of `step`: every fourth has pictures; the three between share one pool of chats,
    sorted by length, so that little of a batch is padding."""
    group, turn = divmod(step, PICTURE_EVERY)
    tokens = (options.size // 32) ** 2
    size = options.batch_size
    if turn == PICTURE_EVERY - 1:
        rng = random.Random(f"{options.seed}/{group}/pictures")
        chats = [corpus.picture_chat(rng, options.size) for _ in range(max(1, size // 4))]
        return make_batch(tokenizer, chats, tokens)
    rng = random.Random(f"{options.seed}/{group}/text")
    pool = [corpus.text_chat(rng) for _ in range(size * (PICTURE_EVERY - 1))]
    pool.sort(key=lambda chat: len(chat.prompt) + len(chat.answer))
    return make_batch(tokenizer, pool[turn * size : (turn + 1) * size], tokens)


def loss_of(
    model: Qwen3_5ForConditionalGeneration, batch: Batch
) -> tuple[torch.Tensor, dict[str, float]]:
    with torch.autocast("cpu", torch.bfloat16):
        logits, visual = forward(model, batch)
    weights = batch.weights[:, 1:]
    tokens = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), batch.input_ids[:, 1:].flatten(), reduction="none"
    ).view_as(weights)
    loss = (tokens * weights).sum() / weights.sum()
    answers = batch.answers[:, 1:]
    record = {"answer_loss": float(tokens[answers].detach().mean())}
    if visual is not None:
        target = model.get_input_embeddings().weight.detach().pow(2).mean().sqrt()
        ratio = visual.float().pow(2).mean().sqrt() / target
        loss = loss + SCALE_WEIGHT * ratio.log().pow(2)
        record["visual_to_text_rms"] = float(ratio.detach())
    return loss, record


@torch.no_grad()
def exact_match(
    model: Qwen3_5ForConditionalGeneration, tokenizer: Qwen3_5Tokenizer, count: int, size: int
) -> dict[str, float]:
    """Share of validation rows whose every answer token is the argmax, by kind of question."""
    tokens = (size // 32) ** 2
    rng = random.Random("validation pictures")
    kinds = {
        name: [
            corpus.Chat(e.prompt, e.answer) for e in task.examples("validation", count, hint=True)
        ]
        for name, task in TASKS.items()
    }
    seen = [images.draw(rng, size) for _ in range(count // 2)]
    kinds["picture"] = [_seen(each) for each in seen]
    scores = {}
    for name, chats in kinds.items():
        batch = make_batch(tokenizer, chats, tokens)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = forward(model, batch)[0][:, :-1].argmax(-1)
        right = (predicted == batch.input_ids[:, 1:]) | ~batch.answers[:, 1:]
        scores[name] = float(right.all(dim=1).float().mean())
    return scores


def save_model(
    model: Qwen3_5ForConditionalGeneration, tokenizer: Qwen3_5Tokenizer, folder: Path
) -> None:
    """Write the Hugging Face folder: bf16 safetensors, tokenizer, image processor."""
    half = Qwen3_5ForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    half.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": 65536, "longest_edge": 16777216},
        patch_size=16,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ).save_pretrained(folder)


def save_checkpoint(path: Path, **state: object) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def rehearse(
    model: Qwen3_5ForConditionalGeneration,
    tokenizer: Qwen3_5Tokenizer,
    options: Options,
    out: Path,
    report_every: int = 50,
) -> None:
    """A short stage on what the first learns late. An interrupted one starts again."""
    optimizers = make_optimizers(model, options)
    started = time.perf_counter()
    mean: dict[str, float] = {}
    for step in range(options.rehearse_steps):
        rng = random.Random(f"{options.seed}/rehearse/{step}")
        chats = [corpus.rehearsal_chat(rng) for _ in range(options.batch_size)]
        loss, record = loss_of(model, make_batch(tokenizer, chats, 0))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        rate = options.rehearse_lr * (1 - step / options.rehearse_steps)
        update(optimizers, rate)
        model.zero_grad(set_to_none=True)
        mean = averaged(mean, record)
        done = step + 1
        if done % report_every == 0 or done == options.rehearse_steps:
            line = {"rehearse_step": done, "seconds": time.perf_counter() - started, **mean}
            report(out, line | exact_match(model, tokenizer, options.validation, options.size))


def update(optimizers: Optimizers, rate: float) -> None:
    """One step of all optimizers at `rate` times each group's scale."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        optimizer.step()


def align(
    model: Qwen3_5ForConditionalGeneration,
    tokenizer: Qwen3_5Tokenizer,
    options: Options,
    out: Path,
    report_every: int = 50,
) -> None:
    """Teach the vision tower alone to be understood by the language model, which stays as it is.

    Short, so an interrupted one starts again from the checkpoint before it.
    """
    model.requires_grad_(False)
    tower = model.model.visual.requires_grad_(True)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=options.align_lr, weight_decay=0.0)
    tokens = (options.size // 32) ** 2
    started = time.perf_counter()
    mean: dict[str, float] = {}
    for step in range(options.align_steps):
        rng = random.Random(f"{options.seed}/align/{step}")
        chats = [_seen(images.draw(rng, options.size)) for _ in range(options.batch_size // 2)]
        loss, record = loss_of(model, make_batch(tokenizer, chats, tokens))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), options.clip)
        optimizer.param_groups[0]["lr"] = options.align_lr * (1 - step / options.align_steps)
        optimizer.step()
        mean = averaged(mean, record)
        done = step + 1
        if done % report_every == 0 or done == options.align_steps:
            line = {"align_step": done, "seconds": time.perf_counter() - started, **mean}
            report(out, line | exact_match(model, tokenizer, options.validation, options.size))


def _seen(drawn: images.PictureQuestion) -> corpus.Chat:
    return corpus.Chat(drawn.question, drawn.answer, drawn.pixels)


def averaged(mean: dict[str, float], record: dict[str, float]) -> dict[str, float]:
    """Exponential means, 0.95 of the old ones."""
    new = {key: 0.95 * mean.get(key, value) + 0.05 * value for key, value in record.items()}
    return {**mean, **new}


def report(out: Path, line: dict[str, float]) -> None:
    """Print a line of metrics and append it to OUT/metrics.jsonl."""
    text = json.dumps({key: round(value, 4) for key, value in line.items()})
    with (out / "metrics.jsonl").open("a") as log:
        log.write(text + "\n")
    print(text, flush=True)


def train(options: Options, out: Path, report_every: int = 50, save_every: int = 200) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(options.seed)
    model = make_model(make_config(tokenizer), options.seed)
    optimizers = make_optimizers(model, options)
    checkpoint, first, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, spent = state["step"], state["seconds"]
    started = time.perf_counter() - spent
    mean: dict[str, float] = {}
    for step in range(first, options.steps):
        loss, record = loss_of(model, batch_at(step, options, tokenizer))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        update(optimizers, rate_at(step, options))
        model.zero_grad(set_to_none=True)
        mean = averaged(mean, record)
        done = step + 1
        seconds = time.perf_counter() - started
        if done % report_every == 0 or done == options.steps:
            line = {"step": done, "seconds": seconds, **mean}
            if done % (10 * report_every) == 0 or done == options.steps:
                line |= exact_match(model, tokenizer, options.validation, options.size)
            report(out, line)
        if done % save_every == 0 or done == options.steps:
            save_checkpoint(
                checkpoint,
                model=model.state_dict(),
                optimizers=[optimizer.state_dict() for optimizer in optimizers],
                step=done,
                seconds=seconds,
            )
    rehearse(model, tokenizer, options, out)
    align(model, tokenizer, options, out)
    save_model(model, tokenizer, out / "model")
    (out / "options.json").write_text(json.dumps(asdict(options), indent=2) + "\n")


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=2200, show_default=True)
@click.option("--batch-size", default=48, show_default=True)
@click.option("--lr", default=2e-3, show_default=True)
@click.option("--cooldown", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    out: Path, steps: int, batch_size: int, lr: float, cooldown: int, seed: int, threads: int
) -> None:
    """Pretrain the shipped model into OUT/model."""
    torch.set_num_threads(threads)
    train(Options(steps, batch_size, lr, seed, cooldown=cooldown), out)


if __name__ == "__main__":
    main()
