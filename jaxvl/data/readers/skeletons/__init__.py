"""Readers of skeleton sequences: joints in 3-D over time, with the label of the action."""
