"""What of an installation, or of a config, is in the way of a training."""
