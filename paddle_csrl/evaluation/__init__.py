"""Scoring a model, or many layers of one, and pictures of its predictions."""
