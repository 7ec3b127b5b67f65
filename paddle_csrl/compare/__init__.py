"""Comparing methods over splits and seeds: what to run, running it, statistics and reports."""
