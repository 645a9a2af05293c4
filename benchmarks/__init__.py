"""Speed and memory, each beside what it is compared with, in one run: python -m benchmarks. Never a timed test."""
