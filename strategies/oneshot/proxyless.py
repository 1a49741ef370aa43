"""Proxyless in our loop."""

from __future__ import annotations

from nni.nas.strategy import Proxyless as NniProxyless
from pytorch_lightning import LightningModule

from acmix_nas.strategies.oneshot.differentiable import SampledSearchModule

__all__ = ["Proxyless"]


class Proxyless(NniProxyless):
    """NNI's Proxyless (Cai et al. 2019): one sampled candidate runs with a gradient, and the architecture sees all.

    It continues to the same bits after an interruption, and logs how decided it is. It gives the most likely operators, where
    NNI's gives a random sample. It learns from the candidate that runs even before a batch norm, see `SampledSearchModule`.
    Its arguments are those of NNI's.
    """

    def configure_oneshot_module(self, training_module: LightningModule) -> SampledSearchModule:
        return SampledSearchModule(
            training_module,
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            log_prob_every_n_step=self.log_prob_every_n_step,
            warmup_epochs=self.warmup_epochs,
        )
