"""Images for a multilayer perceptron: their pixels in one row."""

from torch import Tensor, nn

from ddpm_lesson.networks.mlp import MLP


class Pixels(nn.Module):
    """A multilayer perceptron that is called with images: for small ones, where it costs less than convolutions.

    network: an `MLP` with dim = C H W of the images that it is called with.
    shape: (C, H, W) of the images that it answers, whose pixels a tanh holds inside of -1..1, as in a generator of
    images; None for an answer as the network gives it, such as the logits of a discriminator.
    forward: x (B, *D), t (B,) int64, z (B, latent) or None -> (B, C, H, W), or (B, out).
    Raises ValueError if x has other than dim numbers for each image, or the network's out is not that of the shape.
    It knows nothing of neighbours: each pixel has weights of its own.
    """

    def __init__(self, network: MLP, shape: tuple[int, ...] | None = None):
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        answer = self.network(x.flatten(1), t, z)
        if self.shape is None:
            return answer
        channels, height, width = self.shape
        if answer.shape[1] != channels * height * width:
            raise ValueError(f"the network must answer {channels * height * width} numbers, got {answer.shape[1]}")
        return answer.tanh().view(-1, channels, height, width)
