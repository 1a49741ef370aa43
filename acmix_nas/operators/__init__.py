"""What may stand at a slot. Every operator is Stage I, one fused 1×1 convolution, and paths of Stage II on its maps."""

from acmix_nas.operators.acmix import ATTENTIONS, MIXINGS, ACmix, Mixing, attention_path
from acmix_nas.operators.convolution import Convolution, ConvolutionPath
from acmix_nas.operators.global_attention import GlobalAttention, GlobalPath
from acmix_nas.operators.local_attention import BORDERS, LocalAttention, LocalPath
from acmix_nas.operators.stage import Macs, Operator, Path, Projection, strided
from acmix_nas.operators.window_attention import WindowAttention, WindowPath

__all__ = [
    "ATTENTIONS",
    "BORDERS",
    "MIXINGS",
    "ACmix",
    "Convolution",
    "ConvolutionPath",
    "GlobalAttention",
    "GlobalPath",
    "LocalAttention",
    "LocalPath",
    "Macs",
    "Mixing",
    "Operator",
    "Path",
    "Projection",
    "WindowAttention",
    "WindowPath",
    "attention_path",
    "strided",
]
