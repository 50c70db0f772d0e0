"""Denoising diffusion GANs: posterior, losses and penalty by the formulas of the original's code, and both at play."""

import math
from itertools import chain, repeat

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, samplers, schedules
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.discriminator import Discriminator
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.networks.pixels import Pixels
from ddpm_lesson.predictions import fixedsmall, xstart
from ddpm_lesson.samplers import last
from ddpm_lesson.variants.ddgan import discriminator_loss, generator_loss, latent, r1_penalty, train_ddgan

PROCESS = GaussianDiffusion(schedules.vp(4))


class Original:
    """Its Diffusion_Coefficients and Posterior_Coefficients for T steps, written anew."""

    def __init__(self, T):
        u = torch.arange(T + 1, dtype=torch.float64) / T * (1 - 1e-3) + 1e-3
        alpha_bars = 1 - (1 - torch.exp(2 * (-0.25 * u**2 * (20.0 - 0.1) - 0.5 * u * 0.1)))
        betas = 1 - alpha_bars[1:] / alpha_bars[:-1]
        bars = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
        variance = betas * (1 - before) / (1 - bars)
        self.betas, self.log_var = betas, torch.log(variance.clamp(min=1e-20))
        self.of_x_0 = betas * before.sqrt() / (1 - bars)
        self.of_x_t = (1 - before) * (1 - betas).sqrt() / (1 - bars)

    def sample_posterior(self, x_0, x_t, t, noise):
        at = [v[t].view(-1, *[1] * (x_0.ndim - 1)) for v in (self.of_x_0, self.of_x_t, self.log_var)]
        not_first = (t > 0).double().view(-1, *[1] * (x_0.ndim - 1))
        return at[0] * x_0 + at[1] * x_t + not_first * torch.exp(0.5 * at[2]) * noise


@pytest.mark.parametrize("T", [2, 4, 8])
def test_schedule_and_posterior_step_are_the_originals(T):
    process, original = GaussianDiffusion(schedules.vp(T)), Original(T)
    torch.testing.assert_close(process.betas, original.betas, rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(0)
    x_0, x_t, noise = torch.randn(3, 2 * T, 1, 4, 4, dtype=torch.float64, generator=generator)
    t = torch.arange(2 * T) % T
    found = process.q_posterior(x_0, x_t, t).sample(noise)
    torch.testing.assert_close(found, original.sample_posterior(x_0, x_t, t, noise), rtol=0, atol=1e-10)


def test_the_ancestral_loop_is_its_sampling():
    """sample_from_model: from T - 1 to 0, a new latent for each step, x_0 from the generator, the posterior."""
    torch.manual_seed(0)
    G, original = MLP(4, 2, 16, 1, latent=3), Original(4)
    x_T = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    of_z, of_noise = torch.Generator().manual_seed(2), torch.Generator().manual_seed(3)
    denoise = make_denoiser(G, PROCESS, xstart, z=latent(3, generator=of_z))
    found = last(samplers.ancestral(PROCESS, samplers.reverse(PROCESS, denoise, fixedsmall), x_T, generator=of_noise))
    of_z, of_noise, x = torch.Generator().manual_seed(2), torch.Generator().manual_seed(3), x_T
    for i in reversed(range(4)):
        t = torch.full((5,), i)
        with torch.no_grad():
            x_0 = G(x, t, z=torch.randn(5, 3, generator=of_z))
        noise = torch.randn(5, 2, generator=of_noise) if i > 0 else torch.zeros(5, 2)
        x = original.sample_posterior(x_0.double(), x.double(), t, noise.double()).float()
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_losses_are_cross_entropies():
    real, fake = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    expected = entropy(real, one, reduction="none") + entropy(fake, zero, reduction="none")
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), entropy(fake, one, reduction="none"))


def test_a_generator_that_is_found_out_still_has_a_gradient():
    logit = torch.tensor(-12.0, dtype=torch.float64, requires_grad=True)
    (not_saturating,) = torch.autograd.grad(generator_loss(logit), logit)
    (saturating,) = torch.autograd.grad(-torch.nn.functional.softplus(logit), logit)
    assert not_saturating == pytest.approx(-1, abs=1e-5) and abs(saturating) < 1e-5


class Quadratic(torch.nn.Module):
    """D(x_prev, x_t, t) = w |x_prev|^2 / 2 + x_t: its gradient in x_prev is w x_prev."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, x_prev, x_t, t):
        return self.w * x_prev.square().flatten(1).sum(1) / 2 + x_t.flatten(1).sum(1)


@pytest.mark.parametrize("interval", [1, 16])
def test_r1_is_that_of_a_known_gradient(interval):
    D, x = Quadratic(), torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = r1_penalty(D, x, x, torch.zeros(5, dtype=torch.int64), gamma=0.05, interval=interval)
    squares = x.square().flatten(1).sum(1)
    torch.testing.assert_close(found, 0.025 * interval * 9 * squares)
    (slope,) = torch.autograd.grad(found.sum(), D.w)
    assert slope.item() == pytest.approx(0.05 * interval * 3 * squares.sum().item())
    assert not x.requires_grad


def test_lazily_it_weighs_the_same():
    """Sixteen steps with a sixteenth of the calls: the sum of the penalties agrees."""
    D, x = Quadratic(), torch.ones(2, 1, 2, 2, dtype=torch.float64)
    t = torch.zeros(2, dtype=torch.int64)
    at_each = sum(r1_penalty(D, x, x, t, 0.05).mean().item() for _ in range(16))
    lazily = r1_penalty(D, x, x, t, 0.05, interval=16).mean().item()
    assert lazily == pytest.approx(at_each)


def pieces(seed=0):
    torch.manual_seed(seed)
    G, D = MLP(4, 2, 32, 2, latent=2), Discriminator(MLP(4, 4, 32, 2, out=1))
    optimizers = tuple(torch.optim.Adam(part.parameters(), 1e-3, betas=(0.5, 0.9)) for part in (G, D))
    return G, D, optimizers


def two_points(B=128):
    """Batches of (1, 1) and (-1, -1)."""
    return repeat(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).repeat(B // 2, 1))


def trained(steps):
    """G after so many steps, and the last step."""
    G, D, optimizers = pieces()
    told = {"latent_size": 2, "optimizers": optimizers, "generator": torch.Generator().manual_seed(0)}
    made = list(train_ddgan(G, D, PROCESS, two_points(), steps=steps, **told))
    assert [step.step for step in made] == list(range(1, steps + 1))
    return G, made[-1]


def test_training_can_be_repeated_bit_by_bit():
    (a, first), (b, second) = trained(20), trained(20)
    assert first == second and all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_training_finds_both_points():
    G, generator = trained(600)[0], torch.Generator().manual_seed(1)
    denoise = make_denoiser(G, PROCESS, xstart, z=latent(2, generator=generator))
    x_T = torch.randn(1000, 2, generator=generator)
    p = samplers.reverse(PROCESS, denoise, fixedsmall)
    x_0 = last(samplers.ancestral(PROCESS, p, x_T, generator=generator))
    near = [((x_0 - sign).norm(dim=1) < 0.7).float().mean() for sign in (1, -1)]
    assert min(near) > 0.3


def test_each_network_learns_from_its_own_loss_only():
    """With a discriminator that is not trained the generator still moves, and the other way round."""
    for frozen in (0, 1):
        networks = pieces()
        parts, optimizers = networks[:2], list(networks[2])
        optimizers[frozen] = torch.optim.SGD(parts[frozen].parameters(), 0.0)
        before = [[p.clone() for p in part.parameters()] for part in parts]
        list(train_ddgan(*parts, PROCESS, two_points(), steps=2, latent_size=2, optimizers=tuple(optimizers)))
        moved = [
            any(not torch.equal(a, b) for a, b in zip(old, part.parameters(), strict=True))
            for old, part in zip(before, parts, strict=True)
        ]
        assert moved == [frozen != 0, frozen != 1]


def test_the_penalty_is_taken_every_so_many_steps(monkeypatch):
    calls = []

    def counted(D, x_prev, x_t, t, gamma, interval, y):
        calls.append(interval)
        return torch.zeros(len(x_t))

    monkeypatch.setattr("ddpm_lesson.variants.ddgan.r1_penalty", counted)
    G, D, optimizers = pieces()
    list(train_ddgan(G, D, PROCESS, two_points(8), steps=9, latent_size=2, optimizers=optimizers, interval=4))
    assert calls == [4, 4, 4]  # at steps 1, 5 and 9


def test_both_players_are_told_the_labels_of_their_batch():
    heard = {"G": [], "D": []}

    class Told(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.weight = name, torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, *rest, z=None):
            heard[self.name].append(rest[-1].tolist())
            return (x if self.name == "G" else x.sum(1)) * (1 + self.weight)

    G, D = Told("G"), Told("D")
    batches = [(torch.full((3, 2), float(k)) / 10, torch.tensor([k, k, k + 1])) for k in (1, 4)]
    optimizers = tuple(torch.optim.SGD(part.parameters(), 1e-3) for part in (G, D))
    list(train_ddgan(G, D, PROCESS, batches, steps=1, latent_size=2, optimizers=optimizers, r1=0.1))
    of_D, of_G = [1, 1, 2], [4, 4, 5]
    assert heard == {"G": [of_D, of_G], "D": [of_D, of_D, of_D, of_G]}  # real, fake, R1; then G's own batch


def test_labels_pick_their_logit():
    torch.manual_seed(0)
    D = Discriminator(Classifier(3, 8, [1, 2], in_ch=2, T=4, num_groups=2))
    x, t, y = torch.randn(2, 5, 1, 8, 8), torch.arange(5) % 4, torch.tensor([2, 0, 1, 1, 2])
    assert torch.equal(D(x[0], x[1], t, y), D.network(torch.cat([x[0], x[1]], 1), t)[torch.arange(5), y])
    with pytest.raises(ValueError, match=r"the network must answer \(5, 1\), got \(5, 3\)"):
        D(x[0], x[1], t)
    with pytest.raises(ValueError, match="y must lie in 0..2, got values from 0 to 3"):
        D(x[0], x[1], t, y + (y == 2))


def test_reconstruction_leads_the_generator_to_the_mean_of_x_0():
    """Against a discriminator that knows nothing only the mean squared error is left."""
    torch.manual_seed(0)
    G = MLP(4, 2, 32, 2, latent=2)
    D = Discriminator(MLP(4, 4, 8, 1, out=1))
    D.network.tail[-1].weight.data.zero_()  # the same logit for everything
    optimizers = torch.optim.Adam(G.parameters(), 3e-3), torch.optim.SGD(D.parameters(), 0.0)
    told = {"latent_size": 2, "optimizers": optimizers, "r1": 0.0, "generator": torch.Generator().manual_seed(1)}
    list(train_ddgan(G, D, PROCESS, [torch.full((64, 2), 0.6)] * 2, steps=300, reconstruction=1.0, **told))
    x_t, t, z = torch.randn(64, 2), torch.arange(64) % 4, torch.randn(64, 2)
    with torch.no_grad():
        assert (G(x_t, t, z=z) - 0.6).abs().mean() < 0.1


def test_a_discriminator_of_images_has_gradients_for_r1():
    torch.manual_seed(0)
    D = Discriminator(Classifier(1, 8, [1, 2], in_ch=2, T=4, num_groups=2))
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 3])
    penalty = r1_penalty(D, x, torch.randn(3, 1, 8, 8), t, 0.05)
    penalty.sum().backward()
    assert penalty.shape == (3,) and all(p.grad is None or p.grad.isfinite().all() for p in D.parameters())
    assert D.network.head.weight.grad.abs().max() > 0


def test_a_discriminator_of_one_state_does_not_see_the_other():
    torch.manual_seed(0)
    D, t = Discriminator(MLP(1, 2, 16, 2, out=1), alone=True), torch.zeros(4, dtype=torch.int64)
    x, other = torch.randn(2, 4, 2)
    assert torch.equal(D(x, other, t), D(x, -other, t)) and not torch.equal(D(x, other, t), D(-x, other, t))


def test_pixels_in_a_row_are_an_image_again():
    torch.manual_seed(0)
    network = MLP(4, 24, 16, 2, latent=3)
    x, t, z = torch.randn(5, 2, 3, 4), torch.tensor([0, 1, 2, 3, 0]), torch.randn(5, 3)
    expected = torch.stack([network(x[i].reshape(1, 24), t[i : i + 1], z[i : i + 1])[0] for i in range(5)]).tanh()
    torch.testing.assert_close(Pixels(network, (2, 3, 4))(x, t, z).reshape(5, 24), expected)
    logits = Discriminator(Pixels(MLP(4, 48, 16, 2, out=1)))(x, x, t)
    assert logits.shape == (5,)
    with pytest.raises(ValueError, match="the network must answer 12 numbers, got 24"):
        Pixels(network, (1, 3, 4))(x, t, z)
    with pytest.raises(ValueError, match=r"x must be \(B, 24\), got \(5, 12\)"):
        Pixels(network, (2, 3, 4))(x[:, :1], t, z)


def test_a_latent_is_drawn_anew_each_time():
    draw = latent(5, generator=torch.Generator().manual_seed(0))
    x, t = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    a, b = draw(x, t, None), draw(x, t, None)
    assert a.shape == (3, 5) and not torch.equal(a, b)


def test_what_does_not_fit_is_refused():
    G, D, optimizers = pieces()
    told = {"latent_size": 2, "optimizers": optimizers}
    with pytest.raises(
        ValueError, match="interval of 1 or more, r1 and reconstruction of 0 or more, got 0, 1, 0.05, 0.0"
    ):
        next(train_ddgan(G, D, PROCESS, two_points(), steps=0, **told))
    with pytest.raises(ValueError, match="got 2, 1, -0.05"):
        next(train_ddgan(G, D, PROCESS, two_points(), steps=2, r1=-0.05, **told))
    with pytest.raises(ValueError, match="got 2, 1, 0.05, nan"):
        next(train_ddgan(G, D, PROCESS, two_points(), steps=2, reconstruction=float("nan"), **told))
    with pytest.raises(ValueError, match="the batches ran out"):
        list(train_ddgan(G, D, PROCESS, [torch.zeros(4, 2)], steps=2, **told))
    broken = torch.full((4, 2), math.nan)
    with pytest.raises(ValueError, match="images must be finite numbers in .*, got 8 NaN or inf"):
        list(train_ddgan(G, D, PROCESS, repeat(broken), steps=2, **told))
    with pytest.raises(FloatingPointError, match="a loss is not finite in step 2"):
        list(train_ddgan(G, D, PROCESS, chain(repeat(torch.zeros(4, 2), 2), repeat(broken)), steps=2, **told))
    with pytest.raises(ValueError, match="got unscaled pixels, from 0 to 255"):
        next(train_ddgan(G, D, PROCESS, repeat(torch.linspace(0, 255, 32).view(2, 1, 4, 4)), steps=1, **told))
    with pytest.raises(ValueError, match=r"x_prev must have x_t's shape \(4, 2\), got \(4, 1\)"):
        D(torch.zeros(4, 1), torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"the network must answer \(4, 1\), got \(4, 4\)"):
        Discriminator(MLP(4, 4, 16))(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"z must be \(4, 2\) for a network with latent = 2, got None"):
        G(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
