"""A diffusion transformer over latent images. Plain PyTorch: nothing in here knows about mixed precision.

Source: Peebles & Xie, Scalable Diffusion Models with Transformers, arXiv:2212.09748 (blocks with adaLN-Zero, sizes in its
table 1). Trained by flow matching (Lipman et al., arXiv:2210.02747): the model predicts noise - image from a mixture of the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 256  # of the timestep's embedding, as in the paper


@dataclass(frozen=True)
class DiTConfig:
    resolution: int  # of the latent image, a side
    layers: int
    width: int
    heads: int
    patch: int = 2
    channels: int = 4  # of the autoencoder's latents

    @property
    def tokens(self) -> int:
        return (self.resolution // self.patch) ** 2


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the timestep; the gates begin at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.query_key_value(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if x.is_cuda:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:  # spelt out as in the GPT of examples/lm: faster on a CPU at such sizes
            mixed = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, grow, gate, mlp_shift, mlp_grow, mlp_gate = self.modulation(F.silu(time))[:, None].chunk(6, -1)
        x = x + gate * self.attend(self.attention_norm(x) * (1 + grow) + shift)
        return x + mlp_gate * self.contract(
            F.gelu(self.expand(self.mlp_norm(x) * (1 + mlp_grow) + mlp_shift), approximate="tanh")
        )


class DiT(nn.Module):
    """latent images (batch, channels, side, side) and times (batch,) in [0, 1] -> their velocity, of the images' shape."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        values = config.channels * config.patch**2
        self.embed = nn.Linear(values, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.tokens, config.width))
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, values)
        with torch.no_grad():
            for block in self.blocks:
                block.modulation.weight.normal_(std=0.02)  # the paper has zeros; then nothing but the head learns in a short run
            for parameter in self.parameters():  # values that BF16 holds, so that every variant starts from the same weights
                parameter.copy_(parameter.bfloat16())

    def _patches(self, images: Tensor) -> Tensor:
        """(batch, tokens, values of a patch)."""
        return F.pixel_unshuffle(images, self.config.patch).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        dtype = self.embed.weight.dtype
        half = torch.arange(FREQUENCIES // 2, device=times.device, dtype=torch.float32)
        angles = 1000 * times.float()[:, None] * torch.exp(-math.log(10000) * half / len(half))
        time = self.time(torch.cat([angles.cos(), angles.sin()], -1).to(dtype))
        x = self.embed(self._patches(images).to(dtype)) + self.position
        for block in self.blocks:
            x = block(x, time)
        side = self.config.resolution // self.config.patch
        return F.pixel_shuffle(self.head(self.norm(x)).transpose(1, 2).unflatten(2, (side, side)), self.config.patch)

    def loss(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Mean squared error of the velocity, computed in FP32."""
        t = times[:, None, None, None]
        return F.mse_loss(self((1 - t) * images + t * noise, times).float(), noise - images)


def batches(config: DiTConfig, steps: int, batch: int, seed: int, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(images, noise, times) a step. The images are smooth random fields: something to learn, and nothing to download."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(steps):
        coarse = torch.randn(batch, config.channels, 4, 4, generator=generator)
        images = F.interpolate(coarse, size=(config.resolution, config.resolution), mode="bilinear")
        noise = torch.randn(images.shape, generator=generator)
        made.append((images.to(device), noise.to(device), torch.rand(batch, generator=generator).to(device)))
    return made
