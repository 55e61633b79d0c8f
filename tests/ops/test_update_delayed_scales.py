"""update_delayed_scales_: contract in mpkernels/ops/update_delayed_scales/__init__.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels.formats import E4M3, E5M2
from mpkernels.testing import assert_matches

INF, NAN = float("inf"), float("nan")


def state(histories, device="cpu"):
    """(histories, quant_scales, dequant_scales), the old scales 3 and 1/3."""
    tensors = [torch.tensor(h, dtype=torch.float32, device=device) for h in histories]
    quant = [torch.tensor(3.0, device=device) for _ in histories]
    return tensors, quant, [q.reciprocal() for q in quant]


def ended(device="cpu", value=1.0):
    return torch.tensor(value, device=device)


def test_scales_come_from_the_maximum_and_the_history_shifts(backend, device):
    histories, quant, dequant = state([[7.0, 2.0, 1.0], [1.0, 14.0, 2.0]], device)
    flag = ended(device)
    mp.update_delayed_scales_(histories, quant, dequant, flag, [E4M3.max, E5M2.max], backend=backend)
    assert [h.tolist() for h in histories] == [[0.0, 7.0, 2.0], [0.0, 1.0, 14.0]]
    assert [q.item() for q in quant] == [64.0, 4096.0]
    assert [d.item() for d in dequant] == [1 / 64, 1 / 4096]
    assert flag == 0


def test_nothing_is_written_while_the_step_runs(backend, device):
    histories, quant, dequant = state([[7.0, 2.0], [NAN, INF]], device)
    flag = ended(device, 0.0)
    mp.update_delayed_scales_(histories, quant, dequant, flag, [E4M3.max, E5M2.max], backend=backend)
    assert histories[0].tolist() == [7.0, 2.0]
    assert histories[1].isnan().tolist() == [True, False]
    assert [q.item() for q in quant] == [3.0, 3.0]


@pytest.mark.parametrize("bad", [INF, NAN])
def test_nonfinite_newest_counts_as_zero(backend, device, bad):
    histories, quant, dequant = state([[bad, 7.0, 1.0], [bad, 0.0, 0.0]], device)
    mp.update_delayed_scales_(histories, quant, dequant, ended(device), [E4M3.max] * 2, backend=backend)
    assert [h.tolist() for h in histories] == [[0.0, 0.0, 7.0], [0.0, 0.0, 0.0]]
    assert [q.item() for q in quant] == [64.0, 3.0]


def test_most_recent_margin_and_power_of_two(backend, device):
    histories, quant, dequant = state([[3.0, 7.0]], device)
    mp.update_delayed_scales_(
        histories, quant, dequant, ended(device), [E4M3.max], margin=2, power_of_two=True, most_recent=True, backend=backend
    )
    assert quant[0] == 32.0  # 448 / (3 * 4) = 37.3, rounded down


def test_history_of_one(backend, device):
    histories, quant, dequant = state([[7.0]], device)
    mp.update_delayed_scales_(histories, quant, dequant, ended(device), [E4M3.max], backend=backend)
    assert (histories[0].tolist(), quant[0].item()) == ([0.0], 64.0)


@pytest.mark.parametrize("length", [31, 32, 255, 256, 257, 1024, 1500])
@pytest.mark.parametrize("oldest_is_largest", [False, True])
def test_long_histories(backend, device, length, oldest_is_largest):
    values = torch.rand(length, generator=torch.Generator().manual_seed(length)) + 0.5
    if oldest_is_largest:
        values[-1] = 3.5
    histories, quant, dequant = state([values.tolist()], device)
    mp.update_delayed_scales_(histories, quant, dequant, ended(device), [E4M3.max], backend=backend)
    assert_matches(histories[0], torch.cat((torch.zeros(1), values[:-1])))
    assert_matches(quant[0], (448 / values.max().double()).float())


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_more_histories_than_one_launch_takes(backend, device, flag):
    rows = [[float(i + 1), 1.0] for i in range(205)]
    histories, quant, dequant = state(rows, device)
    step_ended = ended(device, flag)
    mp.update_delayed_scales_(histories, quant, dequant, step_ended, [E4M3.max] * len(rows), backend=backend)
    assert step_ended == 0
    for i, (history, quant_scale) in enumerate(zip(histories, quant, strict=True)):
        assert history.tolist() == ([0.0, i + 1.0] if flag else [i + 1.0, 1.0])
        assert_matches(quant_scale, torch.tensor(448 / (i + 1) if flag else 3.0).float())


def test_no_histories(backend, device):
    flag = ended(device)
    mp.update_delayed_scales_([], [], [], flag, [], backend=backend)
    assert flag == 0


finite = st.floats(0, 2.0**100, width=32)
newest = st.one_of(finite, st.sampled_from([INF, NAN]))


@given(
    rows=st.lists(st.tuples(newest, st.lists(finite, max_size=5)), max_size=4),
    margin=st.integers(-24, 24),
    power_of_two=st.booleans(),
    most_recent=st.booleans(),
    flag=st.sampled_from([0.0, 1.0]),
)
def test_backends_agree(rows, margin, power_of_two, most_recent, flag):
    results = []
    for backend in ("cpu", "reference"):
        histories, quant, dequant = state([[first, *rest] for first, rest in rows])
        maxima = [(E4M3.max, E5M2.max)[i % 2] for i in range(len(rows))]
        options = {"margin": margin, "power_of_two": power_of_two, "most_recent": most_recent}
        mp.update_delayed_scales_(histories, quant, dequant, ended(value=flag), maxima, **options, backend=backend)
        results.append([*histories, *quant, *dequant])
    for ours, reference in zip(*results, strict=True):
        assert_matches(ours, reference)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"quant_scales": []}, ValueError, r"quant_scales must have one entry per history \(1\), got 0"),
        ({"fp8_maxima": [448.0, 448.0]}, ValueError, r"fp8_maxima must have one entry per history \(1\), got 2"),
        ({"fp8_maxima": [240.0]}, ValueError, r"fp8_maxima\[0\] must be 448 \(E4M3\) or 57344 \(E5M2\), got 240"),
        ({"amax_histories": [torch.ones(2, 2)]}, ValueError, r"amax_histories\[0\] must be .* of shape \(2, 2\)"),
        ({"amax_histories": [torch.ones(0)]}, ValueError, r"amax_histories\[0\] must be .* of shape \(0,\)"),
        ({"amax_histories": [torch.ones(2).bfloat16()]}, ValueError, r"amax_histories\[0\] must be .* got torch.bfloat16"),
        ({"dequant_scales": [torch.ones(1)]}, TypeError, r"dequant_scales\[0\] must be a float32 tensor of shape \(\)"),
        ({"step_ended": torch.ones((), dtype=torch.int32)}, TypeError, "step_ended must be a float32 tensor"),
        ({"margin": 25}, ValueError, "margin must be .* got 25"),
    ],
)
def test_refusals_write_nothing(change, error, message):
    histories, quant, dequant = state([[7.0, 2.0]])
    arguments = {"amax_histories": histories, "quant_scales": quant, "dequant_scales": dequant}
    arguments |= {"step_ended": ended(), "fp8_maxima": [448.0]} | change
    with pytest.raises(error, match=message):
        mp.update_delayed_scales_(**arguments)
    assert histories[0].tolist() == [7.0, 2.0]
    assert quant[0] == 3.0


def test_compiles_to_one_graph():
    def run(history, quant_scale, dequant_scale, flag):
        mp.update_delayed_scales_([history], [quant_scale], [dequant_scale], flag, [448.0])
        return quant_scale * 2

    histories, quant, dequant = state([[7.0, 2.0]])
    out = torch.compile(run, fullgraph=True, backend="aot_eager")(histories[0], quant[0], dequant[0], ended())
    assert (out.item(), quant[0].item(), histories[0].tolist()) == (128.0, 64.0, [0.0, 7.0])
