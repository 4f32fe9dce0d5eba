"""Readers of text-video retrieval sets: captions with their clips."""
