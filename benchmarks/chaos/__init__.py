"""Runs that are broken at seeded moments and given again, until they are done: `python -m benchmarks.chaos` makes
`docs/results/chaos.md`."""
