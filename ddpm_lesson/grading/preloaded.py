"""What is there before the process of any exercise is forked, so that none waits for it.  Nothing else imports this."""

import einops  # noqa: F401
import torch

import ddpm_lesson.experiments.pretrained
import ddpm_lesson.grading.harness  # noqa: F401

torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first one loads PyTorch's compiler, in more than a second
