"""Inputs that are wrong in ways drawn at random, each with what is right known beforehand.

`python -m benchmarks.fuzz --seed S` makes `docs/results/fuzz.md`. A generator is a function of this package,
`run(rng, folder) -> (what was done, outcome)`: it writes one input below `folder`, lets jaxvl read it, and compares
with what it knows. Outcomes: `RIGHT`, `COUNTED` (something is left out, and said), `LINE` (refused with one line),
`SILENT` (another answer than the right one, without a word). Whatever it raises is a traceback. To add a kind of
input, add it to `benchmarks.fuzz.__main__.GENERATORS`.
"""

RIGHT, COUNTED, LINE, SILENT = "right", "counted", "one line", "silent"
TRACEBACK, HANG, MEMORY = "traceback", "hang", "out of memory"
OUTCOMES = (RIGHT, COUNTED, LINE, SILENT, TRACEBACK, HANG, MEMORY)


def one_line(error: Exception) -> str:
    """`LINE`, or `TRACEBACK` where the message has more lines or none."""
    text = str(error)
    return LINE if text and "\n" not in text else TRACEBACK
