"""The demo, at a size of seconds, as `make demo` runs it; and the parts of it that measure."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mpkernels as mp
from mpkernels.formats import E4M3, E5M2

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
RECIPES = ("fp32", "bf16", "fp16", "fp8-current", "fp8-delayed")
FP8 = ("fp8-current", "fp8-delayed")
STEPS, BATCH, CONTEXT, LAYERS, WIDTH = 7, 4, 32, 2, 128  # 7 steps: a full turn and a short one; 128: the narrowest FP8 layer
SIZE = f"--steps {STEPS} --batch {BATCH} --context {CONTEXT} --layers {LAYERS} --width {WIDTH} --heads 4 --device cpu".split()


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.train_lm", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    ran = demo(*SIZE, "--out", str(folder))
    assert ran.returncode == 0, ran.stderr
    for file in ("report.html", "results.json"):
        assert f"wrote {folder / file}" in ran.stdout
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def runs(results):
    assert tuple(results["runs"]) == RECIPES
    return results["runs"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_trains(runs, recipe):
    """From ln 256, the loss of a model that knows nothing, downwards; the first step is everyone's same weights and text."""
    losses = runs[recipe]["losses"]
    assert len(losses) == STEPS - runs[recipe]["skipped_steps"] == STEPS
    assert losses[0] == pytest.approx(math.log(256), rel=0.05)
    assert losses[0] == pytest.approx(runs["fp32"]["losses"][0], rel=0.01)
    assert runs[recipe]["validation_loss"] < losses[0] - 0.1


@pytest.mark.parametrize("recipe", RECIPES)
def test_speed_up_is_that_of_the_turns(runs, recipe):
    """Two turns, the first of which warms up: the figure is the second's."""
    base, own = runs["fp32"]["turn_seconds"], runs[recipe]["turn_seconds"]
    assert len(base) == len(own) == 2
    assert runs[recipe]["speedup"] == pytest.approx(base[1] / own[1])
    assert runs[recipe]["tokens_per_second"] == pytest.approx(BATCH * CONTEXT / own[1])
    loss, fp32_loss = runs[recipe]["validation_loss"], runs["fp32"]["validation_loss"]
    assert runs[recipe]["validation_loss_difference"] == pytest.approx(loss / fp32_loss - 1)


def test_counts_what_is_saved_for_backward(runs):
    """Per layer of the GPT: inputs of width d, d, d, 4d for each token, and 12 d^2 weights, which FP32 does not copy."""
    inputs, weights = LAYERS * BATCH * CONTEXT * 7 * WIDTH, LAYERS * 12 * WIDTH**2
    assert runs["fp32"]["saved_for_backward_bytes"] == 4 * inputs
    assert runs["bf16"]["saved_for_backward_bytes"] == runs["fp16"]["saved_for_backward_bytes"] == 2 * (inputs + weights)
    dequant_scales = LAYERS * 4 * 2 * 4  # of 4 linear layers, for input and weight, in FP32
    for recipe in FP8:
        assert runs[recipe]["saved_for_backward_bytes"] == inputs + weights + dequant_scales


def test_counts_weights_gradients_and_optimizer_state(results, runs):
    parameters = results["model"]["parameters"]
    counters = 4 * (3 + 12 * LAYERS + 2)  # an FP32 step for each tensor: embeddings and head, blocks, last norm
    for recipe in RECIPES:
        size = 2 if recipe in FP8 else 4
        state = runs[recipe]["state_bytes"]
        scaling = LAYERS * 4 * 4 * (3 * (1024 + 2) + 1) if recipe == "fp8-delayed" else 0
        assert state["weights"] == size * parameters + scaling
        assert state["gradients"] == size * parameters
        assert state["optimizer"] == (8 + 4 * (recipe in FP8)) * parameters + counters
        assert state["total"] == state["weights"] + state["gradients"] + state["optimizer"]


def test_shares_are_there_for_fp8_only(runs):
    for recipe in RECIPES:
        tensors = {"input", "weight", "grad_output"} if recipe in FP8 else set()
        for shares in (runs[recipe]["underflow"], runs[recipe]["saturation"]):
            assert set(shares) == tensors
            assert all(0 <= share < 0.1 for share in shares.values())
    assert max(runs["fp8-current"]["saturation"].values()) == 0  # each scale is made for the tensor's own maximum


def test_report_is_one_file_with_everything(folder, results):
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:|/)|@import|url\((?!["']?#)""", page)
    assert page.count("<svg") == 1
    for row in results["runs"].values():
        assert f"<td>{row['validation_loss']:.4f}</td>" in page
    assert results["versions"]["torch"] in page


def test_refuses_an_unknown_recipe():
    ran = demo("--recipes", "fp32,fp4")
    assert ran.returncode == 2
    assert "got 'fp4'" in ran.stderr


def test_some_recipes_alone_have_no_speed_up(tmp_path):
    ran = demo(*SIZE, "--steps", "1", "--recipes", "bf16", "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    run = json.loads((tmp_path / "results.json").read_text())["runs"]["bf16"]
    assert run["speedup"] is None
    assert run["validation_loss_difference"] is None


@pytest.mark.parametrize("fp8", [E4M3, E5M2], ids=lambda f: f.name)
def test_overflow_threshold_is_where_rounding_leaves_the_format(fp8):
    from examples.lm.measure import overflow_threshold

    step = {"E4M3": 32.0, "E5M2": 8192.0}[fp8.name]  # 448 - 416, 57344 - 49152
    assert overflow_threshold(fp8) == fp8.max + step / 2


def test_observer_counts_underflow_and_saturation():
    """Weights under a delayed scale of 1: 2^-11 is under half of E4M3's smallest subnormal 2^-9, 1000 is over its 448."""
    from examples.lm.measure import Fp8Observer

    layer = mp.Fp8Linear(16, 16, bias=False, recipe=mp.DelayedScaling())
    x = torch.ones(16, 16, requires_grad=True)
    layer(x).sum().backward()
    layer(x)  # the second forward scales by the history
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.weight[0, :4] = torch.tensor([0.0, 2.0**-11, -(2.0**-11), 1000.0])
    layer.eval()  # keeps the scales
    layer.scaling.weight_quant_scale.fill_(1.0)
    with Fp8Observer(layer) as observer:
        layer(x).sum().backward()
    weight = observer.shares["weight"]
    assert (weight.nonzero, weight.underflowed, weight.clipped) == (255, 2, 1)
    assert observer.shares["input"].nonzero == observer.shares["grad_output"].nonzero == 256


def test_fp16_products_are_those_of_an_fp32_accumulator():
    from examples.lm.fp16_on_cpu import ProductsInFp32

    torch.manual_seed(0)
    x, weight = torch.randn(8, 64).half().requires_grad_(), torch.randn(16, 64).half().requires_grad_()
    with ProductsInFp32():
        out = torch.nn.functional.linear(x, weight)
        out.sum().backward()
    assert torch.equal(out, (x.float() @ weight.float().t()).half())
    assert torch.equal(weight.grad, x.float().sum(0).half().expand(16, 64))
    with ProductsInFp32():
        assert (torch.full((1, 4), 200.0).half() @ torch.full((4, 1), 200.0).half()).item() == math.inf
