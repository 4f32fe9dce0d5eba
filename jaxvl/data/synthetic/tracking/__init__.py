"""Videos of moving shapes with boxes and identities, in the layouts of tracking benchmarks."""
