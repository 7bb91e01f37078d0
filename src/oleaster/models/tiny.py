"""Random models of a few thousand weights, in the hub's layout: what tests run on, without any download.

Each family keeps what makes it hard: grouped-query attention everywhere, a sliding window shorter than a test's rows
(mistral, gemma2, gemma3), fused projections (phi3), biases (qwen2, gpt2), query and key norms (qwen3, gemma3), soft
capping (gemma2), two rotary bases (gemma3), Conv1D and learned positions (gpt2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAD, BOS, EOS, END_OF_TEXT = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, END_OF_TEXT)
"""Ids 0 to 3; the 256 bytes follow."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

WINDOW = 8
"""Tokens of the sliding window."""

SHAPE: dict[str, Any] = {
    "vocab_size": 256 + len(SPECIAL_TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,  # wide enough that attention and activations leave their linear range
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ROTARY_GEMMA3 = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW, "tie_word_embeddings": False},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "phi3": {"tie_word_embeddings": False, "sliding_window": None},
    "gemma": {},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "head_dim": 32},
    "gemma3_text": {
        "num_hidden_layers": 3,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": ROTARY_GEMMA3,
    },
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
"""What a family changes in `SHAPE`; keys are transformers' `model_type`."""


def make_tiny(family: str, folder: Path | str, *, seed: int = 0, **config_overrides: Any) -> Path:
    """Write a random model of `family` with a byte-level tokenizer and a ChatML template into `folder`.

    Args:
        family: a key of `FAMILIES`.
        folder: made when missing; files in it are overwritten.
        seed: of the weights; the caller's random state is left as it was.
        **config_overrides: fields of the family's transformers config.

    Returns:
        `folder` as a Path; plain transformers loads model and tokenizer from it.

    Raises:
        KeyError: an unknown family.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(folder)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family], **config_overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # norms start as ones and biases as zeros: a mistake in them would stay unseen
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer() -> Any:
    """A tokenizer with one token per UTF-8 byte, four special tokens and ChatML (a PreTrainedTokenizerFast)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=SHAPE["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast
