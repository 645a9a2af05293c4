"""The rows of `python -m benchmarks`, a file each. A row has LETTER, its place; TITLE; and run(bench) -> its tables."""
