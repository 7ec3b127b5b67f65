"""Training, scoring and predicting, as PaddleSeg's core."""
