"""Tools and tool calls as plain text, for models whose chat template has no place for them.

The text is that of Hermes and Qwen 2.5, which most small models have met: tools as JSON in the system message, calls in
`<tool_call>`, results as a user message in `<tool_response>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from oleaster.data.papers import Message

_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def write_out_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """`messages` with tools, calls and results written into the contents; only plain roles and contents are left."""
    spoken: list[Message] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        calls = [f"<tool_call>\n{_json(call['function'])}\n</tool_call>" for call in message.get("tool_calls", ())]
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        content = "\n".join([content, *calls] if content else calls or [content])
        if message["role"] == "tool" and spoken and spoken[-1]["content"].endswith("</tool_response>"):
            # several results are one user message: many templates insist on user and assistant in turn
            spoken[-1] = {"role": "user", "content": f"{spoken[-1]['content']}\n{content}"}
        else:
            spoken.append({"role": role, "content": content})
    if not tools:
        return spoken
    text = _TOOLS.format(tools="\n".join(map(_json, tools)))
    if spoken and spoken[0]["role"] in ("system", "developer"):
        return [{**spoken[0], "content": f"{spoken[0]['content']}\n\n{text}"}, *spoken[1:]]
    return [{"role": "system", "content": text}, *spoken]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
