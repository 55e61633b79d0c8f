"""The shapes that cases are measured on, and the models they come from.

A linear layer of `inputs` and `outputs` on T tokens is three products (M, N, K): forward (T, outputs, inputs), dgrad
(T, inputs, outputs) and wgrad (outputs, inputs, T).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """family: what `--shapes` names. layer: "model layer", where there is one. direction: forward, dgrad or wgrad."""

    family: str
    size: tuple[int, ...]
    layer: str = ""
    direction: str = ""

    def __str__(self) -> str:
        size = " x ".join(map(str, self.size))
        return f"{size} {self.layer}{', ' * bool(self.direction)}{self.direction}".rstrip()


@dataclass(frozen=True)
class Model:
    """layers: name -> (inputs, outputs). tokens: of one sequence or image batch, as the origin trains it."""

    family: str
    name: str
    tokens: int
    layers: dict[str, tuple[int, int]]


def _transformer(width: int, hidden: int, *, key_value: int | None = None, gated: bool = False) -> dict[str, tuple[int, int]]:
    """The four linear layers of a block. key_value: width of keys and of values, where fewer heads than queries have them."""
    qkv = width + 2 * (key_value or width)
    return {"qkv": (width, qkv), "out": (width, width), "up": (width, (1 + gated) * hidden), "down": (hidden, width)}


MODELS = (
    # The Llama 3 Herd of Models (arXiv 2407.21783), table 3: widths, 8 key/value heads of 128; sequences of 8192.
    Model("llama", "Llama-3 8B", 8192, _transformer(4096, 14336, key_value=1024, gated=True)),
    Model("llama", "Llama-3 70B", 8192, _transformer(8192, 28672, key_value=1024, gated=True)),
    # Language Models are Unsupervised Multitask Learners (2019), table 2, the smallest: width 768, context 1024. Eight sequences.
    Model("gpt2", "GPT-2 124M", 8 * 1024, _transformer(768, 4 * 768)),
    # Scaling Rectified Flow Transformers (arXiv 2403.03206): width 64 * depth 24; 1024 x 1024 pixels / 8 / patch 2 = 64^2 tokens.
    Model("sd3", "SD3 medium", 4096, _transformer(1536, 4 * 1536)),
    # Scalable Diffusion Models with Transformers (arXiv 2212.09748), DiT-XL/2: width 1152; 256 tokens an image, 32 images.
    Model("sd3", "DiT-XL/2", 32 * 256, _transformer(1152, 4 * 1152)),
    # An Image is Worth 16x16 Words (arXiv 2010.11929), ViT-L/16: width 1024; 14^2 + 1 tokens an image, 64 images.
    Model("vit", "ViT-L/16", 64 * 197, _transformer(1024, 4 * 1024)),
    # examples/train_lm.py: the demo.
    Model("demo", "demo GPT", 2048, {"out": (512, 512), "up": (512, 2048), "down": (2048, 512)}),
)
CPU_TOKENS = 1024  # at most, but for the demo: a CPU's rate is the same from there on, and the time is not
SQUARES = {"cpu": (256, 512, 1024, 2048, 4096), "cuda": (256, 512, 1024, 2048, 4096, 8192)}  # of matrices
CUBES = {"cpu": (1024, 2048), "cuda": (1024, 2048, 4096, 8192)}  # of products
DECODE = (
    (1, 4096, 4096),
    (16, 4096, 4096),
)  # Llama-3 8B's output projection with 1 and 16 tokens: the weight is read, that is all

FAMILIES = ("tiny", "square", "decode", *dict.fromkeys(model.family for model in MODELS))
DEFAULT = {"cpu": ("tiny", "square", "decode", "demo", "gpt2", "vit"), "cuda": FAMILIES}


def _tokens(model: Model, device: str) -> int:
    return model.tokens if device != "cpu" or model.family == "demo" else min(model.tokens, CPU_TOKENS)


def products(device: str) -> Iterator[Shape]:
    for n in CUBES[device]:
        yield Shape("square", (n, n, n))
    for size in DECODE:
        yield Shape("decode", size, f"decode, batch {size[0]}")
    for model in MODELS:
        tokens = _tokens(model, device)
        for layer, (inputs, outputs) in model.layers.items():
            name = f"{model.name} {layer}"
            yield Shape(model.family, (tokens, outputs, inputs), name, "forward")
            yield Shape(model.family, (tokens, inputs, outputs), name, "dgrad")
            yield Shape(model.family, (outputs, inputs, tokens), name, "wgrad")


def matrices(device: str) -> Iterator[Shape]:
    """Square ones to see where bandwidth is reached; then each model's inputs of `up` and `down`, and the weight of `down`."""
    for n in SQUARES[device]:
        yield Shape("square", (n, n))
    for model in MODELS:
        tokens = _tokens(model, device)
        hidden, width = model.layers["down"]
        yield Shape(model.family, (tokens, width), f"{model.name} input of up")
        yield Shape(model.family, (tokens, hidden), f"{model.name} input of down")
        yield Shape(model.family, (width, hidden), f"{model.name} weight of down")


def _parameters(layers: int, width: int, hidden: int, vocabulary: int, *, positions: int) -> list[tuple[int, ...]]:
    """Embeddings, and for each block the weights of attention and MLP and of two norms."""
    found: list[tuple[int, ...]] = [(vocabulary, width), (positions, width)]
    for _ in range(layers):
        found += [(3 * width, width), (width, width), (hidden, width), (width, hidden), (width,), (width,)]
    return found


def lists(device: str) -> Iterator[tuple[Shape, list[tuple[int, ...]]]]:
    """On a CPU the small one alone: 33 M elements are far beyond its caches."""
    named: list[tuple[str, str, list[tuple[int, ...]]]] = [
        ("tiny", "", [(64,)] * 100),
        ("demo", "", _parameters(10, 512, 2048, 1024, positions=1024)),
    ]
    if device != "cpu":
        named.append(("gpt2", "GPT-2 124M, ", _parameters(12, 768, 3072, 50257, positions=1024)))
        block = [(outputs, inputs) for inputs, outputs in MODELS[0].layers.values()]
        named.append(("llama", "a block of Llama-3 8B, ", [*block, (4096,), (4096,)]))
    for family, name, sizes in named:
        elements = sum(math.prod(size) for size in sizes)
        yield Shape(family, (elements,), f"{name}{elements / 1e6:.4g} M in {len(sizes)} tensors"), sizes
