"""The parts of examples/train_lm.py that have nothing to do with mixed precision, and what it measures."""
