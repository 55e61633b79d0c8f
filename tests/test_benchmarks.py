"""How times are taken, what is measured and what is refused; and every case for a GPU, built and called on fake tensors."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import check, figures, gate, machine, peers, results, run, shapes, tables, timing
from benchmarks.cases import Case, Setup
from benchmarks.shapes import Shape
from benchmarks.timing import Timing
from mpkernels.dispatch import BackendUnavailable

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


class Clock:
    """Stands in for time.perf_counter; calls advance it."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self, name, *durations):
        """A call that takes these times in turn, the last one from then on."""
        left = list(durations)

        def call():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


# How times are taken


def test_variants_take_turns(clock):
    timing.interleaved({"a": clock.call("a", 1.0), "b": clock.call("b", 2.0)}, timing.OnCpu(), rounds=6, seconds=1e9)
    assert (
        "".join(clock.log) == "aabb" + "ab" * 6
    )  # each called twice beforehand: once for nothing, once to see how long it takes


def test_a_short_call_is_repeated_for_two_milliseconds(clock):
    found = timing.interleaved({"a": clock.call("a", 1e-5)}, timing.OnCpu(), rounds=5)
    assert len(clock.log) in (2 + 5 * 199, 2 + 5 * 200)
    assert found["a"].median == pytest.approx(1e-5)


def test_rounds_end_with_the_time_but_not_before_the_fifth(clock):
    assert len(timing.interleaved({"a": clock.call("a", 1.0)}, timing.OnCpu(), seconds=7.5)["a"].samples) == 8
    assert len(timing.interleaved({"a": clock.call("a", 1.0)}, timing.OnCpu(), seconds=0.0)["a"].samples) == 5


def test_percentiles_and_ratios_within_rounds():
    ours, peer = (1.0, 2.0, 4.0, 1.0, 1.0), (2.0, 4.0, 8.0, 2.0, 30.0)
    assert (Timing(peer).median, Timing(peer).p20, Timing(peer).p80) == (4.0, 2.0, 8.0)
    ratio = timing.ratios(peer, ours)
    assert (ratio.median, ratio.p20, ratio.p80) == (2.0, 2.0, 2.0)  # the medians' ratio would be 4


class FakeCuda:
    """The parts of torch.cuda that timing.py uses; a log of what would be queued on the device."""

    def __init__(self, monkeypatch, clock, *, captures):
        self.log, self.clock, self.captures = [], clock, captures
        properties = SimpleNamespace(L2_cache_size=1 << 20)
        stand_ins = {
            "get_device_properties": lambda device: properties,
            "Event": lambda enable_timing: self.event(),
            "Stream": MagicMock,
            "stream": lambda s: contextlib.nullcontext(),
            "current_stream": MagicMock(),
            "synchronize": lambda: None,
            "set_stream": lambda stream: self.log.append("stream restored"),
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.queue("replay")),
            "graph": self.capture,
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        summed = torch.sum
        monkeypatch.setattr(torch, "sum", lambda *args, **kwargs: (self.queue("flush"), summed(*args, **kwargs))[1])

    def queue(self, what):
        self.log.append(what)
        self.clock.now += 0.003

    def event(self):
        def record():
            event.at = self.clock.now
            self.log.append("event")

        event = SimpleNamespace(record=record, synchronize=lambda: None, elapsed_time=lambda other: (other.at - event.at) * 1e3)
        return event

    @contextlib.contextmanager
    def capture(self, graph):
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield


@pytest.mark.parametrize(("captures", "method", "queued"), [(True, "graph", "replay"), (False, "eager", "call")])
def test_a_gpu_sample_is_one_launch_with_a_cold_cache(monkeypatch, clock, captures, method, queued):
    cuda = FakeCuda(monkeypatch, clock, captures=captures)
    sampling = timing.OnCuda(CPU)
    assert sampling.larger_than_l2.nbytes >= 4 << 20
    take, how = sampling.sampler(lambda: cuda.queue("call"))
    assert ("stream restored" in cuda.log) == (not captures)
    cuda.log.clear()
    assert take() == pytest.approx(0.003)
    assert (how, cuda.log) == (method, ["flush", "event", queued, "event"])


# What is measured, and what is refused


class CountingSampling:
    """Calls each variant once and takes no time."""

    def sampler(self, call):
        call()
        return lambda: 1.0, "calls"


def fake_packages(monkeypatch, **modules):
    for name, content in modules.items():
        path = name.replace("__", ".")
        parts = path.split(".")
        for i in range(1, len(parts) + 1):
            parent = ".".join(parts[:i])
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or ModuleType(parent))
        for key, value in content.items():
            setattr(sys.modules[path], key, value)
    for path in list(modules):  # `import a.b as c` takes the attribute
        *parents, last = path.split("__")
        if parents:
            setattr(sys.modules[".".join(parents)], last, sys.modules[path.replace("__", ".")])


def test_torchao_and_transformer_engine_are_used_where_they_are(monkeypatch):
    x, grad = torch.randn(16, 32, dtype=torch.bfloat16), torch.randn(16, 8, dtype=torch.bfloat16)
    converted, autocast, recipe = [], [], MagicMock()

    def te_linear(k, n, params_dtype, device):
        return torch.nn.Linear(k, n, dtype=params_dtype, device=device)

    def fp8_autocast(**how):
        autocast.append(how)
        return contextlib.nullcontext()

    fake_packages(
        monkeypatch,
        torchao__float8={"convert_to_float8_training": lambda layer: converted.append(layer) or layer},
        transformer_engine__pytorch={"Linear": te_linear, "fp8_autocast": fp8_autocast},
        transformer_engine__common={"recipe": SimpleNamespace(DelayedScaling=lambda: recipe)},
    )
    peers.torchao_float8(32, 8, x, grad)()
    assert converted[0][0].weight.grad.shape == (8, 32)
    peers.transformer_engine_linear(32, 8, x, grad, run.importlib.import_module("mpkernels").DelayedScaling())()
    assert autocast == [{"enabled": True, "fp8_recipe": recipe}]


@pytest.mark.parametrize(
    ("make", "module", "name"),
    [
        (peers.apex_fused_adam, "apex__optimizers", "FusedAdam"),
        (peers.transformer_engine_fused_adam, "transformer_engine__pytorch__optimizers", "FusedAdam"),
        (peers.deepspeed_cpu_adam, "deepspeed__ops__adam", "DeepSpeedCPUAdam"),
    ],
)
def test_peers_optimizers_are_used_where_they_are(monkeypatch, make, module, name):
    optimizer = MagicMock()
    fake_packages(monkeypatch, **{module: {name: optimizer}})
    make(["a parameter"])()
    assert optimizer.call_args.args == (["a parameter"],)
    assert optimizer().step.called


def test_a_missing_or_refusing_peer_is_named_with_its_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)

    def refuses():
        raise ValueError("only sm_89 and later\nand a long story")

    makers = {
        "torchao": lambda: peers.torchao_float8(1, 1, torch.ones(1), None),
        "refuses": lambda: refuses,
        "works": lambda: list,
    }
    found, missing = run.working(makers)
    assert list(found) == ["works"]
    assert missing["refuses"] == "ValueError: only sm_89 and later"
    assert missing["torchao"].startswith("ModuleNotFoundError: ")


def a_case(**changes):
    def ours(backend):
        if backend == "cuda":
            raise BackendUnavailable("mpkernels.foo: backend 'cuda': x is on cpu")

    def broken():
        raise RuntimeError("no such kernel")

    told = {"peers": {"torch": lambda: None, "broken": broken}, "more_peers": {"other": lambda: lambda: None}}
    return Case(
        "a case", Shape("square", (2, 2)), ours, **(told | {"bars": {"torch": 2.0}, "bytes_moved": 80, "flops": 800} | changes)
    )


def rows_of(monkeypatch, case, samples, **options):
    """Rows of a case where the variants take these times."""
    given = lambda variants, *_, **__: {name: Timing(samples.get(name, (1.0,) * 5)) for name in variants}  # noqa: E731
    monkeypatch.setattr(timing, "interleaved", given)
    ceilings = SimpleNamespace(stream=lambda size: None, matmul=None, matmul_flops=8000)
    return run.rows_of("foo", case, ceilings, run.Options(Setup(CPU), **options), ["cuda", "cpu"])


def test_a_row_has_times_ratios_ceiling_bars_and_what_is_missing(monkeypatch):
    samples = {"ours cpu": (4.0,) * 5, "peer torch": (4.0,) * 5, run.STREAM: (2.0,) * 5, run.MATMUL: (30.0,) * 5}
    (row,) = rows_of(monkeypatch, a_case(), samples)
    assert (row["backend"], row["median_s"], row["bytes"], row["flops"]) == ("cpu", 4.0, 80, 800)
    assert row["of_ceiling"] == pytest.approx(3.0 / 4.0)  # 800 flops of 8000 in 30 s; the bytes need 2 s
    assert (row["memory_bytes_per_s"], row["matmul_flops_per_s"]) == (40.0, pytest.approx(8000 / 30))
    assert [(peer["name"], peer["ratio"]) for peer in row["peers"]] == [("torch", 1.0)]
    assert row["missing"]["broken"] == "RuntimeError: no such kernel"
    assert "x is on cpu" in row["missing"]["cuda"]
    assert [(bar["against"], bar["met"]) for bar in row["bars"]] == [("torch", False)]
    text = "\n".join(run.lines_of(row))
    assert "75.0% of the ceiling" in text
    assert "bar >= 2x MISSED: 1x  torch" in text
    json.dumps(row)


def test_other_peers_are_asked_for(monkeypatch):
    (row,) = rows_of(monkeypatch, a_case(), {}, peers=True)
    assert [peer["name"] for peer in row["peers"]] == ["torch", "other"]


def test_a_most_time_is_a_bar_too(monkeypatch):
    (row,) = rows_of(monkeypatch, a_case(bars={}, at_most_us=60), {"ours cpu": (59e-6,) * 5})
    assert [(bar["most"], bar["met"]) for bar in row["bars"]] == [(60, True)]


def test_an_op_and_its_results_end_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(timing, "on", lambda device: CountingSampling())
    for _ in range(2):  # the second run replaces the rows of the first
        assert (
            run.main(["--op", "update_loss_scale,compute_scale", "--device", "cpu", "--no-tests", "--json", str(tmp_path)]) == 0
        )
    out = capsys.readouterr().out
    assert "the tests were NOT run" in out
    facts, rows = results.load(tmp_path / "cpu.jsonl")
    assert (facts["device"], facts["torch"]) == ("cpu", torch.__version__)
    assert [(row["op"], row["backend"], row["tests"]) for row in rows] == [
        ("update_loss_scale", "cpu", "not run"),
        ("compute_scale", "cpu", "not run"),
    ]
    assert re.fullmatch(r"[0-9a-f]{10}|", rows[0]["commit"])


def test_rows_of_another_machine_are_dropped(tmp_path):
    row = {"op": "a", "case": "b", "backend": "cpu"}
    results.store(tmp_path / "x.jsonl", {"name": "one"}, [row])
    results.store(tmp_path / "x.jsonl", {"name": "one"}, [row | {"case": "c"}])
    assert len(results.load(tmp_path / "x.jsonl")[1]) == 2
    results.store(tmp_path / "x.jsonl", {"name": "two"}, [row])
    assert results.load(tmp_path / "x.jsonl") == ({"name": "two"}, [row])


def test_all_backends_are_asked_and_the_refusals_printed():
    able, refused = run.usable("amax", run.Options(Setup(CPU), ("cuda", "cpu", "reference")))
    assert able == ["cpu", "reference"]
    assert refused == {"cuda": "x is on cpu, not on a CUDA device"}
    assert run.usable("amax", run.Options(Setup(CPU))) == (["cpu"], {})
    assert run.usable("fp8_linear", run.Options(Setup(CPU))) == ([run.WHOLE], {})


def test_red_tests_stop_the_measurement(monkeypatch):
    monkeypatch.setattr(gate, "red", lambda name, backends: "1 failed")
    monkeypatch.setattr(run, "rows_of", lambda *_: pytest.fail("measured"))
    said = []
    assert run.run("amax", run.Options(Setup(CPU)), said.append) is None
    assert said == ["amax is not measured: its tests are not green\n1 failed"]


@pytest.mark.parametrize("code", [0, 1, 5])  # pytest's 5: no tests collected
def test_only_green_is_green(monkeypatch, code):
    monkeypatch.setattr(gate.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code, stdout="the end", stderr=""))
    assert gate.red("amax", ["cpu"]) == (None if code == 0 else "the end")


@pytest.mark.parametrize("name", run.FILES)
def test_what_is_measured_has_tests(name):
    (file,) = (part for part in gate.command(name, ["cuda", "triton"]) if part.startswith("tests/"))
    assert (ROOT / file).is_file()


@pytest.mark.parametrize(("cores", "workers"), [(2, []), (16, ["-n", "8"]), (4, ["-n", "2"])])
def test_tests_run_in_parallel_where_there_are_cores(monkeypatch, cores, workers):
    pytest.importorskip("xdist")
    monkeypatch.setattr(gate.os, "cpu_count", lambda: cores)
    command = gate.command("amax", ["cuda"])
    assert [part for part in command if part == "-n" or part.isdigit()] == workers


def test_time_that_is_up_ends_a_run(monkeypatch):
    said = []
    assert run.run("amax", run.Options(Setup(CPU), tests=False, end=-1.0), said.append) == []
    assert said == ["amax: the time is up, the rest is not measured"]


def test_rows_before_memory_ran_out_are_kept(monkeypatch):
    def cases(name, setup):
        yield a_case()
        raise torch.OutOfMemoryError("Tried to allocate 6 GiB\nand more")

    said = []
    monkeypatch.setattr(run, "cases_of", cases)
    monkeypatch.setattr(timing, "on", lambda device: CountingSampling())
    rows = run.run("amax", run.Options(Setup(CPU), tests=False), said.append)
    assert [row["case"] for row in rows] == ["a case"]
    assert said[-1] == "amax: the rest is not measured: Tried to allocate 6 GiB"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "foo"], "--op must be of fp8_linear, .*got 'foo'"),
        (["--shapes", "llama,foo"], "--shapes must be of tiny, .*got 'foo'"),
        (["--backend", "foo"], "--backend must be of cuda, .*got 'foo'"),
    ],
)
def test_unknown_names_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


# For a GPU


def target_of_the_makefile(target):
    recipe = re.search(rf"^{target}:.*\n\t\$\(PYTHON\) -m benchmarks\.(\w+) (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return recipe[1], shlex.split(recipe[2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bench_gpu_says_so_where_there_is_no_gpu(capsys):
    module, arguments = target_of_the_makefile("bench-gpu")
    assert module == "run"
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert "there is no CUDA device here" in capsys.readouterr().err


FACTS = {"device": "cuda", "name": "NVIDIA Fake 9000", "architecture": "sm_90", "cuda": "13.0", "torch": "2", "driver": "1"}


class FakeGpu:
    """Where a case's tensors say that they are on a GPU, and nothing is computed."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(machine, "default_device", lambda: "cuda")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(torch.Tensor, "backward", lambda self, grad: None)  # the engine asks for the driver
        monkeypatch.setattr(torch, "compile", lambda call, **_: call)
        monkeypatch.setattr(timing, "on", lambda device: CountingSampling())
        monkeypatch.setattr(machine, "facts", lambda device: FACTS)
        monkeypatch.setattr(machine, "clock_mhz", lambda device: 1980.0)
        monkeypatch.setattr(run, "usable", lambda name, options: (self.backends(name, options), {}))
        monkeypatch.setattr(gate, "red", lambda name, backends: None)
        for package in ("torchao", "transformer_engine", "apex", "deepspeed"):
            monkeypatch.setitem(sys.modules, package, None)

    @staticmethod
    def backends(name, options):
        return [run.WHOLE] if run.op_of(name) is None else list(options.backends)


@pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler is enabled, but CUDA is not available")
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_bench_gpu_works_up_to_the_device(monkeypatch, tmp_path):
    """Every case is built and called, ours and each peer of torch's, and the tables and pictures of the results are made."""
    FakeGpu(monkeypatch)
    _, arguments = target_of_the_makefile("bench-gpu")
    with FakeTensorMode():
        assert run.main([*arguments[:-1], str(tmp_path)]) == 0
    facts, rows = results.load(tmp_path / "gpu-nvidia-fake-9000.jsonl")
    assert facts == FACTS
    assert {row["op"] for row in rows} == set(run.FILES)
    assert {row["family"] for row in rows} == set(shapes.FAMILIES)
    missing = {(row["op"], name): why for row in rows for name, why in row["missing"].items()}
    assert missing.pop(("sgd_update", "torch SGD(fused=True), FP32 only"))  # has no fake in torch
    assert len(missing) == 5
    assert all(why.startswith("ModuleNotFoundError") for why in missing.values()), missing
    assert len({results.key(row) for row in rows}) == len(rows)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert "NVIDIA Fake 9000 (sm_90, CUDA 13.0)" in tables.gpus()
    assert "llama" in {row["family"] for row in rows}
    assert "| scaled_mm 8192 x 28672 x 4096 Llama-3 8B up, forward" in tables.measurements()
    assert [name for name, _ in figures.pictures()] == [f"gpu-nvidia-fake-9000-{kind}.svg" for kind in figures.KINDS]


def test_a_gpus_cases_fit_into_its_ten_minutes():
    """At half a second each: cases are many more than anything else."""
    _, arguments = target_of_the_makefile("bench-gpu")
    told = dict(zip(arguments[::2], arguments[1::2], strict=False))
    count = len(list(shapes.products("cuda"))) + 3 * len(list(shapes.matrices("cuda"))) + 100
    assert count * 0.5 < 60 * 5
    assert float(arguments[arguments.index("--minutes") + 1]) < 10
    assert told["--device"] == "cuda"


# Shapes


def test_a_layer_is_three_products_of_the_same_flops():
    found = [shape for shape in shapes.products("cuda") if shape.layer == "Llama-3 8B up"]
    assert [shape.direction for shape in found] == ["forward", "dgrad", "wgrad"]
    assert [shape.size for shape in found] == [(8192, 28672, 4096), (8192, 4096, 28672), (28672, 4096, 8192)]


def test_parameter_lists_are_those_of_the_models():
    """GPT-2 without the biases of its linear layers and norms. Llama 3 8B has 32 blocks, two embeddings and a norm."""
    found = {shape.family: shape.size[0] for shape, _ in shapes.lists("cuda")}
    biases = 12 * (2304 + 768 + 3072 + 768) + 25 * 768 + 768
    assert found["gpt2"] == 124_439_808 - biases
    assert found["llama"] * 32 + 2 * 128_256 * 4096 + 4096 == 8_030_261_248


# Comparison with what is stored


def stored_row(ratio, spread=0.01, **changes):
    peer = {"name": "torch", "ratio": ratio, "ratio_p20": ratio * (1 - spread), "ratio_p80": ratio * (1 + spread)}
    return {"op": "amax", "case": "a", "backend": "cpu", "family": "square", "median_s": 1.0, "peers": [peer]} | changes


@pytest.mark.parametrize(
    ("fresh", "is_slower"),
    [
        (stored_row(2.0), False),
        (stored_row(3.0), False),
        (stored_row(1.5), True),
        (stored_row(1.5, spread=0.4), False),  # the ranges overlap
        (stored_row(1.75), False),  # less than the margin
        (stored_row(1.0, case="another"), False),
        (stored_row(1.0, peers=[]), False),
    ],
)
def test_slower_is_beyond_the_noise(fresh, is_slower):
    found = check.compare([stored_row(2.0)], [fresh])
    assert bool(found) == is_slower
    if is_slower:
        assert found == {("amax", "a", "cpu"): ["amax a [cpu]: 2.00x -> 1.50x torch"]}


@pytest.mark.parametrize(("again", "code"), [(1.5, 1), (2.0, 0)])
def test_what_seems_slower_is_measured_again(monkeypatch, tmp_path, capsys, again, code):
    file = tmp_path / "cpu.jsonl"
    results.store(file, machine.facts(CPU), [stored_row(2.0), stored_row(2.0, case="b")])
    runs = iter([[stored_row(1.5), stored_row(2.0, case="b")], [stored_row(again)]])
    asked = []
    monkeypatch.setattr(check, "run", lambda name, options: asked.append((name, options)) or next(runs))
    monkeypatch.setattr(machine, "default_device", lambda: "cpu")
    assert check.main([str(file)]) == code
    assert [set(options.only) for _, options in asked] == [{("amax", "a", "cpu"), ("amax", "b", "cpu")}, {("amax", "a", "cpu")}]
    assert ("1.50x torch" in capsys.readouterr().out) == bool(code)


def test_no_stored_results_are_said_to_be_missing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        check.main([str(tmp_path / "gpu-none.jsonl")])
    assert "there are no stored results" in capsys.readouterr().err


# Tables and pictures. That those in the pages are of the stored results: test_docs.py


def test_pictures_are_those_of_the_stored_results():
    matplotlib = pytest.importorskip("matplotlib")
    drawn = dict(figures.pictures())
    assert drawn
    for name, svg in drawn.items():
        stored = (figures.FOLDER / name).read_text()
        if f"Matplotlib v{matplotlib.__version__}" not in stored:
            pytest.skip("drawn by another version of matplotlib")
        assert stored == svg, f"{name}: run `make figures`"
    assert {file.name for file in figures.FOLDER.iterdir()} == set(drawn)


def test_tables_begin_with_what_was_measured_and_when(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    rows = [
        stored_row(1.0, commit="abc", dirty=False, date="2026-02-01", packages={"torchao": "0.18.0"}),
        stored_row(1.0, case="b", commit="def", dirty=True, date="2026-01-01"),
    ]
    results.store(tmp_path / "gpu-fake.jsonl", FACTS, rows)
    ((_, what, _),) = tables.measured()
    assert what == "NVIDIA Fake 9000 (sm_90, CUDA 13.0), torch 2, torchao 0.18.0; commit abc, def+, 2026-01-01 to 2026-02-01."


def test_a_missed_bar_is_shown_as_such(monkeypatch):
    rows = [stored_row(1.0, bars=[results.bar("torch", 1.0, least=2.0)], date="2026-01-01", commit="abc", dirty=True)]
    monkeypatch.setattr(tables, "measured", lambda: iter([("cpu", "A CPU.", rows)]))
    assert re.search(r"amax: a +\| 1.00x +\| >= 2x +\| missed \| torch", tables.bars())


def test_stored_results_were_measured_behind_green_tests():
    for file in results.files():
        assert {row["tests"] for row in results.load(file)[1] if "tests" in row} == {"green"}, file
