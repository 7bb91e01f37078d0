"""Summarisation and translation: free text that says what another text says."""

from __future__ import annotations

from collections.abc import Callable

from oleaster.config.schema import Config
from oleaster.data.prepare import Prepared
from oleaster.tasks.generation import refuse_pairs
from oleaster.tasks.task import Task, with_instruction

LANGUAGES = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "zh": "Chinese",
}
"""Column named after a language's code -> the language."""


def _settle(instruction: Callable[[Prepared], str]) -> Callable[[Config, Prepared], Config]:
    def settle(config: Config, prepared: Prepared) -> Config:
        refuse_pairs(config, prepared)
        return with_instruction(config, instruction(prepared))

    return settle


def _translate(prepared: Prepared) -> str:
    language = LANGUAGES.get((prepared.config.completion_field or "").lower())
    return f"Translate the text into {language}." if language else "Translate the text."


TASKS = (
    Task("summarization", _settle(lambda _: "Summarize the text."), {"text": ("rouge_1", "rouge_2", "rouge_l")}),
    Task("translation", _settle(_translate), {"text": ("bleu", "chrf")}),
)
