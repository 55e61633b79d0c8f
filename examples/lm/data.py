"""The text: the sources of Python's own standard library, which every machine that runs this has."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

CORPUS_BYTES = 4_000_000  # of the 4.5 MB or so that the top level of the standard library holds
VALIDATION_EVERY = 10  # each tenth file is kept for validation, whole, so that no text is in both parts
VALIDATION_WINDOWS = 128

Batch = tuple[Tensor, Tensor]  # tokens and targets (the tokens one place on), both (batch, context) int64


@dataclass(frozen=True)
class Corpus:
    train: Tensor  # (n,) uint8
    validation: Tensor  # (n,) uint8
    files: int

    def unigram_entropy(self) -> float:
        """Nats per validation byte of a model that knows the frequency of each byte and nothing of its neighbours."""
        frequencies = torch.bincount(self.train.int(), minlength=256).double() + 1  # + 1: a byte may occur in validation only
        return float(-(frequencies / frequencies.sum()).log()[self.validation.int()].mean())


def load() -> Corpus:
    """The first CORPUS_BYTES of the standard library's modules in alphabetical order."""
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    files = size = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_bytes()[: CORPUS_BYTES - size]
        if not text:
            break
        files, size = files + 1, size + len(text)
        parts[files % VALIDATION_EVERY == 0].append(text)
    train, validation = (torch.frombuffer(bytearray(b"".join(part)), dtype=torch.uint8) for part in parts)
    return Corpus(train, validation, files)


def _windows(text: Tensor, starts: Tensor, context: int, device: torch.device) -> Batch:
    windows = text[starts[:, None] + torch.arange(context + 1)].long().to(device)
    return windows[:, :-1], windows[:, 1:]


def training_batches(corpus: Corpus, steps: int, batch: int, context: int, seed: int, device: torch.device) -> list[Batch]:
    """Random windows. Made once, for all recipes."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(corpus.train) - context, (steps, batch), generator=generator)
    return [_windows(corpus.train, some, context, device) for some in starts]


def validation_batches(corpus: Corpus, batch: int, context: int, device: torch.device) -> Iterator[Batch]:
    """VALIDATION_WINDOWS windows, evenly spread."""
    starts = torch.linspace(0, len(corpus.validation) - context - 1, VALIDATION_WINDOWS).long()
    for some in starts.split(batch):
        yield _windows(corpus.validation, some, context, device)
