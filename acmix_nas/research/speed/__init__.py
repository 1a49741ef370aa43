"""How fast and how small the operators, the supernet, the search and the fused networks are, against plain baselines."""

from acmix_nas.research.speed.cases import WHAT
from acmix_nas.research.speed.report import Report
from acmix_nas.research.speed.runner import run

__all__ = ["WHAT", "Report", "run"]
