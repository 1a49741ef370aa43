"""What runs in C on the CPU, with its gradients."""

from acmix_nas.operators.kernels.attention import Axis, Layout, slide, tiles
from acmix_nas.operators.kernels.compiled import LANES, build, runs_on
from acmix_nas.operators.kernels.moments import MOST_MAPS, combine, moments

__all__ = ["LANES", "MOST_MAPS", "Axis", "Layout", "build", "combine", "moments", "runs_on", "slide", "tiles"]
