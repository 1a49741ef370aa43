"""Search spaces: which modules of which backbone are slots, with which candidates. This is where NNI begins."""

import warnings

# NNI wraps what it finds in torch.nn, and says so of every class there that is not a module.
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)

from acmix_nas.search_spaces.hybrid_slot import HybridSlot, MixedSlot, ProxylessSlot, SampledSlot, SupernetSlot  # noqa: E402
from acmix_nas.search_spaces.hybridize import HybridSpace, hybridize  # noqa: E402

__all__ = ["HybridSlot", "HybridSpace", "MixedSlot", "ProxylessSlot", "SampledSlot", "SupernetSlot", "hybridize"]
