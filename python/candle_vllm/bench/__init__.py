"""Benchmarks: rates of an engine in this process, load on a server, and random-weight models to measure with.

Each module gives plain dataclasses or dictionaries; flags and output belong to `candle_vllm.cli.bench`. Must not know
of argparse.
"""
