"""Values of every field that the requests of OpenAI's API honour: some that work, some that do not.

The worker of the tests has no model, so forms are asked for and not kept.
"""

from dataclasses import dataclass, field

from tests.integration.support.openai_chats import HELLO, WEATHER
from tests.integration.support.router_stack import MODEL
from tests.integration.support.scripted_worker import CONTEXT

CHAT, TEXT, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
LEAST: dict[str, dict[str, object]] = {
    CHAT: {"messages": HELLO},
    TEXT: {"prompt": "hello"},
    RESPONSE: {"input": "hello"},
}
HUGE, LONG = 10**400, "x" * 257
TOOL: dict[str, object] = {"type": "function", "name": "weather"}


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one field."""

    valid: tuple[object, ...]
    invalid: tuple[object, ...]
    beside: dict[str, object] = field(default_factory=dict)  # fields that it goes with


def _flag(**beside: object) -> Values:
    return Values((True, False), ("yes", 1, [True]), beside)


_TOKENS = ((-1,), (999,), (2**40,), ("a",), 65, "a")
_UNKNOWN_TOKENS = tuple(list(ids) if isinstance(ids, tuple) else ids for ids in _TOKENS)
_TEMPERATURE = Values((0, 0.5, 2), ("hot", -1, 101, HUGE, -HUGE, True, [1]))
_TOP_P = Values((0.5, 1), ("x", 0, 1.5, HUGE, True))
_MAX_TOKENS = Values((1, 16), (0, -1, 1.5, "x", True, CONTEXT + 1, 2**40, HUGE))
_MODEL = Values((MODEL, ""), (5, [MODEL]))
_TOP_LOGPROBS = Values((0, 2), (-1, 21, "x", True, 2**40, HUGE), {"logprobs": True})

SAMPLING: dict[str, Values] = {
    "model": _MODEL,
    "temperature": _TEMPERATURE,
    "top_p": _TOP_P,
    "n": Values((1, 2), (0, 17, -1, "2", 1.5, True, 2**40, HUGE)),
    "stop": Values(("zz", ["zz", "yy"], []), ("", LONG, 5, [1], ["a"] * 129)),
    "seed": Values((7, -7, 2**64 - 1, HUGE), ("x", 1.5, True)),
    "frequency_penalty": Values((1, -0.5), ("x", 3, HUGE)),
    "presence_penalty": Values((1, -0.5), ("x", -3, -HUGE)),
    "logit_bias": Values(
        ({"65": 2}, {}),
        (
            5,
            {"x": 1},
            {"-1": 1},
            {"999": 1},
            {str(2**40): 1},
            {"65": "a"},
            {"65": 101},
            {"6": HUGE},
        ),
    ),
    "stream": _flag(),
    "stream_options": Values(
        ({"include_usage": True}, {"continuous_usage_stats": True}, {}),
        (5, {"include_usage": 1}, {"usage": True}),
        {"stream": True},
    ),
    "response_format": Values(
        (
            {"type": "text"},
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string"}}},
        ),
        (
            5,
            {},
            {"type": "yaml"},
            {"type": "json_schema"},
            {"type": "json_schema", "json_schema": {"schema": {"type": "strange"}}},
        ),
    ),
    "top_k": Values((-1, 0, 5, 2**40), (-2, "x", 1.5, -HUGE)),
    "min_p": Values((0, 0.5), (-1, 2, "x", HUGE)),
    "repetition_penalty": Values((1, 1.5), (0, 101, "x", HUGE)),
    "min_tokens": Values((0, 1), (-1, CONTEXT, "x", 2**40, HUGE), {"max_tokens": 16}),
    "stop_token_ids": Values(([65], []), _UNKNOWN_TOKENS),
    "ignore_eos": _flag(),
    "structured_outputs": Values(
        ({"choice": ["yes", "no"]}, {"regex": "a+"}, {"json": {"type": "string"}}),
        (5, {}, {"regex": "("}, {"regex": ""}, {"choice": "a"}, {"choice": []}, {"form": "a"}),
    ),
    "prompt_logprobs": Values((0, 2), (-1, 21, "x", HUGE)),
    "truncate_prompt_tokens": Values((1, 500, HUGE), (0, -1, "x", 1.5)),
    "include_stop_str_in_output": _flag(),
    "return_token_ids": _flag(),
    "bad_words": Values((["zz"], []), ([""], [LONG], [5], "zz", 5)),
    "allowed_token_ids": Values(([65, 66], []), _UNKNOWN_TOKENS),
    "cache_salt": Values(("mine", ""), (5, LONG)),
    "priority": Values((3, -3, 0), (101, -101, 2**40, HUGE, -HUGE, "x", 1.5)),
    "request_id": Values(("mine", "!~"), ("a b", "é", LONG, 5)),
}
HONOURED: dict[str, dict[str, Values]] = {
    CHAT: SAMPLING
    | {
        "messages": Values(
            (HELLO, [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]),
            (
                5,
                "hello",
                [],
                [5],
                [{"role": "user"}],
                [{"role": "judge", "content": "a"}],
                [{"role": "user", "content": 5}],
                [{"role": "user", "content": "a" * CONTEXT}],
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}],
            ),
        ),
        "max_tokens": _MAX_TOKENS,
        "max_completion_tokens": _MAX_TOKENS,
        "logprobs": _flag(),
        "top_logprobs": _TOP_LOGPROBS,
        "tools": Values(
            ([WEATHER], []),
            (
                5,
                [{}],
                [{"type": "function", "function": {"name": "a b"}}],
                [WEATHER, WEATHER],
                [{"type": "search"}],
            ),
        ),
        "tool_choice": Values(
            ("none", "auto"),
            ("maybe", 5, {"type": "function", "function": {"name": "time"}}),
            {"tools": [WEATHER]},
        ),
        "parallel_tool_calls": _flag(),
        "reasoning_effort": Values(("low",), (5,)),
        "add_generation_prompt": _flag(),
        "continue_final_message": _flag(),
        "chat_template_kwargs": Values(({"enable_thinking": False}, {}), (5, "x", [1])),
        "documents": Values(([{"text": "a"}], []), (5, [5], {"text": "a"})),
    },
    TEXT: SAMPLING
    | {
        "prompt": Values(
            ("hello", ["a", "b"], [104, 105], [[104], [105]]),
            (5, "", [], ["a", 1], [300], [-1], [2**40], [[2**40]], ["a"] * 65, "a" * CONTEXT),
        ),
        "max_tokens": _MAX_TOKENS,
        "logprobs": Values((0, 2), (-1, 21, "x", True, 2**40, HUGE)),
        "echo": _flag(),
        "best_of": Values((1,), (2, 0, "x", HUGE)),
        "add_special_tokens": _flag(),
    },
    RESPONSE: {
        "model": _MODEL,
        "input": Values(
            ("hello", HELLO, [{"type": "message", "role": "user", "content": "hello"}]),
            (5, "", [], [5], [{"type": "image"}], [{"content": "a"}], "a" * CONTEXT),
        ),
        "instructions": Values(("be kind", ""), (5, ["a"])),
        "max_output_tokens": _MAX_TOKENS,
        "temperature": _TEMPERATURE,
        "top_p": _TOP_P,
        "top_logprobs": Values((0, 2), (-1, 21, "x", True, 2**40, HUGE)),
        "tools": Values(([TOOL], []), (5, [{}], [{**TOOL, "name": "a b"}], [TOOL, TOOL])),
        "tool_choice": Values(
            ("none", "auto"), ("maybe", 5, {"type": "function", "name": "time"}), {"tools": [TOOL]}
        ),
        "parallel_tool_calls": _flag(),
        "text": Values(
            ({"format": {"type": "text"}}, {"format": {"type": "json_object"}}, {}),
            (5, {"format": 5}, {"format": {"type": "yaml"}}, {"format": {"type": "json_schema"}}),
        ),
        "reasoning": Values(({"effort": "low"}, {}), (5, {"effort": 5})),
        "include": Values(
            ([], ["message.output_text.logprobs"], ["reasoning.encrypted_content"]),
            (5, ["everything"], [5]),
        ),
        "stream": _flag(),
    },
}
