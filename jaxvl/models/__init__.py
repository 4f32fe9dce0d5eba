"""Models that need no training run: the verbs of a weights folder."""
