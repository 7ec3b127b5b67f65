"""Other classes for a finished run."""
