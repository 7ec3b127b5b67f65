"""Using a finished model: prediction without the training data, export, exported models."""
