"""What the machine and the user can do wrong, tried out: values of fields, command lines, damaged workdirs and indexes,
full and read-only disks, Ctrl-C, two runs at once. `python -m benchmarks.faults` makes `docs/results/faults.md`."""
