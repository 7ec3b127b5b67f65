"""Choosing settings of stages 2 and 3 on seen classes held out, at the feature bank.

Nothing in this package can reach an unseen class: it works on ``SeenClasses``, which holds
arrays of the seen classes alone, numbered anew.
"""

from paddle_csrl.tuning.bank_trial import Fold, bank_trial, make_fold
from paddle_csrl.tuning.folds import draw_folds
from paddle_csrl.tuning.search import Budget, Search
from paddle_csrl.tuning.seen_classes import SeenClasses
from paddle_csrl.tuning.space import Draw, Space
