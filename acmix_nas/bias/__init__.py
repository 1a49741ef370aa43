"""Whether a network leans to convolution or to attention, layer by layer (section 5.5 and Figure 5)."""

from acmix_nas.bias.figures import figure5, heat_map, probability_figure
from acmix_nas.bias.history import append_history, read_history
from acmix_nas.bias.logger import BiasLogger
from acmix_nas.bias.observation import Leaning, Observation, log_ratio, observe, stage_of
from acmix_nas.bias.report import report
from acmix_nas.bias.tensorboard import write_figures, write_layout, write_scalars

__all__ = [
    "BiasLogger",
    "Leaning",
    "Observation",
    "append_history",
    "figure5",
    "heat_map",
    "log_ratio",
    "observe",
    "probability_figure",
    "read_history",
    "report",
    "stage_of",
    "write_figures",
    "write_layout",
    "write_scalars",
]
