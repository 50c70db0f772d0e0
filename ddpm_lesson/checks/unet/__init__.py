"""The checks of notebook 03: the parts of a U-Net as functions and as modules, and the whole.

One file for each exercise, built as those of notebook 01.
"""

from ddpm_lesson.checks.unet.add_time import add_time
from ddpm_lesson.checks.unet.attention import attention
from ddpm_lesson.checks.unet.attn_block import AttnBlock
from ddpm_lesson.checks.unet.down_same import down_same
from ddpm_lesson.checks.unet.group_norm import group_norm
from ddpm_lesson.checks.unet.network import UNet
from ddpm_lesson.checks.unet.res_block import ResBlock
from ddpm_lesson.checks.unet.res_block_parameters import res_block_parameters
from ddpm_lesson.checks.unet.skip_channels import skip_channels
from ddpm_lesson.checks.unet.time_table import time_table

__all__ = [
    "AttnBlock",
    "ResBlock",
    "UNet",
    "add_time",
    "attention",
    "down_same",
    "group_norm",
    "res_block_parameters",
    "skip_channels",
    "time_table",
]
