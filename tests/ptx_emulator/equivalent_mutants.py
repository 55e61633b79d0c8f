"""Mutants that survive, and why. Keys: subject, then mutator and ordinal, as mutation.py prints them."""

from __future__ import annotations

EQUIVALENT: dict[str, dict[str, str]] = {}
# Real mistakes that the emulator does not see.
MISSED: dict[str, dict[str, str]] = {}
