"""Scores of generalized zero-shot segmentation."""

from paddle_csrl.metrics.zero_shot_evaluator import SCORES, ZeroShotEvaluator, score_table
