"""Readers of domain adaptation sets: one labelled set of pictures a domain."""
