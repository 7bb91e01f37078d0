"""What is refused before anything is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oleaster import pipeline
from oleaster.config.schema import Config
from oleaster.core.errors import UserError
from oleaster.methods.adapter_files import write_adapter


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "use_dora": True}, "oleaster auto-opt"),
        ({"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}, "oleaster auto-opt"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "oleaster generate and evaluate answer with it"),
    ],
)
def test_what_cannot_stand_beside_a_base_is_refused_with_the_way_out(
    config: dict[str, object], remedy: str, tmp_path: Path
) -> None:
    adapter = tmp_path / "odd"
    write_adapter(adapter, {"task_type": "CAUSAL_LM", **config}, {"prompt_embeddings": torch.zeros(4, 8)})
    with pytest.raises(UserError) as caught:
        pipeline.generate_adapter([adapter, tmp_path / "nothing"], Config(), tmp_path / "out", base="anything")
    said = str(caught.value)
    assert "only a plain LoRA can stand beside a shared base" in said
    assert remedy in said
    assert "no adapter lies here" in said
    assert not (tmp_path / "out").exists()
