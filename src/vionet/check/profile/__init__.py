"""Drivers that cannot be run here, played: what they negotiate, post, send and conclude."""
