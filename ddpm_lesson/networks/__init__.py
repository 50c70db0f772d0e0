"""Networks: functions of an image and a step index. They know nothing of diffusion."""
