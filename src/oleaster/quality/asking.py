"""Further wordings from the base model itself, and the doubts that each has to pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.data.encode import encode_prompt
from oleaster.inference.predictor import Predictor, Sampling
from oleaster.quality.language import language_of
from oleaster.quality.nearness import likeness, normalised, pieces

PARAPHRASE = (
    "Say the same in other words. Keep the meaning, the language, every number and every name. "
    "Answer with one line, the new wording alone.\n\n{text}"
)
SHOTS = 5
"""Rows of a label that the model sees before it writes one more."""
LONGER, SHORTER = 2.5, 0.4
"""Bounds of the length, as shares of that of the row it stands for."""


@dataclass(frozen=True)
class Writer:
    """The base model as a writer of rows."""

    predictor: Predictor
    tokenizer: Any
    seed: int

    def paraphrase(self, texts: Sequence[str]) -> list[str]:
        """Another wording of each text."""
        return self._write(
            [encode_prompt(PARAPHRASE.format(text=text), self.tokenizer, _ASKED) for text in texts], texts
        )

    def continue_lists(self, lists: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        """One more text for each (label, texts of that label): plain text that goes on, which small models do best."""
        prompts = [
            encode_prompt(
                f"Messages about '{label}':\n" + "".join(f"- {text}\n" for text in texts) + "-", self.tokenizer, _TEXT
            )
            for label, texts in lists
        ]
        return self._write(prompts, [max(texts, key=len) for _, texts in lists])

    def _write(self, prompts: list[list[int]], like: Sequence[str]) -> list[str]:
        longest = max((len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in like), default=0)
        sampling = Sampling(max_new_tokens=2 * longest + 8, temperature=0.8, top_p=0.95, seed=self.seed)
        return [_first_line(done.text) for done in self.predictor.generate(prompts, sampling)] if prompts else []


_ASKED = DataConfig(data_format="completion", prompt_field="prompt", completion_field="completion")
_TEXT = DataConfig(data_format="text")


class Judge:
    """Does a new text still belong to its label? The nearest mean of the rows' own TF-IDF vectors decides."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.preprocessing import normalize

        self._names = sorted(set(labels))
        self._vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        rows: Any = self._vectors.fit_transform(texts)
        at = np.array(labels)
        means = [np.asarray(rows[at == name].mean(axis=0)).ravel() for name in self._names]
        self._means: Any = normalize(np.stack(means))

    def labels_of(self, texts: Sequence[str]) -> list[str]:
        """The label that each text is nearest to."""
        if not texts:
            return []
        nearness: Any = self._vectors.transform(texts) @ self._means.T
        return [self._names[i] for i in nearness.argmax(axis=1)]


def why_not(new: str, old: str, same_content: bool) -> str | None:
    """Why a new text cannot stand for the old one; None when it can.

    Args:
        same_content: it must say the same (a paraphrase), not only belong to the same label.
    """
    if not new:
        return "empty"
    if normalised(new) == normalised(old) or likeness(pieces(normalised(new)), pieces(normalised(old))) > 0.95:
        return "the same as before"
    if not SHORTER * len(old) <= len(new) <= LONGER * len(old) + 20:
        return "of another length"
    if same_content and sorted(re.findall(r"\d+", new)) != sorted(re.findall(r"\d+", old)):
        return "other numbers"
    before, now = language_of(old), language_of(new)
    if before and now and before[0] != now[0]:
        return "another language"
    return None


def _first_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    return line.strip().removeprefix("- ").strip().strip('"“”').strip()
