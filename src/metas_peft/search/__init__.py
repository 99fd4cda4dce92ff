"""A search over the keys of a run file: Optuna by ask and tell, workers that may die, one study that does not.

A stranger to experiments and reports: what a trial does is a callable that it is handed.
"""

from metas_peft.search.study import Search, open_search
from metas_peft.search.summary import summarise, write_best
from metas_peft.search.worker import Evaluate, Worker

__all__ = ["Evaluate", "Search", "Worker", "open_search", "summarise", "write_best"]
