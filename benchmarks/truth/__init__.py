"""The questions of `benchmarks/truth.py`, one file each."""
