"""What may stand at a slot. Every operator is Stage I, one fused 1×1 convolution, and paths of Stage II on its maps."""

from acmix_nas.operators.acmix import MIXINGS, ACmix, Mixing
from acmix_nas.operators.attend import POSITIONS, LinearPosition, RelativeBias
from acmix_nas.operators.convolution import SHIFTS, Convolution, ConvolutionPath, OnesConv2d
from acmix_nas.operators.global_attention import GlobalAttention, GlobalPath
from acmix_nas.operators.local_attention import BORDERS, LocalAttention, LocalPath
from acmix_nas.operators.patchwise_attention import PatchwiseAttention, PatchwisePath
from acmix_nas.operators.registry import OPERATORS, attention_path, register_operator
from acmix_nas.operators.stage import WINDOW, Macs, Operator, Output, Path, Projection, ReducedProjection, Stage1, strided
from acmix_nas.operators.window_attention import WindowAttention, WindowPath

__all__ = [
    "BORDERS",
    "MIXINGS",
    "OPERATORS",
    "POSITIONS",
    "SHIFTS",
    "WINDOW",
    "ACmix",
    "Convolution",
    "ConvolutionPath",
    "GlobalAttention",
    "GlobalPath",
    "LinearPosition",
    "LocalAttention",
    "LocalPath",
    "Macs",
    "Mixing",
    "OnesConv2d",
    "Operator",
    "Output",
    "PatchwiseAttention",
    "PatchwisePath",
    "Path",
    "Projection",
    "ReducedProjection",
    "RelativeBias",
    "Stage1",
    "WindowAttention",
    "WindowPath",
    "attention_path",
    "register_operator",
    "strided",
]
