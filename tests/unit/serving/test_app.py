"""The web application over something that answers with what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from oleaster.core.errors import DataError
from oleaster.inference.predictor import Completion, Sampling
from oleaster.serving import Served, build_app

USER = {"role": "user", "content": "a"}


class Echo:
    """Answers with the prompt's words, one token each, and remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Sampling]] = []
        self.at_once = 0
        self.most_at_once = 0

    def prompt_ids(self, prompt: Any) -> list[int]:
        if "forbidden" in str(prompt):
            raise DataError("is too long", where="prompt", remedy="shorten it")
        return list(range(len(str(prompt).split())))

    def answer(
        self, prompt: Any, sampling: Sampling | None = None, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        assert sampling is not None
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.prompt_ids(prompt)
        self.asked.append((prompt, sampling))
        words = (prompt if isinstance(prompt, str) else prompt[-1]["content"]).split()[: sampling.max_new_tokens]
        for word in words:
            if on_text:
                on_text(f"{word} ")
        self.at_once -= 1
        return Completion(tuple(range(len(words))), "".join(f"{word} " for word in words), "stop")


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def client(echo: Echo) -> TestClient:
    usual = Sampling(max_new_tokens=8)
    return TestClient(build_app({"first": Served(echo, usual), "second": Served(Echo(), usual)}))


def ask(client: TestClient, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    reply = client.post(f"/v1/{path}", json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def events(client: TestClient, path: str, **body: Any) -> list[Any]:
    text = client.post(f"/v1/{path}", json={**body, "stream": True}).text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_question_alone_is_put_as_in_training_and_a_conversation_whole(client: TestClient, echo: Echo) -> None:
    user = {"role": "user", "content": [{"type": "text", "text": "where is it"}]}
    found = ask(client, "chat/completions", messages=[user])
    assert found["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "where is it "},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert found["model"] == "first"
    ask(client, "chat/completions", messages=[{"role": "developer", "content": "be brief"}, user])
    assert [prompt for prompt, _ in echo.asked] == [
        "where is it",
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "where is it"}],
    ]


def test_what_a_request_says_of_the_choice_of_tokens_is_done(client: TestClient, echo: Echo) -> None:
    schema = {"type": "object"}
    ask(
        client,
        "chat/completions",
        messages=[{"role": "user", "content": "a b c"}],
        max_completion_tokens=2,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert echo.asked[0][1] == Sampling(2, 0.5, 0, 0.9, 7, json_schema=json.dumps(schema))


def test_several_texts_have_several_answers(client: TestClient) -> None:
    found = ask(client, "completions", prompt=["a b", "c"], max_tokens=1)
    assert [choice["text"] for choice in found["choices"]] == ["a ", "c "]
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_a_stream_has_the_pieces_the_end_and_the_count(client: TestClient) -> None:
    user = {"role": "user", "content": "a b"}
    found = events(client, "chat/completions", messages=[user], stream_options={"include_usage": True})
    deltas = [event["choices"][0]["delta"] for event in found[:-1]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "a "}, {"content": "b "}, {}]
    assert [event["choices"][0]["finish_reason"] for event in found[:-1]] == [None, None, None, "stop"]
    assert found[-1]["usage"]["total_tokens"] == 4
    assert len({event["id"] for event in found}) == 1
    texts = [event["choices"][0]["text"] for event in events(client, "completions", prompt="a b")]
    assert texts == ["a ", "b ", ""]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("completions", {"prompt": "a", "stop": ["x"]}, 400, "stop: this server does not carry it out"),
        ("completions", {"prompt": "a", "n": 2}, 400, "n: "),
        ("completions", {"prompt": "a", "temperature": -1}, 400, "temperature: "),
        ("completions", {"prompt": "a", "model": "secnd"}, 404, "did you mean 'second'?"),
        ("completions", {"prompt": "forbidden", "stream": True}, 400, "is too long"),
        ("completions", {"prompt": "a", "seed": -1}, 400, "seed: "),
        (
            "chat/completions",
            {"messages": [USER], "response_format": {"type": "json_schema"}},
            400,
            "json_schema: Field",
        ),
        (
            "chat/completions",
            {"messages": [USER], "response_format": {"type": "json_object"}},
            400,
            "response_format: ",
        ),
        ("chat/completions", {"messages": [{**USER, "name": "x"}]}, 400, "name: this server does not carry it out"),
        ("chat/completions", {"messages": []}, 400, "messages: "),
        ("chat/completions", {}, 400, "messages: Field required"),
        ("embeddings", {"input": "a"}, 404, "POST /v1/embeddings: Not Found"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: TestClient, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    error = ask(client, path, status, **body)["error"]
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    reply = client.post("/v1/completions", content="{bad", headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "the body is no JSON")


def test_answers_are_made_one_after_the_other(client: TestClient, echo: Echo) -> None:
    asking = [threading.Thread(target=ask, args=(client, "completions"), kwargs={"prompt": "a b c"}) for _ in range(8)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert len(echo.asked) == 8
    assert echo.most_at_once == 1


def test_all_that_is_served_is_listed(client: TestClient) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["first", "second"]
    assert client.get("/health").json() == {"status": "ok"}
