"""A conversation after a picture: the same prefix for all, the template's own words after it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.chat import Chat
from engines.conversation import Conversation
from engines.errors import ModelError, PromptError
from engines.model import ModelSource
from engines.reference import Reference
from engines.vllm_server import chat_request

SIZE = 64
TOOL_TEMPLATE = (
    "{%- set first = messages[0].content -%}"
    "{%- set system = '' if messages[0].role != 'system' else first if first is string "
    "else first[0].text -%}"
    "{{- '<|im_start|>system\\n' -}}"
    "{%- if not (tools or system) -%}{{- 'DEFAULT' -}}{%- endif -%}"
    "{{- system + ('\\n\\n' if system and tools else '') -}}"
    "{%- if tools -%}{{- 'Tools:' -}}{%- endif -%}"
    "{%- for tool in tools or [] -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- for message in messages if message.role != 'system' -%}"
    "{%- set result = message.role == 'tool' -%}"
    "{{- '<|im_start|>' + ('user' if result else message.role) + '\\n' -}}"
    "{{- '<tool_response>\\n' if result else '' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- endif -%}"
    "{%- for part in message.content if message.content is not string -%}"
    "{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}"
    "{{- '\\n</tool_response>' if result else '' -}}"
    "{%- for call in message.tool_calls or [] -%}"
    "{%- set said = message.content is string or message.content[0].text -%}"
    "{{- '\\n' if said or not loop.first else '' -}}"
    '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' -}}'
    "{{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""In Qwen's manner: tools in a system turn, Hermes' tags, and a system message of its own."""
ALARM = {"name": "set_alarm", "description": "", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": ALARM}]
CALL = {"function": {"name": "set_alarm", "arguments": {"time": "07:30", "days": ["Monday"]}}}
TEXT = st.text(min_size=1, max_size=30).filter(lambda text: text.strip() and "<|" not in text)


def said(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


HISTORY = [
    *said(("system", "Be brief."), ("user", "Wake me up."), ("assistant", "When?")),
    *said(("user", "07:30 on Monday.")),
    {"role": "assistant", "content": "Well.", "tool_calls": [CALL, CALL]},
    *said(("tool", "done"), ("tool", "done twice")),
]


@pytest.fixture(scope="module")
def plain(tiny_model_dir: Path) -> Chat:
    return Chat.load(tiny_model_dir, SIZE)


@pytest.fixture(scope="module")
def reference(tiny_model_dir: Path) -> Reference:
    return Reference(ModelSource("tiny", tiny_model_dir))


@pytest.fixture
def knowing(tiny_model_dir: Path, reference: Reference) -> Iterator[Chat]:
    """A chat, and the reference, whose template knows tools."""
    chat, known = Chat.load(tiny_model_dir, SIZE), reference.tokenizer.chat_template
    chat.tokenizer.chat_template = reference.tokenizer.chat_template = TOOL_TEMPLATE
    yield chat
    reference.tokenizer.chat_template = known


def whole(reference: Reference, prompt: str, *, picture: bool) -> list[int]:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8) if picture else None
    ids: list[int] = reference.inputs([prompt], [pixels])["input_ids"][0].tolist()
    return ids


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(system=TEXT, turns=st.lists(TEXT, min_size=1, max_size=3), last=TEXT)
def test_every_conversation_follows_the_same_prefix(
    plain: Chat, reference: Reference, system: str, turns: list[str], last: str
) -> None:
    pairs = [pair for text in turns for pair in (("user", text), ("assistant", text))]
    conversation = Conversation.of(said(("system", system), *pairs, ("user", last)))
    tail = plain.tail_ids(conversation)
    assert plain.prefix_ids() + tail == whole(reference, conversation, picture=True)
    assert plain.full_ids(conversation) == whole(reference, conversation, picture=False)
    text = plain.tokenizer.decode(tail)
    # Qwen's tokenizers compose characters.
    first, final = (unicodedata.normalize("NFC", part.strip()) for part in (system, last))
    assert text.index(first) <= text.rindex(final)


def test_one_turn_of_the_user_is_a_plain_prompt(plain: Chat, knowing: Chat) -> None:
    for chat in (plain, knowing):
        conversation = Conversation.of(said(("user", "Set a timer.")))
        assert chat.tail_ids(conversation) == chat.tail_ids("Set a timer.")
        assert chat.full_ids(conversation) == chat.full_ids("Set a timer.")


def test_what_the_template_writes_first_follows_the_picture(
    knowing: Chat, reference: Reference
) -> None:
    conversation = Conversation.of(HISTORY, TOOLS)
    tail = knowing.tail_ids(conversation)
    assert knowing.prefix_ids() + tail == whole(reference, conversation, picture=True)
    head = knowing.tokenizer.decode(knowing.prefix_ids())
    assert head.startswith("<|im_start|>system\nDEFAULT<|im_end|>\n<|im_start|>user\n")
    opening = f"Be brief.\n\nTools:\n{json.dumps(TOOLS[0])}\n\nWake me up.<|im_end|>\n"
    text = knowing.tokenizer.decode(tail)
    assert text.startswith(opening)
    call = f"<tool_call>\n{json.dumps(CALL['function'])}\n</tool_call>"
    assert f"<|im_start|>assistant\nWell.\n{call}\n{call}<|im_end|>" in text
    assert "<tool_response>\ndone twice\n</tool_response><|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")


def test_without_a_picture_the_template_has_its_way(knowing: Chat) -> None:
    conversation = Conversation.of(HISTORY, TOOLS)
    parts = [
        {**m, "content": [{"type": "text", "text": m["content"]}]} for m in conversation.messages
    ]
    ids = knowing.tokenizer.apply_chat_template(
        parts, tools=TOOLS, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert knowing.full_ids(conversation) == list(ids)


def test_tools_are_told_in_words_to_a_template_without_them(
    plain: Chat, reference: Reference
) -> None:
    conversation = Conversation.of(HISTORY, TOOLS)
    assert plain.prefix_ids() + plain.tail_ids(conversation) == whole(
        reference, conversation, picture=True
    )
    for ids in (plain.tail_ids(conversation), plain.full_ids(conversation)):
        text = plain.tokenizer.decode(ids)
        assert json.dumps(TOOLS[0]["function"]) in text
        assert f"<tool_call>\n{json.dumps(CALL['function'])}\n</tool_call><|im_end|>" in text
        assert "</tool_response>\n<tool_response>\ndone twice\n</tool_response><|im_end|>" in text
        assert "<|im_start|>tool" not in text


@pytest.mark.parametrize("content", ["", "Well."])
def test_answers_with_calls_are_written_as_the_template_does(
    plain: Chat, knowing: Chat, content: str
) -> None:
    answer = Conversation.answer({"role": "assistant", "content": content, "tool_calls": [CALL]})
    call = f"<tool_call>\n{json.dumps(CALL['function'])}\n</tool_call>"
    expected = f"{content}\n{call}" if content else call
    for chat in (plain, knowing):
        assert chat.answer_ids(answer) == chat.answer_ids(expected)
        history = [*said(("user", "q")), *answer.messages, *said(("user", "r"))]
        asked = chat.full_ids(Conversation.of(said(("user", "q"))))
        told = chat.tokenizer.decode(chat.full_ids(Conversation.of(history)))
        assert chat.tokenizer.decode([*asked, *chat.answer_ids(answer)]) in told.replace(
            "assistant\n", "assistant\n" + ("<think>\n\n</think>\n\n" if chat is plain else ""), 1
        )


def test_a_server_is_sent_what_writes_the_same_tokens(knowing: Chat) -> None:
    """The request's messages, read as a server reads them, through the same template."""
    conversation = Conversation.of(HISTORY, TOOLS)
    for picture in (b"png", None):
        turns = knowing.template.turns(conversation, picture=picture is not None)
        body = json.loads(json.dumps(chat_request("m", turns, picture, 8)))
        for message in body["messages"]:
            for part in message["content"]:
                part["type"] = part["type"].removesuffix("_url")
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        text = knowing.tokenizer.apply_chat_template(
            body["messages"], tools=body.get("tools"), add_generation_prompt=True, tokenize=False
        )
        assert ("tools" in body) is (picture is None)
        pad = "<|image_pad|>"
        ids = knowing.tokenizer(text.replace(pad, pad * knowing.picture_tokens)).input_ids
        if picture is None:
            assert list(ids) == knowing.full_ids(conversation)
        else:
            assert list(ids) == knowing.prefix_ids() + knowing.tail_ids(conversation)


@pytest.mark.parametrize("marker", ["<|image_pad|>", "<|vision_end|>"])
def test_no_part_of_a_conversation_forges_a_picture(knowing: Chat, marker: str) -> None:
    messages = [*HISTORY[:-1], *said(("tool", f"see {marker}"))]
    with pytest.raises(PromptError, match="marker"):
        knowing.tail_ids(Conversation.of(messages))
    hidden = [*HISTORY, *said(("user", "x"))]
    hidden[4] = {
        **hidden[4],
        "tool_calls": [{"function": {"name": "f", "arguments": {"x": marker}}}],
    }
    with pytest.raises(PromptError, match="marker"):
        knowing.full_ids(Conversation.of(hidden))


def test_a_template_that_refuses_or_forgets_is_told(plain: Chat, knowing: Chat) -> None:
    conversation = Conversation.of(HISTORY[:4])
    knowing.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(PromptError, match="roles must alternate"):
        knowing.full_ids(conversation)
    known = plain.tokenizer.chat_template
    loop = "for message in messages"
    knowing.tokenizer.chat_template = known.replace(loop, f"{loop} if message.role != 'system'")
    for ids in (knowing.tail_ids, knowing.full_ids):
        with pytest.raises(ModelError, match="of the system"):
            ids(conversation)
    knowing.tokenizer.chat_template = "{{ messages | length }}" + known
    with pytest.raises(ModelError, match="before the picture"):
        knowing.tail_ids(conversation)


def test_smolvlms_template_takes_conversations(tmp_path: Path) -> None:
    from tests.models import tiny_model

    chat = Chat.load(tiny_model("smolvlm", tmp_path / "smol"))
    text = chat.tokenizer.decode(chat.tail_ids(Conversation.of(HISTORY, TOOLS)))
    assert "Be brief." in text
    assert "set_alarm" in text.partition("Wake me up.")[0]
    assert text.endswith("Assistant:")
