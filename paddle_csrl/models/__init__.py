"""Models: the generator and the zero-shot segmentors."""
