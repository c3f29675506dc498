"""The benchmark, algorithms x scenes x seeds, from training to tables: `python -m benchmarks` in a checkout."""
