"""Captures: the ring that the engine fills, made whole again, and written for other programs.

Everything here runs in the process that wants to see, never in the one that forwards.
"""
