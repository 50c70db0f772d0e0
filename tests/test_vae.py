"""The variational autoencoder: its loss is a density and a KL in closed form, and bounds log p(x)."""

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from ddpm_lesson.networks.vae import VAE, kl, reconstruction


def small(latent=3):
    torch.manual_seed(0)
    return VAE((1, 4, 4), 16, latent).double()


def normal(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_kl_is_that_of_torch():
    mean, log_var = normal(2, 7, 3)
    q = Independent(Normal(mean, (log_var / 2).exp()), 1)
    p = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(kl(mean, log_var), kl_divergence(q, p))
    assert torch.equal(kl(torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2))


def test_reconstruction_is_minus_the_log_density():
    x, mean = normal(2, 5, 1, 4, 4)
    expected = -Normal(mean, 0.3).log_prob(x).sum((1, 2, 3))
    found = reconstruction(x, mean, torch.tensor(0.3, dtype=torch.float64).log())
    torch.testing.assert_close(found, expected)


def test_the_loss_is_their_sum_at_the_drawn_latent():
    model, x, noise = small(), normal(5, 1, 4, 4), normal(5, 3, seed=2)
    model.log_std.data.fill_(-0.7)
    mean, log_var = model.encode(x)
    density = Normal(model.decode(mean + log_var.exp().sqrt() * noise), torch.tensor(-0.7).double().exp())
    q, p = Normal(mean, (log_var / 2).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = -density.log_prob(x).sum((1, 2, 3)) + kl_divergence(q, p).sum(1)
    torch.testing.assert_close(model.loss(x, noise), expected)
    with pytest.raises(ValueError, match=r"noise must be \(5, 3\), as the latents, got \(1, 3\)"):
        model.loss(x, noise[:1])


class Linear(VAE):
    """p(x | z) = N(A z, 1), so that p(x) = N(0, A A^T + I); q is the exact posterior."""

    def __init__(self, A):
        super().__init__((len(A),), 4, A.shape[1])
        self.A = A
        self.covariance = torch.linalg.inv(torch.eye(A.shape[1], dtype=A.dtype) + A.T @ A)

    def encode(self, x):
        return x @ self.A @ self.covariance, self.covariance.diagonal().log().expand(len(x), -1)

    def decode(self, z):
        return z @ self.A.T


def test_with_the_exact_posterior_the_bound_is_the_likelihood():
    A = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))  # diagonal: so is the posterior's covariance
    model, x = Linear(A).double(), normal(4, 2)
    log_p = MultivariateNormal(torch.zeros(2).double(), A @ A.T + torch.eye(2).double()).log_prob(x)
    losses = torch.stack([model.loss(x, noise) for noise in normal(20_000, 4, 2, seed=3)])
    error = losses.std(0) / len(losses) ** 0.5
    assert ((losses.mean(0) + log_p).abs() < 5 * error).all()


def test_every_part_learns_from_the_loss():
    model = small()
    model.loss(normal(5, 1, 4, 4), normal(5, 3, seed=2)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_shapes_that_do_not_fit_are_refused():
    model = small()
    with pytest.raises(ValueError, match=r"x must be \(B, 1, 4, 4\), got \(2, 1, 8, 8\)"):
        model.encode(torch.zeros(2, 1, 8, 8).double())
    with pytest.raises(ValueError, match=r"z must be \(B, 3\), got \(2, 4\)"):
        model.decode(torch.zeros(2, 4).double())
