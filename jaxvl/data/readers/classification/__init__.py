"""Readers of labelled pictures: folders, lists, arrays and records."""
