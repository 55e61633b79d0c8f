"""A small GPT over bytes. Plain PyTorch: nothing in here knows about mixed precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BYTES = 256  # the vocabulary


@dataclass(frozen=True)
class GPTConfig:
    context: int
    layers: int
    width: int
    heads: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads}")


class Block(nn.Module):
    future: Tensor  # True where a place must not look

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        future = torch.ones(config.context, config.context, dtype=torch.bool).triu(1)
        self.register_buffer("future", future, persistent=False)

    def attend(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.query_key_value(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if x.is_cuda:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # the same, spelt out: on a CPU at this size 3x faster in BF16
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            mixed = scores.masked_fill(self.future[:time, :time], float("-inf")).softmax(-1) @ v
        return self.project(mixed.transpose(1, 2).reshape(batch, time, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.attention_norm(x))
        return x + self.contract(F.gelu(self.expand(self.mlp_norm(x))))


class GPT(nn.Module):
    """bytes (batch, time) -> logits (batch, time, 256)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(BYTES, config.width)
        self.position = nn.Embedding(config.context, config.width)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, BYTES, bias=False)
        self.apply(self._initialise)
        with torch.no_grad():
            for block in self.blocks:  # so that the residual stream does not grow with depth (GPT-2)
                for layer in (block.project, block.contract):
                    layer.weight.mul_((2 * config.layers) ** -0.5)
            for parameter in self.parameters():  # values that BF16 holds, so that every recipe starts from the same weights
                parameter.copy_(parameter.bfloat16())

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token(tokens) + self.position(positions)
        return self.head(self.norm(self.blocks(x)))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per byte, computed in FP32 whatever the logits are."""
        return F.cross_entropy(self(tokens).float().flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, prompt: bytes, length: int, generator: torch.Generator, temperature: float = 0.8) -> bytes:
        """The prompt and `length` sampled bytes."""
        device = self.token.weight.device
        text = list(prompt)
        for _ in range(length):
            tokens = torch.tensor([text[-self.config.context :]], device=device)
            probabilities = (self(tokens)[0, -1].float() / temperature).softmax(-1).cpu()
            text.append(int(torch.multinomial(probabilities, 1, generator=generator)))
        return bytes(text)
