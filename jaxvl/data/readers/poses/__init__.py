"""Datasets of human poses in 3-D, as published."""
