"""`data_configs` of Olive -> the section `data`."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from oleaster.config.olive.block import Block, Found, Given, Same, Words
from oleaster.config.olive.model import read_task
from oleaster.core.errors import near_names

CONTAINERS = ("huggingfacecontainer", "datacontainer")

_NO_CODE = "code in data configs is not run: write the rows to a file in the shape they shall have"
_PACKED = "leave it out: rows are packed without padding, each seeing only itself"

_PREPARING: Words = {
    "text_template": Same("text_template"),
    "max_seq_len": Same("max_length"),
    "source_max_len": Same("max_length"),
    "max_samples": Same("max_samples"),
    "type": Given(("text_generation_huggingface_pre_process", "huggingface_pre_process"), "leave it out"),
    "strategy": Given(("line-by-line", "line-by-line-random"), _PACKED),
    "pad_to_max_len": Given(("false",), _PACKED),
    "padding_side": Given(("right", "left"), _PACKED),
    "use_attention_mask": Given(("true",), _PACKED),
    "drop_short_sequences": Given(("false",), "leave it out: short rows are learned like all others"),
    "add_special_tokens": Given(("true",), "leave it out: every answer ends with the model's stop token"),
    "processing_batch_size": Given(("1", "1024"), "leave it out"),
}
_LOADING: Words = {
    "type": Given(("huggingface_dataset",), "rows come from files and the hub: leave it out"),
    "trust_remote_code": Given(("false",), "data sets that bring code cannot be loaded; download the rows"),
}
_REMEDIES = {
    "user_script": _NO_CODE,
    "script_dir": _NO_CODE,
    "text_formatting_func": _NO_CODE,
    "joiner": _PACKED,
    "stride": _PACKED,
    "random_retries": _PACKED,
    "random_seed": "seed: N at the top level",
}
_KNOWN = ("text_template", "text_cols", "max_seq_len", "max_samples", "chat_template", "message_col", "data_name")


@dataclass
class Rows:
    """One data config, read; which part it plays is said by those that name it."""

    name: str
    block: Block
    places: tuple[Found | None, Found | None, Found | None]
    """Data set, files, split."""
    used: bool = False


def read_data_configs(found: Found | None, top: Block) -> dict[str, Rows]:
    """Name -> data config, from a list (Olive today) or a mapping (Olive of old)."""
    if found is None:
        return {}
    entries: list[tuple[str, yaml.Node]] = []
    if isinstance(found.node, yaml.SequenceNode):
        entries = [("", node) for node in found.node.value]
    elif isinstance(found.node, yaml.MappingNode):
        entries = [(str(key.value), value) for key, value in found.node.value]
    else:
        top.problem(
            found.where, "data_configs is a list", "- name: rows\n       load_dataset_config: {data_files: ...}"
        )
    configs: dict[str, Rows] = {}
    for number, (key, node) in enumerate(entries):
        block = Block(top.recipe, top.path, f"data_configs[{number}]", node)
        name = block.take("name")
        label = name.text if name else key or f"data_configs[{number}]"
        if label in configs:
            top.problem(block.where, f"two data configs are called '{label}'", "give one another name")
        configs[label] = _read(label, block)
    return configs


def _read(name: str, block: Block) -> Rows:
    kind = block.take("type")
    if kind is not None and kind.text.lower() not in CONTAINERS:
        remedy = near_names(kind.text, ("HuggingfaceContainer",))
        block.problem(kind.where, f"a data config of type {kind.text} holds no rows to learn from", remedy)
    loading = block.block("load_dataset_config").flat("params")
    places = (_data_set(loading), loading.take("data_files"), loading.take("split"))
    read_task(loading)
    loading.words(_LOADING)
    loading.close(("data_name", "data_files", "split", "subset"), _REMEDIES)
    for part in ("post_process_data_config", "dataloader_config"):
        rest = block.block(part).flat("params")
        if size := rest.take("batch_size"):
            remedy = "per_device_train_batch_size in training_args says how many rows a step takes"
            rest.problem(size.where, "a loader's batch size is not that of the training", remedy)
        rest.close((), _REMEDIES)
    return Rows(name, block, places)


def _data_set(loading: Block) -> Found | None:
    found, subset = loading.take("data_name"), loading.take("subset")
    if found and subset:
        node = yaml.ScalarNode("tag:yaml.org,2002:str", f"{found.text}:{subset.text}", subset.node.start_mark)
        return Found(found.where, node)
    return found


def learn_from(rows: Rows) -> None:
    """These are the training rows; how they are prepared is how all rows are."""
    rows.used = True
    block, (name, files, split) = rows.block, rows.places
    block.enter("data_name", name)
    block.enter("data_files", files, _files(files, split))
    block.enter("train_split", split)
    _prepare(block)


def hold_to(rows: Rows, training: Rows | None) -> None:
    """These are the validation rows: another split of the same data, or files of their own."""
    rows.used = True
    block, (name, files, split) = rows.block, rows.places
    same = training is not None and [f and f.value for f in training.places[:2]] == [
        f and f.value for f in (name, files)
    ]
    if same:
        block.enter("eval_split", split)
    elif files is not None:
        block.enter("eval_data_files", files, _files(files, split))
        block.enter("eval_split", split)
    elif name is not None:
        remedy = "download it and name the files, or name a split of the training data set"
        block.problem(name.where, "validation rows of another data set", remedy)
    _prepare(block)


def _prepare(block: Block) -> None:
    """How rows become text; of validation rows it may not differ from the training rows'."""
    preparing = block.block("pre_process_data_config").flat("params")
    read_task(preparing)
    preparing.words(_PREPARING)
    _columns(preparing)
    preparing.close(_KNOWN, _REMEDIES)
    block.close(("load_dataset_config", "pre_process_data_config"), _REMEDIES)


def _files(files: Found | None, split: Found | None) -> object:
    """`data_files` may be a mapping of splits, of which one is asked for."""
    if files is None or not isinstance(files.value, dict):
        return None
    wanted = split.text.partition("[")[0] if split else "train"
    return files.value.get(wanted, files.value)


def _columns(preparing: Block) -> None:
    """`text_cols` and the chat template."""
    if columns := preparing.take("text_cols"):
        names = columns.value if isinstance(columns.value, list) else [columns.text]
        if len(names) == 1:
            preparing.enter("text_field", columns, names[0])
        else:
            preparing.enter("text_template", columns, " ".join(f"{{{name}}}" for name in names))
    if template := preparing.take("chat_template"):
        if template.text.lower() in ("true", "false"):
            preparing.enter("use_chat_template", template)
            if template.text.lower() == "true":
                preparing.enter("data_format", template, "messages")
        else:
            preparing.problem(template.where, "a chat template of one's own", "the model's own is used: true")
    column = preparing.take("message_col")
    if column and column.text not in ("messages", "conversations"):
        remedy = "call it messages"
        preparing.problem(column.where, f"conversations stand in the column messages, not in '{column.text}'", remedy)
