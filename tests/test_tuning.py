"""mpkernels.tune: what it measures (with a clock of the test's), keeps and refuses; what a launch then takes."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

import mpkernels as mp
from mpkernels import triton_launch, tuning
from mpkernels.triton_launch import Launch, Target

ONE = torch.ones(())


class Noting:
    """A launcher that notes the rows of a tile and the stages of each launch. Six stages do not fit."""

    def __init__(self, name: str = "a GPU") -> None:
        self.name, self.seen = name, []

    def why_not(self, device: torch.device) -> None:
        return None

    def target(self, device: torch.device) -> Target:
        return Target("cuda", 90, 132, self.name)

    def launch(self, launch: Launch) -> None:
        self.seen.append((launch.constants["BLOCK_M"], launch.options["num_stages"]))
        if launch.options["num_stages"] == 5:
            raise OutOfResources(2, 1, "shared memory")


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MPKERNELS_CACHE_DIR", str(tmp_path))
    tuning.kept.cache_clear()
    yield tmp_path
    tuning.kept.cache_clear()


@pytest.fixture
def launcher(monkeypatch):
    """Takes as long as a tile has rows, and a bit more the more stages there are."""
    noting = Noting()

    def clock(call, device):
        call()
        rows, stages = noting.seen[-1]
        return 10.0 * rows + stages

    monkeypatch.setattr(tuning, "microseconds", clock)
    with triton_launch.using(noting):
        yield noting


def codes(rows: int, K: int = 256) -> torch.Tensor:
    return torch.zeros(rows, K, dtype=torch.uint8).view(torch.float8_e4m3fn)


def launched(launcher: Noting, M: int, N: int = 512, K: int = 256) -> tuple[int, int]:
    mp.scaled_mm(codes(M, K), codes(N, K), ONE, ONE, backend="triton")
    return launcher.seen[-1]


def test_the_fastest_that_fits_is_taken_by_calls_of_the_class_and_by_no_other(launcher):
    assert launched(launcher, 512) == (128, 4)
    found = mp.tune("scaled_mm", codes(512), codes(512), ONE, ONE)
    assert list(found.values()) == [644.0, 1283.0, 1284.0]  # 64 rows with 5 stages do not fit
    assert "block_m=64" in next(iter(found))
    assert launched(launcher, 512) == launched(launcher, 257, 300, 200) == (64, 4)
    assert launched(launcher, 513) == launched(launcher, 256) == launched(launcher, 512, K=512) == (128, 4)
    launcher.name = "another GPU"
    assert launched(launcher, 512) == (128, 4)


def test_another_process_finds_it_and_adds_its_own(launcher, own_file):
    mp.tune("scaled_mm", codes(512), codes(512), ONE, ONE)
    tuning.kept.cache_clear()
    assert launched(launcher, 512) == (64, 4)
    mp.tune("scaled_mm", codes(2048), codes(512), ONE, ONE)
    (file,) = own_file.iterdir()
    assert [key[:3] for key, _ in json.loads(file.read_text())] == [["a GPU", "scaled_mm", 9], ["a GPU", "scaled_mm", 11]]


def test_out_is_left_alone(launcher):
    out = torch.ones(512, 512)
    version = out._version
    mp.tune("scaled_mm_out", codes(512), codes(512), ONE, ONE, None, out, True)
    assert out._version == version


def test_a_failure_leaves_nothing_behind(launcher, own_file, monkeypatch):
    def broken(call, device):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(tuning, "microseconds", broken)
    with pytest.raises(RuntimeError, match="gone"):
        mp.tune("scaled_mm", codes(512), codes(512), ONE, ONE)
    assert not tuning.trying
    assert not list(own_file.iterdir())
    assert launched(launcher, 512) == (128, 4)


def test_refusals(launcher):
    with pytest.raises(ValueError, match="op must be one of"):
        mp.tune("matmul")
    with pytest.raises(ValueError, match="amax has one configuration: there is nothing to tune"):
        mp.tune("amax", torch.ones(3))
    with pytest.raises(ValueError, match="nothing to multiply"):
        mp.tune("scaled_mm", codes(512, 0), codes(512, 0), ONE, ONE)


def test_without_a_gpu():
    with pytest.raises(mp.BackendUnavailable, match="tune: scaled_mm: the data is on cpu, not on a GPU"):
        mp.tune("scaled_mm", codes(512), codes(512), ONE, ONE)
