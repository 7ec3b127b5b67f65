"""A local web page to play with a finished run."""
