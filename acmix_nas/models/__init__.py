"""The paper's backbones, registered with timm: `timm.create_model("resnet50_acmix")` after `import acmix_nas.models`."""

from acmix_nas.models import derived, pvt, resnet, san, swin
from acmix_nas.models.published import load_published

__all__ = ["derived", "load_published", "pvt", "resnet", "san", "swin"]
