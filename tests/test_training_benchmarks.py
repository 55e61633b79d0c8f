"""The end-to-end benchmark at a size of seconds, what it counts, and that the pages show what is stored."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import memory, train
from benchmarks.training import meters, tables
from benchmarks.training.variants import VARIANTS, Training, Variant, why_not
from benchmarks.training.workloads import WORKLOADS

CPU = torch.device("cpu")
STEPS = train.WARM_UP + 2
COUNTED = [recipe for recipe in memory.RECIPES if recipe.variant is not None]


def variant_of(name: str) -> Variant:
    return next(variant for variant in VARIANTS if variant.name == name)


@pytest.mark.parametrize("recipe", COUNTED, ids=lambda recipe: recipe.name)
def test_counted_bytes_are_those_of_the_formula(recipe):
    assert memory.count(recipe.variant) == recipe.formula


def test_every_variant_that_runs_here_is_counted_and_every_formula_has_a_source():
    assert {recipe.variant for recipe in COUNTED} == {variant.name for variant in VARIANTS if variant.pieces != "torchao"}
    assert all(recipe.source for recipe in memory.RECIPES if recipe.variant is None)


def test_stored_memory_table_is_todays():
    assert json.loads((tables.RESULTS / "memory.json").read_text())["rows"] == memory.rows(), "run `make bench-train tables`"


def test_page_shows_the_stored_results():
    text = tables.PAGE.read_text()
    assert tables.rewrite(text) == text, "run `make tables`"


@pytest.fixture(scope="module", params=list(WORKLOADS))
def result(request):
    workload = WORKLOADS[request.param]("tiny", STEPS, CPU)
    return train.run(workload, "tiny", list(train.PRECISIONS), CPU)


def test_variants_see_the_same_and_learn(result):
    first = result["variants"]["fp32 torch"]["losses"]
    for name, row in result["variants"].items():
        assert len(row["losses"]) == STEPS, name
        assert row["losses"][0] == pytest.approx(first[0], rel=0.01), name
        assert row["losses"] != first or name == "fp32 torch" or row["precision"] == "fp32"
        assert row["loss"] < row["losses"][0] + 0.1, name


def test_what_cannot_run_is_named(result):
    assert set(result["missing"]) | set(result["variants"]) == {variant.name for variant in VARIANTS}
    assert all(result["missing"].values())
    assert result["missing"] == {variant.name: why_not(variant) for variant in VARIANTS if why_not(variant)}


def test_ratios_are_against_torch(result):
    rows = result["variants"]
    assert rows["fp32 torch"]["speedup"] is None
    assert rows["fp32 torch"]["speedup_over_fp32"] == 1.0
    assert all(row["speedup"] > 0 for row in rows.values() if row["pieces"] == "mpkernels")


def test_a_precision_alone_has_no_ratio():
    workload = WORKLOADS["gpt"]("tiny", STEPS, CPU)
    rows = train.run(workload, "tiny", ["fp8"], CPU)["variants"]
    assert all(row["speedup"] is None and row["speedup_over_fp32"] is None for row in rows.values())


def test_text_and_stored_runs(result, tmp_path):
    assert all(name in train.text(result) for name in result["variants"])
    file = tmp_path / "runs.json"
    train.store(file, [result])
    train.store(file, [{**result, "size": "small"}, {**result, "steps": 1}])
    assert [(run["size"], run["steps"]) for run in json.loads(file.read_text())["runs"]] == [("tiny", 1), ("small", STEPS)]


@pytest.mark.parametrize("name", ["fp32 torch", "bf16 torch", "fp16 mpkernels", "fp8 current mpkernels", "fp8 delayed mpkernels"])
def test_components_of_a_step(name):
    """The tiny GPT has 5 linear layers of 3 products each; the FP8 ones among them, all but the head, have 3 tensors each."""
    workload = WORKLOADS["gpt"]("tiny", STEPS, CPU)
    training = Training(variant_of(name), workload.model(), CPU)
    training.step(workload.batches[0])
    split = meters.split(training, workload.batches[1])
    calls = {component: seen.calls for component, seen in split.components.items()}
    assert calls["GEMM"] == 15
    delayed_updates = 4 if "delayed" in name else 0
    assert calls["quantise"] == (12 + delayed_updates if "fp8" in name else 0)
    assert (calls["casts"] > 5) == (name == "bf16 torch")
    assert calls["optimizer"] > 0
    assert calls["scaler, norm"] > 0
    assert split.rest_seconds > 0
    assert all(seen.seconds > 0 for seen in split.components.values() if seen.calls)


def test_split_takes_the_shortest_step():
    workload = WORKLOADS["gpt"]("tiny", STEPS, CPU)
    training = Training(variant_of("fp32 torch"), workload.model(), CPU)
    seconds = iter([3.0, 1.0, 2.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters, "split", lambda *_: meters.Split(next(seconds), {}))
        assert meters.least_split([training], workload.batches[0], 3)["fp32 torch"].step_seconds == 1.0


def test_peak_counts_what_is_alive_at_once():
    megabyte = 2**20

    def step():
        first = torch.empty(3 * megabyte, dtype=torch.uint8)
        del first
        second, third = (torch.empty(2 * megabyte, dtype=torch.uint8) for _ in range(2))
        del second, third
        torch.empty(megabyte, dtype=torch.uint8)

    assert meters._peak_of_cpu_allocations(step) == 4 * megabyte


@pytest.mark.parametrize("name", ["fp32 torch", "bf16 torch"])  # conftest.py puts our ops' outputs into memory of its own
def test_peak_holds_state_gradients_and_activations(name):
    workload = WORKLOADS["dit"]("tiny", STEPS, CPU)
    training = Training(variant_of(name), workload.model(), CPU)
    training.step(workload.batches[0])
    seen = meters.memory(training, workload.batches[1])
    parameters = sum(p.numel() for p in training.model.parameters())
    counters = 4 * len(list(training.model.parameters()))
    assert seen.weights + seen.gradients + seen.optimizer == 16 * parameters + counters
    assert seen.weights + seen.gradients + seen.optimizer < seen.peak < 40 * parameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "fp4"], "--precision must be of fp32, bf16, fp16, fp8, got 'fp4'"),
        (["--model", "gpt,unet"], "--model must be of gpt, dit, got 'unet'"),
        (["--steps", "3"], "--steps must be at least 4, got 3"),
    ],
)
def test_refuses_what_it_cannot_run(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    with pytest.raises(SystemExit):
        train.main()
    assert message in capsys.readouterr().err
