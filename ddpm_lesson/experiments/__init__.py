"""Runs, files and scores: from a recipe to weights, and from weights to pictures and numbers."""
