"""The stages of a run; importing them registers their sections of the config."""

from paddle_csrl.stages import classifier, generator, projection, self_training

__all__ = ["classifier", "generator", "projection", "self_training"]
