"""Real features by class, and batches of real and generated ones: what stages 2 and 3 learn from.
"""
