"""Spaces where every answer is known: tables of stand-alone trainings, and what a search is worth on them."""

from acmix_nas.research.benchmark.spaces import CUED, CUED_SHAPES, Choice, Space, space_of
from acmix_nas.research.benchmark.table import Latencies, Run, Table, shipped
from acmix_nas.research.benchmark.tabulate import tabulate, train_alone

__all__ = [
    "CUED",
    "CUED_SHAPES",
    "Choice",
    "Latencies",
    "Run",
    "Space",
    "Table",
    "shipped",
    "space_of",
    "tabulate",
    "train_alone",
]
