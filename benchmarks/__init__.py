"""Benchmarks: what isolation costs, measured against stock Django in the same run."""
