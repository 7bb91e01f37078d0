"""The methods that PEFT carries out: what they promise, and that PEFT and we mean the same by the files."""

import warnings
from dataclasses import replace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from oleaster.config.load import load_config
from oleaster.core.errors import ConfigError, ModelError
from oleaster.data.batch import pack
from oleaster.data.papers import Encoded
from oleaster.inference.predictor import Sampling
from oleaster.inference.torch_predictor import TorchPredictor
from oleaster.methods import attach_saved, count, get_method, saved_method, trainable_parameters
from oleaster.methods.peft_method import NO_EXPORT, PROMPTS, TYPES
from oleaster.models.load import load_weights
from oleaster.models.loaded import LoadedModel
from oleaster.models.sanity import read_shapes
from oleaster.models.tiny import byte_tokenizer, make_tiny

IDS = torch.tensor([[1, 60, 70, 80, 90, 100, 2, 30]])
ROWS = [Encoded((1, 60, 70, 80, 2), (3, 4), 3, 0), Encoded((1, 60, 70, 80, 90, 91, 2), (5, 6), 5, 1)]
FAMILIES = ("llama", "qwen3", "phi3", "gemma3_text", "gpt2")
WINDOWED = ("gemma3_text",)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: make_tiny(family, root / family) for family in FAMILIES}


def method_of(name, **settings):
    chosen = {"method": "lora", "use_dora": True, "lora_r": 4} if name == "dora" else {"method": name}
    return get_method(load_config(None, {**chosen, **settings}).method)


def cases():
    """The pairs of method and family that fit together."""
    for name in TYPES:
        for family in FAMILIES:
            sequential = name in PROMPTS and family in WINDOWED
            conv1d = family == "gpt2" and name in ("loha", "lokr")
            grouped = family == "gpt2" and name == "prefix_tuning"  # the tiny GPT-2 names key/value heads it has not
            qwen3 = family == "qwen3" and name == "prefix_tuning"  # its heads are wider than the model by their number
            if not (sequential or conv1d or grouped or qwen3):
                yield name, family


def loaded(name, folder, dtype=torch.float32, **settings):
    method = method_of(name, **settings)
    needs = replace(method.needs, generic="the tests call transformers' own forward")
    model, _ = load_weights(folder, torch.float32 if needs.trained else dtype, needs=needs)
    return method, model


def test_ia3_on_every_layer_of_a_family_whose_names_mean_several(folders):
    method, model = loaded("ia3", folders["gpt2"], target_modules="all-linear")
    method.attach(model.hub_model, seed=1)
    scaled = {name for name in trainable_parameters(model.hub_model) if ".0." in name}
    assert {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"} == {
        ".".join(name.split(".")[-4:-2]) for name in scaled
    }


def train_a_little(method, model):
    """Two steps; gives the trained parameters."""
    method.attach(model.hub_model, seed=0)
    trained = list(trainable_parameters(model).values())
    optimizer = torch.optim.Adam(trained, 0.05)
    model.train()
    for _ in range(2):
        model.target_hidden(pack(ROWS)).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return trained


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits


@pytest.mark.parametrize(("name", "family"), cases())
def test_it_starts_as_the_base_and_changes_only_what_it_trains(name, family, folders):
    method, model = loaded(name, folders[family])
    before = logits(model.hub_model)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method.attach(model.hub_model, seed=0)
    if name not in PROMPTS:
        torch.testing.assert_close(logits(model.hub_model), before, atol=1e-5, rtol=1e-5)
    trained = trainable_parameters(model)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    start = {n: p.detach().clone() for n, p in trained.items()}
    model.train()
    model.target_hidden(pack(ROWS)).square().mean().backward()
    torch.optim.SGD(trained.values(), 0.1).step()
    assert any(not torch.equal(start[n], p) for n, p in trained.items())
    still = {p.data_ptr(): p for p in model.parameters() if not p.requires_grad}
    assert all(any(torch.equal(p, q) for q in still.values()) for n, p in frozen.items() if n not in trained)
    assert not torch.equal(logits(model.hub_model), before)


@pytest.mark.parametrize(("name", "family"), cases())
def test_the_files_are_pefts_and_give_the_same_answers(name, family, folders, tmp_path):
    method, model = loaded(name, folders[family])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train_a_little(method, model)
    expected = logits(model.hub_model)
    method.save(model.hub_model, tmp_path, str(folders[family]), "")
    ours = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32).eval()
    attach_saved(ours, tmp_path)
    torch.testing.assert_close(logits(ours), expected, atol=1e-5, rtol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32).eval()
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    found = logits(theirs)[:, -IDS.shape[1] :]  # PEFT gives logits of its virtual tokens too
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TYPES)
def test_merged_is_attached_or_refused(name, folders):
    method, model = loaded(name, folders["llama"])
    train_a_little(method, model)
    expected = logits(model.hub_model)
    if name in NO_EXPORT:
        assert method.no_export == NO_EXPORT[name]
        with pytest.raises(ModelError, match="cannot be merged"):
            method.merge(model.hub_model)
        return
    assert method.no_export is None
    method.merge(model.hub_model)
    plain = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32).eval()
    plain.load_state_dict(model.hub_model.state_dict())  # the modules are the base's again
    torch.testing.assert_close(logits(plain), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "family"), cases())
def test_the_estimate_of_what_is_trained_is_right(name, family, folders):
    method, model = loaded(name, folders[family])
    method.attach(model.hub_model, seed=0)
    found = method.trained_numbers(read_shapes(folders[family])[0])
    exact = not (name == "prefix_tuning" and family == "phi3")  # its packed projection hides the keys' width
    assert found == count(model)[0] if exact else found >= count(model)[0]


@pytest.mark.parametrize("name", TYPES)
def test_it_trains_over_a_bfloat16_base_in_float32(name, folders):
    method, model = loaded(name, folders["llama"], torch.bfloat16)
    trained = train_a_little(method, model)
    assert {p.dtype for p in trained} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "family"), [(n, f) for n, f in cases() if n in (*PROMPTS, "ia3") and f in ("llama", "gpt2")]
)
def test_generating_with_a_cache_is_reading_the_whole_row_anew(name, family, folders):
    method, model = loaded(name, folders[family])
    train_a_little(method, model)
    tokenizer = byte_tokenizer()
    hub = model.hub_model
    asked = TorchPredictor(LoadedModel(model, tokenizer, folders[family], "", "", torch.float32, ()), "x")
    common = tuple(range(40, 110))  # long enough to be read once for both
    prompts = [(1, *common, 60), (1, *common, 90, 91, 92)]
    answers = asked.generate(prompts, Sampling(5))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for _ in range(5):
            with torch.no_grad():
                ids.append(int(hub(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert list(answer.token_ids) == ids[len(prompt) :]


def test_prompt_tuning_can_begin_with_a_text(folders):
    method, model = loaded("prompt_tuning", folders["llama"], num_virtual_tokens=5, prompt_tuning_init_text="Label")
    method.attach(model.hub_model, seed=0)
    (learned,) = trainable_parameters(model).values()
    table = model.hub_model.get_input_embeddings().weight
    assert torch.equal(learned, table[byte_tokenizer()("Label")["input_ids"]])


def test_a_projected_prefix_is_saved_without_its_network(folders, tmp_path):
    method, model = loaded("prefix_tuning", folders["llama"], num_virtual_tokens=3, prefix_projection=True)
    train_a_little(method, model)
    method.save(model.hub_model, tmp_path, "", "")
    plain = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32).eval()
    attach_saved(plain, tmp_path)
    torch.testing.assert_close(logits(plain), logits(model.hub_model), atol=1e-5, rtol=1e-5)
    assert count(plain)[0] < count(model)[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "loha", "target_modules": "q_porj,v_proj"}, "no linear layer 'q_porj'(?s:.*)use one of: q_proj"),
        ({"method": "vera", "target_modules": "q_proj,lm_head"}, "no adapter can stand on the output head 'lm_head'"),
        ({"method": "lokr", "modules_to_save": "nrom"}, "no module 'nrom'(?s:.*)use one of: norm"),
        ({"method": "ln_tuning", "target_modules": "q_proj"}, "'q_proj'(?s:.*)use one of: (input_layer|norm|post)"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(settings, said, folders):
    model, _ = load_weights(folders["llama"], torch.float32)
    with pytest.raises(ConfigError, match=said):
        method_of(**{"name": settings.pop("method"), **settings}).attach(model.hub_model, seed=0)


def test_modules_are_trained_whole_beside_it(folders, tmp_path):
    method, model = loaded("ia3", folders["llama"], modules_to_save="norm")
    assert method.needs.trained
    train_a_little(method, model)
    method.save(model.hub_model, tmp_path, "", "")
    assert saved_method(tmp_path).needs.trained
    plain = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32).eval()
    merging = attach_saved(plain, tmp_path)
    expected = logits(model.hub_model)
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=1e-5)
    merging.merge(plain)
    torch.testing.assert_close(logits(plain), expected, atol=1e-4, rtol=1e-4)


def test_sliding_windows_and_unknown_types_are_refused(folders, tmp_path):
    method, model = loaded("prompt_tuning", folders["gemma3_text"])
    with pytest.raises(ModelError, match="not exact in a model with sliding windows"):
        method.attach(model.hub_model, seed=0)
    method, model = loaded("ia3", folders["llama"])
    method.attach(model.hub_model, seed=0)
    method.save(model.hub_model, tmp_path, "", "")
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"IA3"', '"BOFT"'))
    with pytest.raises(ModelError, match=r"of type BOFT(?s:.*)known: BOTTLENECK, IA3"):
        saved_method(tmp_path)
