"""Networks: functions of an image and a step index. They know nothing of diffusion."""

from ddpm_lesson.networks.blocks import AttnBlock, DownSample, ResBlock, Swish, TimeEmbedding, UpSample
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.networks.unet import UNet

__all__ = ["AttnBlock", "Classifier", "DownSample", "MLP", "ResBlock", "Swish", "TimeEmbedding", "UNet", "UpSample"]
