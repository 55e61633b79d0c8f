"""The model in docs/gpu-evidence.md: it is that of today's plans, and no plan claims to be faster."""

from __future__ import annotations

import emulated
import gpu_evidence
import pytest
import roofline
from roofline import GPUS, Plan, Product, Roofline, rooflines

if (WHY_NOT := emulated.why_not()) is not None:
    pytest.skip(WHY_NOT, allow_module_level=True)
each_gpu = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)


def test_the_page_has_it():
    assert "\n".join(roofline.section()) in gpu_evidence.PAGE.read_text(), "run `make gpu-evidence`"


@each_gpu
def test_tiles_cover_the_product_and_do_no_more_than_round_up(gpu):
    for found in rooflines(gpu):
        p, plan = found.product, found.plan
        (rows, columns), tiles = plan.tile, plan.tiles // plan.splits
        assert tiles * rows * columns >= p.M * p.N
        assert found.compute >= found.needed
        assert 0 < found.share <= 1


def test_hoppers_plan_expects_no_more_than_the_roofline():
    for found in rooflines(GPUS[0]):
        assert found.plan.cycles >= max(found.compute, found.memory), found.product


def test_a_roofline_by_hand():
    """2 x 3 tiles of 256 x 128, each split in 2: 12 for 132 SMs, 32 blocks of 1024 cycles; 16 MB at 1830.6 bytes a cycle."""
    plan = Plan.parse("256x128, 2 x 3 in clusters of 1, K in 2, grid 12, 1 round; model: 40000 cycles, tensor cores 5 %")
    found = Roofline(GPUS[0], Product("by hand", 500, 380, 8192), plan)
    assert (plan.tiles, plan.incoming, found.multiply, found.promote, found.rounds) == (12, 384 * 128, 1024, 256, 1)
    assert found.compute == 32 * 1024
    assert found.memory == pytest.approx((880 * 8192 + 500 * 380 * 2) / 1830.6, rel=1e-3)
    assert found.limit == "tensor cores"
    plan = Plan.parse("128x256_fast, 2 x 3 in clusters of 2, K in 1, grid 12, 1 round; model: 40000 cycles, tensor cores 5 %")
    assert (plan.tiles, plan.incoming) == (12, (128 + 256 - 128) * 128)
    words = (
        "sm89, tiles of 16 x 64 x 128, 4 stages, sums promoted to FP32 every 128 of K, 2 x 1 tiles on 128 SMs; model: 9 cycles"
    )
    assert Plan.parse(words) == Plan("16x64", (16, 64), 2, 1, 80 * 128, 9)
