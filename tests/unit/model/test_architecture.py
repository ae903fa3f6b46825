"""Llama's weights in the layout of Phi-3, and what is checked of a model's folder."""

import json

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM, Phi3ForCausalLM

from lorabundle.core.errors import HashMismatchError, MissingInputError, ModelFormatError
from lorabundle.core.files import sha256_file, write_json
from lorabundle.model.architecture import check_architecture, check_unchanged, llama_to_phi3, load_tokenizer
from tests.conftest import word_tokenizer


def llama(**changes) -> LlamaForCausalLM:
    """A random Llama of 2 layers with 2 query heads per key and value head."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 16,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,  # large, so that predictions differ from uniform ones
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(32).reshape(2, 16) % 16).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_phi3_gives_the_logits_of_the_llama_to_the_last_bit(tied, dtype):
    original = llama(tie_word_embeddings=tied).to(dtype)
    phi3 = llama_to_phi3(original)
    assert isinstance(phi3, Phi3ForCausalLM)
    assert phi3.dtype == dtype
    assert torch.equal(logits(original), logits(phi3))


def test_logits_depend_on_what_is_stacked():
    """The equality above is worth something only if each stacked part counts."""
    phi3 = llama_to_phi3(llama())
    before = logits(phi3)
    layer = phi3.model.layers[0]
    for weight, rows in ((layer.self_attn.qkv_proj.weight, (0, 64, 96)), (layer.mlp.gate_up_proj.weight, (0, 96))):
        for row in rows:  # the first of q, k, v; of gate, up
            kept = weight[row].clone()
            with torch.no_grad():
                weight[row] += 1
                assert not torch.equal(logits(phi3), before)
                weight[row] = kept
    assert torch.equal(logits(phi3), before)


def test_stacked_shapes_and_settings_by_hand():
    phi3 = llama_to_phi3(llama())
    layer = phi3.model.layers[0]
    heads = 4 + 2 + 2  # of queries, keys and values
    assert layer.self_attn.qkv_proj.weight.shape == (heads * 16, 64)
    assert layer.mlp.gate_up_proj.weight.shape == (2 * 96, 64)
    assert phi3.config.rope_parameters["rope_theta"] == 5000.0
    assert phi3.config.original_max_position_embeddings == 64
    assert phi3.config.sliding_window is None
    assert (phi3.config.bos_token_id, phi3.config.eos_token_id, phi3.config.pad_token_id) == (0, 1, 1)


@pytest.mark.parametrize("biases", ["attention_bias", "mlp_bias"])
def test_llama_with_biases_is_refused(biases):
    with pytest.raises(ModelFormatError, match="projection biases"):
        llama_to_phi3(llama(**{biases: True}))


def test_phi3_passes_the_check_of_the_architecture(tmp_path):
    llama_to_phi3(llama()).config.save_pretrained(tmp_path)
    check_architecture(tmp_path)


def test_model_of_another_family(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ModelFormatError, match=r"type gpt2.*Set model\.path"):
        check_architecture(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"model_type": "unheard-of"}'])
def test_config_that_cannot_be_read(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelFormatError, match=r"config\.json cannot be read as a model config"):
        check_architecture(tmp_path)


@pytest.fixture
def noted(tmp_path):
    """A model's folder with one file and its hash, as fetch leaves them."""
    (tmp_path / "config.json").write_text("{}")
    write_json(tmp_path / "provenance.json", {"files": {"config.json": sha256_file(tmp_path / "config.json")}})
    return tmp_path


def test_unchanged_folder(noted):
    check_unchanged(noted)


def test_changed_file(noted):
    (noted / "config.json").write_text("{ }")
    with pytest.raises(
        HashMismatchError, match=rf"config\.json is not the file that fetch left.*Delete {noted} and run"
    ):
        check_unchanged(noted)


def test_removed_file(noted):
    (noted / "config.json").unlink()
    with pytest.raises(HashMismatchError, match=r"config\.json is not the file that fetch left"):
        check_unchanged(noted)


def test_folder_that_fetch_did_not_make(tmp_path):
    with pytest.raises(MissingInputError, match=r"provenance\.json does not exist.*make fetch"):
        check_unchanged(tmp_path)


def test_tokenizer_of_a_folder(tmp_path):
    word_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi3"}))
    assert load_tokenizer(tmp_path)("hello there")["input_ids"] == [7, 8]


def test_tokenizer_of_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(MissingInputError, match=r"config\.json does not exist.*make fetch"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [None, "{"])
def test_tokenizer_that_cannot_be_loaded(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi3"}))
    if content is not None:
        word_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ModelFormatError, match=r"tokenizer in .* cannot be loaded"):
        load_tokenizer(tmp_path)
