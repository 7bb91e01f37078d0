"""What a client may ask: the fields of OpenAI's API that we carry out, and those that change nothing.

Field names and meanings: https://platform.openai.com/docs/api-reference. A field that is not here, or a value that
would be ignored, is an error with its name: an answer is never quietly another than the one asked for.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from oleaster.inference.predictor import Sampling


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Part(_Strict):
    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One turn; its content is text, whole or in parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    def plain(self) -> dict[str, str]:
        """As a chat template reads it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class _JsonSchema(_Strict):
    name: str = ""
    description: str = ""
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(_Strict):
    """Any answer."""

    type: Literal["text"]


class SchemaFormat(_Strict):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: _JsonSchema


class _StreamOptions(_Strict):
    include_usage: bool = False


class _Request(_Strict):
    model: str | None = None
    """A name of /v1/models; default: the one that is served."""
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    def sampling(self, usual: Sampling) -> Sampling:
        """`usual` with what the request says otherwise."""
        named = {
            "max_new_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
        }
        return replace(usual, **{name: value for name, value in named.items() if value is not None})

    @property
    def tells_usage(self) -> bool:
        """Does a stream end with the count of tokens?"""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Request):
    """POST /v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(gt=0)] | None = None
    response_format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None
    logprobs: Literal[False] | None = None

    def sampling(self, usual: Sampling) -> Sampling:
        """Also with the limit under its newer name, and the schema that the answer must fit."""
        found = super().sampling(usual)
        if self.max_completion_tokens is not None:
            found = replace(found, max_new_tokens=self.max_completion_tokens)
        if isinstance(self.response_format, SchemaFormat):
            found = replace(found, json_schema=json.dumps(self.response_format.json_schema.schema_))
        return found


class TextRequest(_Request):
    """POST /v1/completions"""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    echo: Literal[False] | None = None
    logprobs: None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt
