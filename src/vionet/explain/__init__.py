"""Explanations: what happens to frames, from the functions that decide it."""
