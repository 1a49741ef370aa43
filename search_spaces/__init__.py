"""Search spaces: which modules of which backbone are slots, with which candidates. This is where NNI begins."""

from acmix_nas.search_spaces.hybrid_slot import GumbelSlot, HybridSlot, MixedSlot, ProxylessSlot, SampledSlot, SupernetSlot
from acmix_nas.search_spaces.hybridize import HybridSpace, hybridize
from acmix_nas.search_spaces.pvt import pvt
from acmix_nas.search_spaces.resnet import resnet
from acmix_nas.search_spaces.san import san
from acmix_nas.search_spaces.swin import swin

__all__ = [
    "GumbelSlot",
    "HybridSlot",
    "HybridSpace",
    "MixedSlot",
    "ProxylessSlot",
    "SampledSlot",
    "SupernetSlot",
    "hybridize",
    "pvt",
    "resnet",
    "san",
    "swin",
]
