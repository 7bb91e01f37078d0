"""lm-evaluation-harness asks a `Predictor`: one model class for torch, ONNX Runtime and whatever else answers.

The only file that imports `lm_eval` (extra `bench`). Rows become tokens as its own Hugging Face model makes them, so
that the figures are those that others publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from oleaster.inference.predictor import Predictor, Sampling

ANSWER_TOKENS = 256
"""Longest answer where a task does not say it; the harness's own default."""


class HarnessModel(TemplateLM):
    """What the harness asks.

    Args:
        tokenizer: the model's own (transformers.PreTrainedTokenizerBase).
        context: most tokens of prompt and answer together; longer prompts lose their beginning.
    """

    def __init__(self, predictor: Predictor, tokenizer: Any, context: int) -> None:
        super().__init__()
        self.predictor, self.tokenizer, self.context = predictor, tokenizer, context

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids as the tokenizer gives them; a text that has its first token already gets no second one."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode([self.prefix_token_id])):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **special)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model's template writes it."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """ln p of whole texts, in windows that meet without overlap where a text is longer than the context."""
        windows: list[tuple[int, list[int], list[int]]] = []
        for place, request in enumerate(requests):
            cut = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.context,
                context_len=1,
            )
            windows += [(place, *utils.make_disjoint_window(window)) for window in cut]
        totals = [0.0] * len(requests)
        found = self._loglikelihood_tokens([(("", ""), before, text) for _, before, text in windows])
        for (place, _, _), (total, _) in zip(windows, found, strict=True):
            totals[place] += total
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut where a stop text begins. Requests that ask alike are asked together."""
        answers: dict[int, str] = {}
        ending = self.tokenizer.decode([self.eot_token_id])
        order = sorted(range(len(requests)), key=lambda i: repr(requests[i].args[1]))
        for _, same in groupby(order, key=lambda i: repr(requests[i].args[1])):
            places = list(same)
            wanted: Any = dict(normalize_gen_kwargs(requests[places[0]].args[1], ANSWER_TOKENS))
            stop = handle_stop_sequences(list(wanted["until"]), eos=ending)
            room = self.context - wanted["max_gen_toks"]
            prompts = [self.tok_encode(requests[i].args[0])[-room:] for i in places]
            found = self.predictor.generate(prompts, _sampling(wanted))
            answers |= {
                i: postprocess_generated_text(answer.text, stop, None) for i, answer in zip(places, found, strict=True)
            }
        return [answers[i] for i in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """(ln p of the second part after the first, was it the likeliest) of each request."""
        rows = []
        for _texts, before, text in requests:
            ids = (before + text)[-(self.context + 1) :]  # the last token is asked for, not read
            rows.append((ids, range(max(1, len(ids) - len(text)), len(ids))))
        return [(score.total, score.correct == score.count) for score in self.predictor.score(rows)]


def _sampling(wanted: dict[str, Any]) -> Sampling:
    return Sampling(
        max_new_tokens=wanted["max_gen_toks"],
        temperature=float(wanted.get("temperature") or 0.0) if wanted["do_sample"] else 0.0,
        top_k=int(wanted.get("top_k") or 0),
        top_p=float(wanted.get("top_p") or 1.0),
    )
