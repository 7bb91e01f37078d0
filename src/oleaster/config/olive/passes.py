"""`passes` of Olive -> our steps, in the same order and under the same names."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from oleaster.config.olive.block import Block, Found, Given, Words
from oleaster.config.olive.rows import Rows, hold_to, learn_from
from oleaster.config.olive.search import Searched, enter_space
from oleaster.config.olive.training import METHODS, read_method
from oleaster.core.errors import near_names

EXPORTS = ("modelbuilder", "onnxconversion", "optimumconversion", "mobiusbuilder")
QUANTISERS = {
    "onnxquantization": "int8",
    "onnxdynamicquantization": "int8",
    "onnxstaticquantization": "int8",
    "onnxkquantquantization": "int4",
    "onnxblockwisertnquantization": "int4",
    "onnxhqqquantization": "int4",
    "onnxbnb4quantization": "int4",
    "matmulnbitstoqdq": "int4",
}
"""Quantise what has been exported -> the precision they stand for."""
TORCH_QUANTISERS = ("gptq", "gptqquantizer", "gptqmodel", "autoawqquantizer", "rtn", "kquant")
"""Quantise before the export, which here is one with it."""
MERGES = ("mergeadapterweights",)
SPLITS = ("extractadapters",)
TYPES = (*METHODS, *EXPORTS, *QUANTISERS, *TORCH_QUANTISERS, *MERGES, *SPLITS)
NAMES = (
    "LoRA",
    "QLoRA",
    "DoRA",
    "LoftQ",
    "MergeAdapterWeights",
    "ModelBuilder",
    "OnnxConversion",
    "OnnxQuantization",
    "OnnxDynamicQuantization",
    "OnnxStaticQuantization",
    "OnnxKQuantQuantization",
    "OnnxBlockWiseRtnQuantization",
    "Gptq",
    "ExtractAdapters",
)
"""Spelt as Olive does, for messages."""

_OUR_WAY = "leave it out: the exporter chooses it, and proves that the model answers the same"
_PRECISIONS = {"fp32": "fp32", "float32": "fp32", "int8": "int8", "uint8": "int8", "int4": "int4", "uint4": "int4"}
_BITS = {"4": "int4", "8": "int8"}
_ANY: Words = {
    "target_opset": Given(tuple(map(str, range(13, 25))), _OUR_WAY),
    "use_dynamo_exporter": Given(("true", "false"), _OUR_WAY),
    "device": Given(("cpu",), _OUR_WAY),
    "torch_dtype": Given(("float32",), _OUR_WAY),
    "merge_adapter_weights": Given(("true",), "a pass ExtractAdapters keeps adapters apart"),
    "save_as_external_data": Given(("true", "false"), _OUR_WAY),
    "all_tensors_to_one_file": Given(("true", "false"), _OUR_WAY),
    "metadata_only": Given(("false",), _OUR_WAY),
    "weight_only_quant_configs": Given((), _OUR_WAY),
    "group_size": Given(("32",), _OUR_WAY),
    "block_size": Given(("32",), _OUR_WAY),
    "int4_block_size": Given(("32",), _OUR_WAY),
    "int4_accuracy_level": Given(("0", "1", "2", "3", "4"), _OUR_WAY),
    "quant_mode": Given(("static", "dynamic"), _OUR_WAY),
    "adapter_type": Given(("lora",), "LoRA is what can be switched"),
    "make_inputs": Given(("true",), _OUR_WAY),
    "save_format": Given(("onnx_adapter",), _OUR_WAY),
}
_COMMON = ("host", "evaluator", "output_name", "disable_search")


class Steps:
    """The steps made so far."""

    def __init__(self, top: Block, rows: Mapping[str, Rows]) -> None:
        self.top, self.rows = top, rows
        self.steps: list[dict[str, dict[str, str]]] = []
        self.trained: Found | None = None
        self.waiting: tuple[Found, str] | None = None
        """A quantiser that an export has still to follow."""
        self.evaluators: list[Found] = []
        self.searched = Searched()

    def read(self, found: Found) -> None:
        """All passes of the config."""
        entries = Block(self.top.recipe, self.top.path, "passes", found.node)
        for name in entries.left():
            if entry := entries.take(name):
                self._read(name, Block(self.top.recipe, self.top.path, f"passes.{name}", _only(entry.node)))
        if self.waiting is not None:
            where, precision = self.waiting
            remedy = f"add a pass of type ModelBuilder behind it with precision: {precision}"
            self.top.problem(where.where, "quantised weights are made by an export", remedy)
        enter_space(self.searched, self.top)
        if self.steps:
            self.top.enter("passes", found, self.written())

    def written(self) -> list[str | dict[str, dict[str, str]]]:
        """The steps in the form of a recipe."""
        return [_short(step) for step in self.steps]

    def _read(self, name: str, block: Block) -> None:
        kind = block.take("type")
        if kind is None:
            self.top.problem(block.where, f"the pass '{name}' has no type", f"type: one of {', '.join(NAMES)}")
            return
        block.flat("config")
        self.top.recipe.where[f"passes.{name}"] = kind.where
        for word in _COMMON:
            self._common(word, block)
        type_ = kind.text.lower()
        if type_ in METHODS:
            self._train(name, type_, block, kind)
        elif type_ in EXPORTS:
            self._export(name, block, kind)
        elif type_ in QUANTISERS:
            self._quantise(name, QUANTISERS[type_], block)
        elif type_ in TORCH_QUANTISERS:
            self.waiting = (kind, self._precision(block) or "int4")
            self._close(block)
        elif type_ in MERGES:
            self._add(name, "merge", {})
            self._close(block)
        elif type_ in SPLITS:
            self._split(name, block, kind)
        else:
            advice = near_names(kind.text, NAMES)
            if not advice.startswith("did you mean"):
                advice = f"{advice}; a pass of your own is a function in a file that plugins: names (docs/recipes.md)"
            self.top.problem(kind.where, f"there is no pass of type '{kind.text}' here", advice)

    def _common(self, word: str, block: Block) -> None:
        found = block.take(word)
        if found is None:
            return
        if word == "evaluator":
            self.evaluators.append(found)
        elif word == "disable_search" and found.text.lower() in ("true", "false"):
            return
        else:
            block.problem(found.where, f"'{word}' has no counterpart here", "leave it out")

    def _train(self, name: str, type_: str, block: Block, kind: Found) -> None:
        if self.trained is not None:
            remedy = "one training in a config; a recipe of ours may have several (docs/recipes.md)"
            self.top.problem(kind.where, f"a second training, the first is {self.trained.where}", remedy)
        self.trained = kind
        training = self._named(block, "train_data_config")
        if training is None and len(self.rows) == 1:
            training = next(iter(self.rows.values()))
        if training is not None:
            learn_from(training)
        if (held := self._named(block, "eval_data_config")) is not None:
            hold_to(held, training)
        read_method(type_, block, kind, self.searched)
        self._add(name, "finetune", {})

    def _export(self, name: str, block: Block, kind: Found) -> None:
        precision = self._precision(block)
        if self.waiting is not None:
            where, wanted = self.waiting
            if precision not in (None, wanted):
                found = f"{kind.text} writes {precision}, but the weights were quantised to {wanted}"
                self.top.problem(kind.where, found, f"precision: {wanted} ({where.where})")
            precision, self.waiting = wanted, None
        self._add(name, "onnx", {"precision": precision or "fp32"})
        self._close(block)

    def _quantise(self, name: str, precision: str, block: Block) -> None:
        self._add(name, "quantize", {"precision": self._precision(block) or precision})
        self._close(block)

    def _split(self, name: str, block: Block, kind: Found) -> None:
        last = next(iter(self.steps[-1].values())) if self.steps else {}
        if last.get("type") not in ("onnx", "quantize"):
            self.top.problem(kind.where, "ExtractAdapters follows an export", "put a ModelBuilder pass in front of it")
            return
        self.steps.pop()  # base and adapters are exported apart in one step
        settings = {"precision": last["precision"]} if "precision" in last else {}
        self._add(name, "generate-adapter", settings)
        self._close(block)

    def _precision(self, block: Block) -> str | None:
        precision, bits = block.take("precision", "weight_type"), block.take("bits")
        found = precision or bits
        if found is None:
            return None
        known = _PRECISIONS.get(found.text.lower()) if precision else _BITS.get(found.text)
        if known is None:
            block.problem(found.where, f"'{found.text}' is no precision that is exported", "fp32, int8 or int4")
        return known

    def _named(self, block: Block, word: str) -> Rows | None:
        found = block.take(word)
        if found is None:
            return None
        if isinstance(found.node, yaml.MappingNode):
            block.problem(found.where, f"{word} is a whole config", "put it under data_configs and write its name here")
        elif found.text not in self.rows:
            block.problem(found.where, f"there is no data config '{found.text}'", near_names(found.text, self.rows))
        return self.rows.get(found.text)

    def _close(self, block: Block) -> None:
        """Calibration rows are the training rows; all else has to be what is done here anyway."""
        for word in ("data_config", "calibration_data_config"):
            if (rows := self._named(block, word)) is not None and not rows.used:
                remedy = "exports are calibrated on the training rows; name those, or leave it out"
                block.problem(block.where, f"'{rows.name}' are not the rows that are trained on", remedy)
                rows.used = True
        block.words(_ANY)
        block.close(("precision", "data_config", *_ANY), dict.fromkeys(block.left(), _OUR_WAY))

    def _add(self, name: str, type_: str, settings: dict[str, str]) -> None:
        self.steps.append({name: {"type": type_, **settings}})


def _only(node: yaml.Node) -> yaml.Node:
    """Olive allows a list of passes under a name, to choose from in a search; one alone is that pass."""
    alone = isinstance(node, yaml.SequenceNode) and len(node.value) == 1
    return node.value[0] if alone else node


def _short(step: dict[str, dict[str, str]]) -> str | dict[str, dict[str, str]]:
    (name, settings), *_ = step.items()
    return name if settings == {"type": name} else step
