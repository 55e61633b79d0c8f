"""What `python -m benchmarks.train` is made of: models and data, variants, and how time and memory are counted."""
