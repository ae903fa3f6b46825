"""The fused functions: the same values as the plain modules, and gradients checked against finite differences in float64."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy
from transformers import Phi3ForCausalLM

from lorabundle.compute import fused, packing
from lorabundle.compute.frozen_linear import Int8Linear, Nf4Linear, WideLinear

TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def double(monkeypatch):
    """Let the functions compute in float64 throughout, so that finite differences can resolve a wrong gradient."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def test_gradients_of_the_linear_layer(double):
    base = torch.nn.Linear(5, 7, bias=False, dtype=torch.float64).requires_grad_(False)
    x, a, b = random(2, 3, 5), random(4, 5), random(7, 4)
    assert gradcheck(lambda x, a, b: fused.LoraLinear.apply(x, fused.IDENTITY, base, a, b, 0.5), (x, a, b))


@pytest.mark.parametrize("before", [fused.RmsNorm(torch.rand(6, dtype=torch.float64), 1e-5), fused.SwiGlu()])
def test_gradients_of_a_linear_layer_that_computes_its_input_again(double, before):
    x, size = random(2, 3, 6), before.result(torch.zeros(6, dtype=torch.float64)).shape[0]
    base = torch.nn.Linear(size, 7, bias=False, dtype=torch.float64).requires_grad_(False)
    a, b = random(4, size), random(7, 4)
    assert gradcheck(lambda x, a, b: fused.LoraLinear.apply(x, before, base, a, b, 0.5), (x, a, b))


def test_the_first_layers_input_needs_no_gradient():
    base = torch.nn.Linear(5, 7, bias=False).requires_grad_(False)
    a, b = torch.randn(4, 5, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    fused.LoraLinear.apply(torch.randn(3, 5), fused.IDENTITY, base, a, b, 1.0).sum().backward()
    assert a.grad.shape == (4, 5)
    assert b.grad.shape == (7, 4)


def test_gradients_of_the_norm(double):
    weight = torch.randn(6, dtype=torch.float64)
    assert gradcheck(lambda x: fused.Apply.apply(x, fused.RmsNorm(weight, 1e-5)), (random(2, 3, 6),))


def test_gradients_of_the_activation():
    assert gradcheck(lambda x: fused.Apply.apply(x, fused.SwiGlu()), (random(2, 3, 8),))


def head_of(weight: torch.Tensor) -> torch.nn.Linear:
    """A frozen head with the weight (vocabulary, hidden)."""
    head = torch.nn.Linear(*weight.shape[::-1], bias=False)
    head.weight = torch.nn.Parameter(weight, requires_grad=False)
    return head


def test_gradients_of_the_head(double, monkeypatch):
    """Five responses, filled up to six, two at a time: the last portion is half fill."""
    monkeypatch.setattr(fused, "HEAD_ROWS", 2)
    monkeypatch.setattr(fused, "HEAD_MULTIPLE", 3)
    head, targets = head_of(torch.randn(11, 4, dtype=torch.float64)), torch.tensor([3, 0, 10, 3, 7])
    monkeypatch.setattr(torch, "full", lambda shape, value: torch.ones(shape, dtype=torch.float64) * value)
    assert gradcheck(lambda x: fused.ResponseNats.apply(x, head, targets), (random(5, 4),))


def test_nats_of_the_head_by_hand():
    """Two states under a head that gives the logits (0, ln 3) and (0, 0): 1/4 and 1/2 for the first token."""
    head = head_of(torch.tensor([[0.0], [1.0]]))
    states = torch.tensor([[3.0], [1.0]]).log().requires_grad_()
    nats = fused.ResponseNats.apply(states, head, torch.tensor([0, 0]))
    assert nats.item() == pytest.approx(torch.tensor(8.0).log().item(), abs=1e-6)
    nats.backward()
    assert states.grad.flatten().tolist() == pytest.approx([0.75, 0.5], abs=1e-6)  # the other token's probability


def test_a_head_with_an_adapter_is_not_fused():
    head = torch.nn.Linear(4, 11, bias=False)  # its weight asks for a gradient
    states, targets = torch.randn(5, 4), torch.tensor([3, 0, 10, 3, 7])
    nats = fused.response_nats(states, head, targets)
    assert nats.item() == pytest.approx(cross_entropy(head(states), targets, reduction="sum").item(), rel=1e-6)
    nats.backward()
    assert head.weight.grad is not None


def adapted(model, **settings):
    """The model with an adapter whose B is not zero, so that it changes something."""
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def results_of(model: Phi3ForCausalLM, input_ids: torch.Tensor) -> list[torch.Tensor]:
    """Logits, and the gradient of each weight that is trained."""
    logits = model(input_ids=input_ids).logits
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [logits, *torch.autograd.grad(logits.float().square().mean(), trained)]


@pytest.mark.parametrize("recompute_from", [0, 2048])
def test_layers_are_those_of_peft(tiny_copy, recompute_from, monkeypatch):
    """Logits and gradients of the model, before and after fusing. The tolerance is a share of the largest value."""
    monkeypatch.setattr(packing, "RECOMPUTE_FROM", recompute_from)
    model, input_ids = adapted(tiny_copy), torch.randint(0, 16, (3, 20))
    plain = results_of(model, input_ids)
    fused.fuse(model)
    assert any(isinstance(module, fused.PeftLinear) and "forward" in vars(module) for module in model.modules())
    for expected, result in zip(plain, results_of(model, input_ids), strict=True):
        assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()
    fused.unfuse(model)
    assert all(
        torch.equal(expected, result) for expected, result in zip(plain, results_of(model, input_ids), strict=True)
    )


def test_layers_in_bfloat16_are_as_exact_as_those_of_peft(tiny_copy):
    """Both round differently, and CPUs do too, so each is compared with float32: the sum of the squared errors of all values."""
    model, input_ids = adapted(tiny_copy.to(torch.bfloat16)), torch.randint(0, 16, (3, 20))
    exact = results_of(copy.deepcopy(model).float(), input_ids)
    plain = results_of(model, input_ids)
    fused.fuse(model)
    ours = results_of(model, input_ids)
    assert [result.dtype for result in ours] == [result.dtype for result in plain]
    errors = [sum((a.float() - b).square().sum() for a, b in zip(found, exact, strict=True)) for found in (plain, ours)]
    assert 0 < errors[1] <= 1.2 * errors[0]  # 0.92 of PEFT's on an AMD EPYC, 0.86 on emulated aarch64


def test_a_large_layer_keeps_less_and_gives_the_same_bytes(tiny_copy, monkeypatch):
    """What is computed again is bit for bit what would have been kept."""
    model, ids = adapted(tiny_copy), [1, *torch.randint(2, 16, (40,)).tolist()]
    rows = [{"input_ids": ids[: 30 + number], "labels": [-100, *ids[1 : 30 + number]]} for number in range(9)]
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    base, results, sizes = model.get_base_model(), [], []
    for recompute_from in (0, 2048):
        monkeypatch.setattr(packing, "RECOMPUTE_FROM", recompute_from)
        fused.fuse(model)
        kept: dict[int, torch.UntypedStorage] = {}

        def note(tensor: torch.Tensor, kept=kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with packing.packed_attention(base):
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                states = packing.scored_states(base, packing.pack(rows, 1))
            states.square().sum().backward()
        results.append([states, *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)])
        sizes.append(sum(storage.nbytes() for place, storage in kept.items() if place not in weights))
        model.zero_grad()
        fused.unfuse(model)
    assert all(torch.equal(again, plain) for again, plain in zip(*results, strict=True))
    assert sizes[0] < 0.6 * sizes[1]  # 0.57


@pytest.mark.parametrize("kind", [WideLinear, Int8Linear, Nf4Linear])
def test_a_layer_in_another_format_gives_what_peft_gives_for_it(kind):
    """The gradient too. bitsandbytes' own 4-bit layer restores its weight, and so does ours."""
    weight = torch.randn(48, 64)
    layer = kind(weight.bfloat16()) if kind is WideLinear else kind(weight, None)
    model = get_peft_model(
        torch.nn.Sequential(layer), LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
    ).train()
    x = torch.randn(5, 64, requires_grad=True)
    expected = model(x)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    fused.fuse(model)
    assert "forward" in vars(model.base_model.model[0])
    result = model(x)
    (gradient,) = torch.autograd.grad(result.square().sum(), x)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_other_adapters_keep_pefts_forward(tiny_copy, settings):
    model = adapted(tiny_copy, **settings)
    fused.fuse(model)
    layers = [module for module in model.modules() if isinstance(module, fused.PeftLinear)]
    assert layers
    assert not any("forward" in vars(layer) for layer in layers)
