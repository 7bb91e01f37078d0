# ruff: noqa: E501 - lines are as long as they are printed
"""The tutorial, as printed: its sixteen blocks, the files it shows, the rows of what it asks for. For all tests.

Microsoft, Edge AI for Beginners (MIT), module 5, section 3: https://github.com/microsoft/edgeai-for-beginners. One thing
is changed, by `ours`: the program's name. Models and data sets of the hub lie as folders of the same name in the
folder where the blocks are run, so that not even their ids differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A printed block."""

    number: int
    title: str
    text: str
    differs: str = ""
    """What is not as printed, for the table."""

    @property
    def ours(self) -> str:
        """The text with this program's name in it."""
        return re.sub(r"\bolive(-ai)?\b(?!-)", "oleaster", self.text)


BLOCKS = {
    block.number: block
    for block in (
        Block(
            1,
            "installation",
            "pip install olive-ai[auto-opt]\npip install transformers onnxruntime-genai\n",
            "from a checkout: `pip install .[auto-opt]`; run as `pip install --dry-run`",
        ),
        Block(
            2,
            "optional dependencies",
            "pip install olive-ai[cpu]\npip install olive-ai[gpu]\npip install olive-ai[directml]\n"
            "pip install olive-ai[azureml]\n",
            "the extras are there and named in pip's words; nothing is downloaded in the test",
        ),
        Block(
            3,
            "verification",
            "olive --help\npython -c \"import olive; print('Olive installed successfully')\"\n",
        ),
        Block(
            4,
            "environment",
            "mkdir fine-tuning-project\ncd fine-tuning-project\nhuggingface-cli login\n",
            "today's hub client calls its optional login `hf auth login`; run as `hf auth login --help`",
        ),
        Block(
            5,
            "example 1: finetune",
            r"""olive finetune \
  --model_name_or_path meta-llama/Llama-3.2-1B-Instruct \
  --trust_remote_code \
  --output_path models/llama/ft \
  --data_name xxyyzzz/phrase_classification \
  --text_template "<|start_header_id|>user<|end_header_id|>\n{phrase}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n{tone}" \
  --method lora \
  --max_steps 100 \
  --log_level 1
""",
        ),
        Block(
            6,
            "example 1: auto-opt",
            """olive auto-opt \\
  --model_name_or_path models/llama/ft/model \\
  --adapter_path models/llama/ft/adapter \\
  --device cpu \\
  --provider CPUExecutionProvider \\
  --use_ort_genai \\
  --output_path models/llama/onnx \\
  --log_level 1
""",
        ),
        Block(
            7,
            "example 2: data, YAML, run --setup",
            "olive run --config olive-config.yaml --setup\n",
        ),
        Block(
            8,
            "example 3: QLoRA",
            r"""olive finetune \
  --method qlora \
  --model_name_or_path meta-llama/Meta-Llama-3-8B \
  --data_name nampdn-ai/tiny-codes \
  --train_split "train[:4096]" \
  --eval_split "train[4096:4224]" \
  --text_template "### Language: {programming_language} \n### Question: {prompt} \n### Answer: {response}" \
  --per_device_train_batch_size 16 \
  --per_device_eval_batch_size 16 \
  --max_steps 150 \
  --logging_steps 50 \
  --output_path adapters/tiny-codes
""",
        ),
        Block(
            9,
            "multi-adapter training",
            """olive finetune --method lora --task_name "classification" --output_path adapters/classifier
olive finetune --method lora --task_name "generation" --output_path adapters/generator

olive generate-adapter \\
  --base_model_path models/base \\
  --adapter_paths adapters/classifier,adapters/generator \\
  --output_path models/multi-adapter
""",
            "model and rows come from the folder's oleaster.yaml",
        ),
        Block(
            10,
            "hyperparameter search",
            "olive search --config hyperparameter-search.yaml\n",
            "the tutorial prints the YAML only; model and rows come from the folder's oleaster.yaml",
        ),
        Block(11, "custom loss", "", "the class as printed, named by --loss"),
        Block(
            12, "evaluation script", "", "run as printed; evaluate_model of this package fills in what it leaves open"
        ),
        Block(
            13,
            "monitoring",
            """olive finetune \\
  --logging_steps 10 \\
  --eval_steps 50 \\
  --save_steps 100 \\
  --logging_dir ./logs \\
  --report_to tensorboard
""",
            "model and rows come from the folder's oleaster.yaml",
        ),
        Block(
            14,
            "regularisation",
            "olive run --config regularization.yaml\n",
            "the tutorial prints the YAML only; model and rows come from the folder's oleaster.yaml",
        ),
        Block(
            15,
            "memory",
            """olive finetune \\
  --method qlora \\
  --gradient_checkpointing true \\
  --per_device_train_batch_size 1 \\
  --gradient_accumulation_steps 16
""",
            "model and rows come from the folder's oleaster.yaml",
        ),
        Block(
            16,
            "performance",
            "olive finetune --config performance.yaml\n",
            "the tutorial prints the YAML only; model and rows come from the folder's oleaster.yaml; without a GPU that computes in float16 the faster of bfloat16 and float32 is taken, and said",
        ),
    )
}

DATASET_JSON = """\
[
  {
    "input": "What is machine learning?",
    "output": "Machine learning is a subset of artificial intelligence that enables computers to learn and improve from experience without being explicitly programmed."
  },
  {
    "input": "Explain neural networks",
    "output": "Neural networks are computing systems inspired by biological neural networks that learn from data through interconnected nodes or neurons."
  }
]
"""

OLIVE_CONFIG = """\
# olive-config.yaml
model:
  type: PyTorchModel
  config:
    model_path: "microsoft/DialoGPT-medium"
    task: "text-generation"

data_configs:
  - name: "custom_dataset"
    type: "HuggingfaceContainer"
    load_dataset_config:
      data_files: "path/to/your/dataset.json"
      split: "train"
    pre_process_data_config:
      text_template: "User: {input}\\nAssistant: {output}"

passes:
  lora:
    type: LoRA
    config:
      r: 16
      lora_alpha: 32
      target_modules: ["c_attn", "c_proj"]
      modules_to_save: ["ln_f", "lm_head"]
"""

SEARCH = """\
# hyperparameter-search.yaml
search_strategy:
  type: "random"
  num_trials: 20

search_space:
  learning_rate:
    type: "float"
    low: 1e-6
    high: 1e-3
    log: true

  lora_r:
    type: "int"
    low: 8
    high: 64

  batch_size:
    type: "choice"
    values: [8, 16, 32]
"""

CUSTOM_LOSS = """\
# custom_loss.py
import torch
import torch.nn as nn

class CustomContrastiveLoss(nn.Module):
    def __init__(self, margin=1.0):
        super(CustomContrastiveLoss, self).__init__()
        self.margin = margin

    def forward(self, output1, output2, label):
        euclidean_distance = nn.functional.pairwise_distance(output1, output2)
        loss_contrastive = torch.mean((1-label) * torch.pow(euclidean_distance, 2) +
                                    (label) * torch.pow(torch.clamp(self.margin - euclidean_distance, min=0.0), 2))
        return loss_contrastive
"""

EVALUATION_SCRIPT = '''\
# evaluation_script.py
from transformers import AutoTokenizer, AutoModelForCausalLM
from datasets import load_dataset
import torch

def evaluate_model(model_path, test_dataset, metric_type="accuracy"):
    """
    Evaluate fine-tuned model performance
    """
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path)

    # Evaluation logic here
    results = {}

    for example in test_dataset:
        # Process example and calculate metrics
        pass

    return results
'''

REGULARIZATION = """\
# Regularization techniques
passes:
  lora:
    type: LoRA
    config:
      r: 16  # Reduce rank to prevent overfitting
      lora_alpha: 16  # Lower alpha value
      lora_dropout: 0.1  # Add dropout
      weight_decay: 0.01  # L2 regularization
"""

PERFORMANCE = """\
# Performance optimization
training_config:
  fp16: true  # Mixed precision
  dataloader_num_workers: 4
  optim: "adamw_torch"
  lr_scheduler_type: "cosine"
"""

ROWS = {
    "S1": "installation: extras, --help, import, what this machine can do",
    "S2": "finetune as printed: adapter, model, newlines in the template",
    "S3": "auto-opt as printed: loads in ONNX Runtime GenAI and answers the same",
    "S4": "JSON array of input and output",
    "S5": "the YAML in Olive's words, by run --setup",
    "S6": "QLoRA on a 4-bit base, split slices",
    "S7": "full fine-tuning",
    "S8": "LoRA, QLoRA, adapters; switching between adaptations",
    "S9": "kinds of task: classification, generation, extraction, summarisation",
    "S10": "hardware found; PyTorch, Hugging Face, ONNX; Llama, Phi, Qwen, Gemma",
    "S11": "automatic workflows, cloud, a pass of one's own",
    "S12": "data: quality, duplicates, templates, instruction formats",
    "S13": "10-20 % held out, stratified",
    "S14": "learning rate, schedule, loss curve, accumulation",
    "S15": "validation metrics, early stopping, checkpoints",
    "S16": "choosing a base: domain, size, licence",
    "S17": "choosing a method",
    "S18": "memory: checkpointing, mixed precision, fits hardware",
    "S19": "several adapters over one base",
    "S20": "hyperparameter search",
    "S21": "custom loss",
    "S22": "accuracy, perplexity, BLEU, ROUGE, F1",
    "S23": "benchmarks, human evaluation, business metrics",
    "S24": "evaluate_model()",
    "S25": "monitoring flags",
    "S26": "validation beside training, overfitting, early stopping",
    "S27": "CPU, memory, throughput watched",
    "S28": "regularisation takes effect",
    "S29": "memory and performance settings",
    "S30": "diagnosis of poor results",
}
"""Row -> what must work."""
