"""Searching videos by text or by video: an index of embeddings that is kept beside a run."""
