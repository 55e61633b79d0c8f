"""The real launch path on a stub driver. Run by test_triton_launch.py, once for each architecture (TRITON_ARCH)."""

from __future__ import annotations

import os

import assembled_triton
import pytest
import stub_driver
import torch
from triton.runtime.errors import OutOfResources

import mpkernels as mp
from mpkernels import triton_launch, triton_tables
from mpkernels.ops.adamw_update import triton as adamw_update
from mpkernels.ops.amax import triton as amax
from mpkernels.ops.scaled_mm import triton as scaled_mm
from mpkernels.ops.unscale_and_check import triton as unscale_and_check

ARCH = int(os.environ["TRITON_ARCH"])
NOTED = stub_driver.install(ARCH)
ONE = torch.ones(())
HYPER = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


@pytest.fixture(autouse=True)
def _nothing_noted():
    NOTED.clear()


def compiled(kernel) -> int:
    """How many variants Triton has compiled of a kernel."""
    return len(kernel.device_caches[0][0])


def adamw(sizes, **hyper):
    lists = [[torch.zeros(n) for n in sizes] for _ in range(3)]
    steps = [torch.zeros(()) for _ in sizes]
    low = [[torch.zeros(n, dtype=torch.bfloat16) for n in sizes] for _ in range(2)]
    mp.adamw_update_(*lists, steps, *low, **{**HYPER, **hyper}, backend="triton")


@pytest.mark.parametrize(
    "calls", [assembled_triton.tensor_calls, assembled_triton.multi_tensor_calls, assembled_triton.product_calls]
)
def test_every_launch_fits_the_device_and_is_the_recorded_one(calls):
    """Triton's driver raises OutOfResources where shared memory is too small."""
    for call in calls().values():
        recorder = assembled_triton.Recorder(triton_launch._launcher.target(torch.device("cpu")))
        with triton_launch.using(recorder):
            call()
        for again in range(2):  # the second time from the launcher's own cache
            NOTED.clear()
            call()
            assert [(n.kernel, n.grid) for n in NOTED] == [(e.kernel.__name__, e.grid) for e in recorder.launches], again
            for noted, each in zip(NOTED, recorder.launches, strict=True):
                assert len(noted.args) == len(each.args) + len(each.constants)
                for got, recorded in zip(noted.args, [*each.args, *each.constants.values()], strict=True):
                    assert type(got) is type(recorded)
                    assert isinstance(got, torch.Tensor) or hasattr(got, "block_shape") or got == recorded


def test_too_much_shared_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(
        scaled_mm, "config_for", lambda *_: scaled_mm.Config(128, 256, 128, 8, 6, "plain" if ARCH >= 89 else "decode")
    )
    codes = torch.zeros(256, 1024, dtype=torch.uint8).view(torch.float8_e4m3fn)
    with pytest.raises(OutOfResources, match="shared memory"):
        mp.scaled_mm(codes, codes, ONE, ONE, backend="triton")


def test_sizes_make_few_variants():
    before = compiled(amax.amax_kernel)
    for n in (1, 2, 15, 16, 17, 4096, 4097, 100_000, 1 << 20):
        mp.amax(torch.zeros(n), backend="triton")
    assert compiled(amax.amax_kernel) <= before + 3  # n is 1, a multiple of 16, or neither


def test_no_learning_rate_count_or_length_of_list_makes_a_variant():
    adamw([100])
    before = compiled(adamw_update.adamw_kernel), compiled(adamw_update.factors_kernel)
    for i in range(12):
        adamw([100 + 7 * j for j in range(i + 1)], lr=0.1 / (i + 1), weight_decay=0.01 * i)
    adamw([100], lr=0.0, eps=1e-6, beta1=0.95, beta2=0.999)
    assert (compiled(adamw_update.adamw_kernel), compiled(adamw_update.factors_kernel)) == before


def test_lists_of_gradients_make_one_variant_a_dtype():
    mp.unscale_and_check_([torch.zeros(100)], ONE, torch.zeros(()), backend="triton")
    before = compiled(unscale_and_check.unscale_kernel)
    for count in range(1, 14):
        mp.unscale_and_check_([torch.zeros(50 * (j + 1)) for j in range(count)], ONE, torch.zeros(()), backend="triton")
    assert compiled(unscale_and_check.unscale_kernel) == before


def test_the_same_lists_find_their_table():
    grads = [torch.zeros(100), torch.zeros(3)]
    tables = []
    for _ in range(3):
        mp.unscale_and_check_(grads, ONE, torch.zeros(()), backend="triton")
        tables.append(NOTED[-1].args[0].data_ptr())
    assert len(set(tables)) == 1
    mp.unscale_and_check_([*grads, torch.zeros(5)], ONE, torch.zeros(()), backend="triton")
    assert NOTED[-1].args[0].data_ptr() not in tables


def test_few_tables_are_kept_and_those_of_captured_graphs_for_good(monkeypatch):
    kept = [[torch.zeros(3)] for _ in range(triton_tables.TABLES_KEPT + 10)]
    for grads in kept:
        mp.unscale_and_check_(grads, ONE, torch.zeros(()), backend="triton")
    assert len(triton_tables._tables) == triton_tables.TABLES_KEPT
    monkeypatch.setattr(triton_tables, "capturing", lambda device: True)
    for grads in kept:
        mp.unscale_and_check_([*grads, torch.zeros(4)], ONE, torch.zeros(()), backend="triton")
    assert len(triton_tables._captured) == len(kept)
    assert len(triton_tables._tables) == triton_tables.TABLES_KEPT
