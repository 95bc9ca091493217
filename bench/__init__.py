"""Benchmarks: `make bench` runs them all; `python -m bench road` or `python -m bench ingest` runs one.

Each prints a markdown table with versions and machine, and writes its figures to ``bench/results/<name>.json``.
"""
