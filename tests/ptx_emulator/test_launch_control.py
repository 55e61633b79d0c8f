"""clusterlaunchcontrol: work is done once, by whoever takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .api import EVERY_POLICY, KernelFault, Result
from .testing import run_text

every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
# A persistent kernel: counts how often each CTA of the grid (x, y) was worked on, y[cta] += 1, and takes over others until
# there are none.
BODY = """.reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<6>; .reg .b128 %answer; .shared .align 8 .b8 bar[8];
.shared .align 16 .b8 response[16]; mov.u32 %r0, %tid.x; mov.u32 %r1, bar; mov.u32 %r2, response; setp.eq.u32 %p0, %r0, 0;
ld.param.u64 %rd0, [y]; mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ctaid.y; mov.u32 %r5, %nctaid.x; mov.u32 %r6, 0;
@%p0 mbarrier.init.shared::cta.b64 [%r1], 1; @%p0 fence.mbarrier_init.release.cluster; bar.sync 0;
NEXT: @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 16;
@%p0 clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%r2], [%r1];
mad.lo.u32 %r7, %r4, %r5, %r3; mul.wide.u32 %rd1, %r7, 4; add.s64 %rd1, %rd0, %rd1; @%p0 red.global.add.u32 [%rd1], 1;
W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], %r6; @!%p2 bra W; xor.b32 %r6, %r6, 1;
ld.shared.b128 %answer, [%r2]; bar.sync 0; clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p3, %answer;
@!%p3 bra END; clusterlaunchcontrol.query_cancel.get_first_ctaid.v4.b32.b128 {%r3, %r8, _, _}, %answer;
clusterlaunchcontrol.query_cancel.get_first_ctaid::y.b32.b128 %r4, %answer; bra NEXT; END: ret;"""


def run(body: str = BODY, **how: Any) -> tuple[np.ndarray, Result]:
    y = np.zeros((3, 5), np.uint32)
    return y, run_text(body, ".param .u64 y", [y], block=64, grid=(5, 3), target="sm_100a", **how)


@every_policy
@pytest.mark.parametrize("resident", [1, 4, 15])
def test_every_cta_is_worked_on_once(resident, policy):
    y, result = run(resident=resident, policy=policy)
    assert (y == 1).all()
    launched = result.counters.mix()["mbarrier.init.shared::cta.b64"]
    assert launched == 2 * resident  # by two warps each; the other CTAs were taken over


def test_asking_whom_after_a_failure():
    with pytest.raises(KernelFault, match="the response says that none was taken"):
        run(BODY.replace("@!%p3 bra END;", "").replace("bra NEXT;", ""), resident=15)
