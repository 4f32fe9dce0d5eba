"""The sprite world: drawn shapes that move, captioned, with the truth of every frame."""
