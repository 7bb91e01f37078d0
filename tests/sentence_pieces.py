"""A small tokenizer of SentencePiece's kind: merges that follow the order of tokens, bytes for what it has not seen."""

from __future__ import annotations

from typing import Any, Literal

from oleaster.models.tiny import BOS, CHATML, END_OF_TEXT, EOS, PAD, SPECIAL_TOKENS

SPACE = "\u2581"
LETTERS = [SPACE, *map(chr, range(33, 127))]
LEARNED = ("th", "the", "er", "in", SPACE + "t", SPACE + "th", SPACE + "the", "ing", SPACE * 2, "is", SPACE + "a")
SIZE = len(SPECIAL_TOKENS) + 256 + len(LEARNED) + len(LETTERS)


def pieces(spaces: Literal["prepend", "always", "never", "first"]) -> Any:
    """A PreTrainedTokenizerFast of `SIZE` tokens.

    Args:
        spaces: where a space is put in front: of each text (`prepend`; `always`, but where there is one), `never`, or
            of the `first` word only.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    found = [*SPECIAL_TOKENS, *(f"<0x{i:02X}>" for i in range(256)), *LEARNED, *LETTERS]
    vocab = {token: index for index, token in enumerate(found)}
    splits = [(token[:i], token[i:]) for token in LEARNED for i in range(1, len(token))]
    merges = [split for split in splits if split[0] in vocab and split[1] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", SPACE)
    if spaces in ("prepend", "never"):
        steps = [normalizers.Prepend(SPACE), replace]
        tokenizer.normalizer = normalizers.Sequence(steps) if spaces == "prepend" else replace  # pyright: ignore
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=spaces, split=False)  # pyright: ignore
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=END_OF_TEXT
    )
    fast.chat_template = CHATML
    return fast
