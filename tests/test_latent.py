"""A U-Net that is told a latent: the mapping by its formula, and where its result goes."""

import pytest
import torch
from torch.nn.functional import silu

from ddpm_lesson.networks.blocks import Mapping
from ddpm_lesson.networks.unet import UNet


def small(latent=0):
    torch.manual_seed(0)
    model = UNet(4, 8, [1, 2], [], 1, 0.0, in_ch=1, num_groups=4, scale_shift_norm=True, latent=latent)
    for weight in model.parameters():  # blocks start as the identity: a latent would change nothing yet
        torch.nn.init.normal_(weight, std=0.2)
    return model.double()


def inputs(B=3, latent=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(B, 1, 8, 8, dtype=torch.float64, generator=generator)
    return x, torch.tensor([0, 2, 3]), torch.randn(B, latent, dtype=torch.float64, generator=generator)


def test_mapping_is_pixel_norm_and_two_linear_layers():
    torch.manual_seed(0)
    mapping = Mapping(5, 8).double()
    _, _, z = inputs()
    first, _, second = mapping.layers
    unit = z / (z**2).mean(1, keepdim=True).sqrt()
    expected = silu(unit @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(mapping(z), expected, rtol=1e-6, atol=1e-6)


def test_only_the_direction_of_a_latent_counts():
    model, (x, t, z) = small(5), inputs()
    torch.testing.assert_close(model(x, t, z=7 * z), model(x, t, z=z), rtol=0, atol=1e-6)
    assert (model(x, t, z=-z) - model(x, t, z=z)).abs().max() > 1e-3


def test_its_result_is_added_to_the_time():
    """With a mapping that answers 0 the network is the one without a latent, of the same weights."""
    model, (x, t, z) = small(5), inputs()
    last = model.mapping.layers[2]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    without = small()
    without.load_state_dict({name: w for name, w in model.state_dict().items() if not name.startswith("mapping")})
    torch.testing.assert_close(model(x, t, z=z), without(x, t), rtol=0, atol=0)
    last.bias.data.fill_(0.5)
    table = without.time_embedding.timembedding[-1]
    table.bias.data += 0.5
    torch.testing.assert_close(model(x, t, z=z), without(x, t))


def test_a_latent_is_asked_for_and_only_then_taken():
    x, t, z = inputs()
    with pytest.raises(ValueError, match=r"z must be \(3, 5\) for a network with latent = 5, got None"):
        small(5)(x, t)
    with pytest.raises(ValueError, match=r"z must be \(3, 4\) for a network with latent = 4, got \(3, 5\)"):
        small(4)(x, t, z=z)
    with pytest.raises(ValueError, match=r"z must be None for a network with latent = 0, got \(3, 5\)"):
        small()(x, t, z=z)
    with pytest.raises(ValueError, match="latent must be at least 0, got -1"):
        small(-1)
