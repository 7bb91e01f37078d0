"""The web application: requests in, answers out, one at a time."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from oleaster.core.errors import OleasterError, near_names
from oleaster.inference.predictor import Completion, Sampling
from oleaster.serving.requests import ChatRequest, TextRequest

if TYPE_CHECKING:
    from fastapi import FastAPI

Prompt = str | Sequence[Mapping[str, str]]
Chunk = dict[str, Any]


class Answering(Protocol):
    """What the application needs of a model; `pipeline.Assistant` is one."""

    def answer(
        self, prompt: Any, sampling: Sampling | None = None, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """The answer to a text or a conversation. Raises: OleasterError when it cannot be asked that."""
        ...

    def prompt_ids(self, prompt: Any) -> list[int]:
        """The tokens that `answer` reads."""
        ...


class _GoneError(Exception):
    """The client has hung up."""


class _RefusedError(Exception):
    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


@dataclass(frozen=True)
class Served:
    """Something that answers, and how its tokens are chosen where a request does not say."""

    model: Answering
    usual: Sampling


def build_app(models: Mapping[str, Served]) -> FastAPI:
    """An application that answers under the names of `models`; the first one is asked when a request names none.

    Answers are made one after the other, each with all threads: two at once would share the same cores and caches. A
    client that hangs up stops its stream.
    """
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, StreamingResponse
    from starlette.exceptions import HTTPException

    app, desk = FastAPI(title="Oleaster", docs_url=None, redoc_url=None), _Desk(models)

    @app.exception_handler(_RefusedError)
    async def refused(_: Request, error: _RefusedError) -> JSONResponse:
        return JSONResponse(_error(str(error), error.param), error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(_error(*_invalid(error.errors()[0])), 400)

    @app.exception_handler(HTTPException)
    async def elsewhere(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(_error(f"{request.method} {request.url.path}: {error.detail}"), error.status_code)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "oleaster"} for name in models]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest) -> dict[str, Any] | StreamingResponse:
        task = desk.chat(request)
        if request.stream:
            await asyncio.to_thread(task.check)  # what is wrong is said with a status, before the stream begins
            return StreamingResponse(task.stream(request.tells_usage), media_type="text/event-stream")
        return await task.whole()

    @app.post("/v1/completions", response_model=None)
    async def complete(request: TextRequest) -> dict[str, Any] | StreamingResponse:
        task = desk.text(request)
        if request.stream:
            await asyncio.to_thread(task.check)
            return StreamingResponse(task.stream(request.tells_usage), media_type="text/event-stream")
        return await task.whole()

    return app


class _Desk:
    """Makes requests into tasks that take turns."""

    def __init__(self, models: Mapping[str, Served]) -> None:
        self._models, self._turn = models, Lock()

    def chat(self, request: ChatRequest) -> _Task:
        messages = [message.plain() for message in request.messages]
        alone = len(messages) == 1 and messages[0]["role"] == "user"
        prompt: Prompt = messages[0]["content"] if alone else messages  # a lone question is put as in training
        return self._task(request, [prompt], chat=True)

    def text(self, request: TextRequest) -> _Task:
        return self._task(request, request.prompts, chat=False)

    def _task(self, request: ChatRequest | TextRequest, prompts: Sequence[Prompt], chat: bool) -> _Task:
        name = request.model or next(iter(self._models))
        if name not in self._models:
            raise _RefusedError(f"there is no model '{name}'; {near_names(name, self._models)}", 404, "model")
        served = self._models[name]
        return _Task(served.model, name, prompts, request.sampling(served.usual), self._turn, chat)


class _Task:
    """One request: its prompts, and the form of its answer."""

    def __init__(
        self, model: Answering, name: str, prompts: Sequence[Prompt], sampling: Sampling, turn: Lock, chat: bool
    ) -> None:
        self._model, self._name, self._prompts, self._sampling = model, name, prompts, sampling
        self._turn, self._chat = turn, chat
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def check(self) -> int:
        """Tokens of all prompts. Raises: _RefusedError when the model cannot be asked that."""
        try:
            return sum(len(self._model.prompt_ids(prompt)) for prompt in self._prompts)
        except OleasterError as error:
            raise _RefusedError(str(error)) from error

    async def whole(self) -> dict[str, Any]:
        """The answers at once."""
        return await asyncio.to_thread(self._whole)

    def _whole(self) -> dict[str, Any]:
        asked, found = self.check(), [self._answer(prompt) for prompt in self._prompts]
        choices = [self._choice(i, one.text, one.finish) for i, one in enumerate(found)]
        usage = _usage(asked, sum(len(one.token_ids) for one in found))
        return {**self._heading(""), "choices": choices, "usage": usage}

    async def stream(self, tells_usage: bool) -> AsyncIterator[str]:
        """Server-sent events: pieces of text as they come, then how the answer ended, then `[DONE]`."""
        loop, waiting = asyncio.get_running_loop(), asyncio.Queue[Chunk | None]()
        hung_up: list[bool] = []

        def send(chunk: Chunk | None) -> None:
            if hung_up:
                raise _GoneError
            loop.call_soon_threadsafe(waiting.put_nowait, chunk)

        worker = asyncio.create_task(asyncio.to_thread(self._say, send, tells_usage))
        try:
            while (chunk := await waiting.get()) is not None:
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            hung_up.append(True)
            await worker

    def _say(self, send: Callable[[Chunk | None], None], tells_usage: bool) -> None:
        made, heading = 0, self._heading(".chunk" if self._chat else "")
        try:
            for number, prompt in enumerate(self._prompts):
                if self._chat:
                    send({**heading, "choices": [_piece(number, {"role": "assistant", "content": ""})]})
                completion = self._answer(prompt, lambda text, n=number: send(self._part(heading, n, text)))
                made += len(completion.token_ids)
                send(self._part(heading, number, "", completion.finish))
            if tells_usage:
                send({**heading, "choices": [], "usage": _usage(self.check(), made)})
            send(None)
        except _GoneError:
            return
        except Exception as error:  # the status has been sent: the stream itself must say it
            known = isinstance(error, _RefusedError)
            with suppress(_GoneError):
                send(_error(str(error) if known else f"internal error: {error!r}"))
                send(None)
            if not known:
                raise

    def _answer(self, prompt: Prompt, on_text: Callable[[str], None] | None = None) -> Completion:
        with self._turn:
            try:
                return self._model.answer(prompt, self._sampling, on_text)
            except OleasterError as error:
                raise _RefusedError(str(error)) from error

    def _heading(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self._chat else "text_completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self._name}

    def _choice(self, number: int, text: str, finish: str) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {"index": number, **said, "logprobs": None, "finish_reason": finish}

    def _part(self, heading: dict[str, Any], number: int, text: str, finish: str | None = None) -> Chunk:
        if self._chat:
            return {**heading, "choices": [_piece(number, {"content": text} if text else {}, finish)]}
        return {**heading, "choices": [{"index": number, "text": text, "logprobs": None, "finish_reason": finish}]}


def _piece(number: int, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish}


def _usage(asked: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


def _invalid(error: Mapping[str, Any]) -> tuple[str, str | None]:
    """(what is wrong, the field) of what pydantic says."""
    if error["type"] == "json_invalid":
        return "the body is no JSON", None
    if error["type"].endswith("attributes_type"):
        return "the body must be a JSON object, sent with the header content-type: application/json", None
    place = ".".join(str(part) for part in error["loc"] if part != "body")
    found = "this server does not carry it out" if error["type"] == "extra_forbidden" else error["msg"]
    return f"{place}: {found}", place


def _error(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}
