"""How fast and how small the operators, the supernet, the search and the fused networks are, against plain baselines."""

from acmix_nas.bench.cases import WHAT
from acmix_nas.bench.report import Report
from acmix_nas.bench.runner import run

__all__ = ["WHAT", "Report", "run"]
