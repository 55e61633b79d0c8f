"""convert_to_fp8_training: what is converted, what is left and why, and that the model stays the same model."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import mpkernels as mp
from mpkernels.convert import why_not_fp8


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.gate = nn.Linear(128, 256), nn.Linear(256, 128), nn.Linear(128, 4)

    def forward(self, x):
        return self.down(self.up(x)) * self.gate(x).mean(-1, keepdim=True)


class Model(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(300, 128)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.lm_head = nn.Linear(128, 300, bias=False)
        if tied:
            self.lm_head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(x)
        return self.lm_head(x)


def test_default_filter_leaves_head_and_tiny_layers_and_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="mpkernels"):
        model = Model()
        assert mp.convert_to_fp8_training(model) is model
    converted = [name for name, module in model.named_modules() if isinstance(module, mp.Fp8Linear)]
    assert converted == ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]
    assert "converted 4 of 7 Linear layers to FP8: blocks.0.up, " in caplog.text
    assert "lm_head (is an output head)" in caplog.text
    assert "blocks.0.gate (is tiny (128 -> 4, under 128))" in caplog.text


def test_tied_head_is_left_whatever_its_name():
    model = Model(tied=True)
    model.projection = model.lm_head
    del model.lm_head
    mp.convert_to_fp8_training(model)
    assert type(model.projection) is nn.Linear


def test_parameters_optimizer_names_and_hooks_survive():
    model = Model()
    names, parameters = [n for n, _ in model.named_parameters()], list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    model.blocks[0].up.register_forward_pre_hook(lambda module, args: seen.append(type(module)))
    mp.convert_to_fp8_training(model)
    assert [n for n, _ in model.named_parameters()] == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    before = model.blocks[0].up.weight.clone()
    model(torch.arange(20)).sum().backward()
    optimizer.step()
    assert seen == [mp.Fp8Linear]
    assert not torch.equal(before, model.blocks[0].up.weight)


def test_filter_function_decides_alone():
    model = mp.convert_to_fp8_training(Model(), module_filter_fn=lambda module, fqn: fqn in ("lm_head", "blocks.1.gate"))
    assert [n for n, m in model.named_modules() if isinstance(m, mp.Fp8Linear)] == ["blocks.1.gate", "lm_head"]


def test_a_shared_module_stays_shared():
    linear = nn.Linear(128, 128)
    model = mp.convert_to_fp8_training(nn.Sequential(linear, nn.ReLU(), linear))
    assert model[0] is model[2]
    assert isinstance(model[0], mp.Fp8Linear)


def test_a_model_that_is_a_linear():
    linear = nn.Linear(128, 128)
    assert mp.convert_to_fp8_training(linear) is linear
    assert isinstance(linear, mp.Fp8Linear)


def test_subclasses_are_left():
    class Lora(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    model = nn.Sequential(Lora(128, 128), nn.Linear(128, 128))
    mp.convert_to_fp8_training(model)
    assert type(model[0]) is Lora
    assert why_not_fp8(model[0], "0") == "is a Lora, whose forward may differ"
    assert why_not_fp8(model[1], "1") == "is an Fp8Linear already"
    assert why_not_fp8(nn.ReLU(), "") == "is not a torch.nn.Linear"


def test_multihead_attention_still_works():
    """Its out_proj is an nn.Linear subclass that is never called; its weights are read directly."""
    attention = nn.MultiheadAttention(128, 4, batch_first=True)
    x = torch.randn(2, 5, 128)
    with pytest.warns(UserWarning, match="converted nothing"):
        mp.convert_to_fp8_training(attention)
    assert attention(x, x, x)[0].shape == x.shape


def test_nothing_to_convert_warns_with_the_reasons():
    with pytest.warns(UserWarning, match=r"converted nothing: 0 \(is tiny \(8 -> 8, under 128\)\)"):
        mp.convert_to_fp8_training(nn.Sequential(nn.Linear(8, 8)))
    with pytest.warns(UserWarning, match="ReLU has no plain torch.nn.Linear"):
        mp.convert_to_fp8_training(nn.ReLU())


def test_delayed_recipe_gives_each_layer_its_own_state():
    model = mp.convert_to_fp8_training(Model(), recipe=mp.DelayedScaling(amax_history_len=2))
    states = [m for m in model.modules() if isinstance(m, mp.DelayedScalingState)]
    assert len(states) == 4
    assert "blocks.0.up.scaling.input_amax_history" in dict(model.named_buffers())
    Model().load_state_dict(mp.linear_state_dict(model), strict=True)
    mp.convert_to_fp8_training(Model(), recipe=mp.DelayedScaling(amax_history_len=2)).load_state_dict(
        Model().state_dict(), strict=True
    )


def test_training_mode_is_kept():
    model = mp.convert_to_fp8_training(Model().eval(), recipe=mp.DelayedScaling())
    assert not any(m.training for m in model.modules())


def test_refusals():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got list"):
        mp.convert_to_fp8_training([nn.Linear(128, 128)])
    model = Model()
    with pytest.raises(TypeError, match="recipe must be"):
        mp.convert_to_fp8_training(model, recipe="delayed")
    assert not any(isinstance(m, mp.Fp8Linear) for m in model.modules())
