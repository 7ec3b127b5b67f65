"""The doctor: what, in an installation or a config, is in the way of a training."""
