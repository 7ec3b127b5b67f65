"""The stages of training, the feature bank between them, and evaluation."""
