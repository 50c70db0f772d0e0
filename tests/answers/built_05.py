# ruff: noqa: B905
"""Answers to the exercises of notebook 05 that hold gradients or a chain, written from their statements alone."""

import math

import torch
from einops import rearrange, reduce
from torch.nn import functional as F

from answers import Answers

answers = Answers()
W, C = answers.wrong, answers.correct


# ---------------------------------------------------------------- 5.3


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = 0.5 * (
        log_var - true_log_var + torch.exp(true_log_var - log_var) + (true_mean - mean) ** 2 / log_var.exp() - 1
    )
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * T * kl.flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "the mean is not held fixed", "gradient", "A gradient flows through mean.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    diff = true_mean.detach() - mean
    kl = -1 + log_var - true_log_var + torch.exp(true_log_var - log_var) + diff**2 * torch.exp(-log_var)
    vlb = (0.5 * kl).flatten(1).mean(1) / math.log(2)
    return (noise.detach() - eps).pow(2).flatten(1).mean(1) + lam * T * vlb


W(hybrid_loss, "detach on the targets, not on mean", "gradient", "A gradient flows through mean.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    log_var = log_var.detach()
    diff = true_mean - mean
    kl = -1 + log_var - true_log_var + torch.exp(true_log_var - log_var) + diff**2 * torch.exp(-log_var)
    vlb = (0.5 * kl).flatten(1).mean(1) / math.log(2)
    return (noise - eps).pow(2).flatten(1).mean(1) + lam * T * vlb


W(hybrid_loss, "detach on log_var", "gradient", "You stopped the gradient at log_var, and not at mean.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    with torch.no_grad():
        diff = true_mean - mean
        kl = -1 + log_var - true_log_var + torch.exp(true_log_var - log_var) + diff**2 * torch.exp(-log_var)
        vlb = (0.5 * kl).flatten(1).mean(1) / math.log(2)
    return (noise - eps).pow(2).flatten(1).mean(1) + lam * T * vlb


W(hybrid_loss, "the whole bound under no_grad", "gradient", "You stopped the gradient of the whole bound")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    eps, mean = eps.detach(), mean.detach()
    diff = true_mean - mean
    kl = -1 + log_var - true_log_var + torch.exp(true_log_var - log_var) + diff**2 * torch.exp(-log_var)
    vlb = (0.5 * kl).flatten(1).mean(1) / math.log(2)
    return (noise - eps).pow(2).flatten(1).mean(1) + lam * T * vlb


W(hybrid_loss, "eps is detached, too", "gradient", "You stopped the gradient at eps as well.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    error = ((true_mean - mean) ** 2 / log_var.exp()).detach()
    kl = 0.5 * (log_var - true_log_var + torch.exp(true_log_var - log_var) + error - 1)
    return F.mse_loss(eps, noise, reduction="none").flatten(1).mean(1) + lam * T * kl.flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "the whole quotient is detached", "gradient", "You detached the whole distance of the means")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = 0.5 * (
        log_var
        - true_log_var
        + torch.exp(true_log_var - log_var)
        + (true_mean - mean.detach()) ** 2 / log_var.exp()
        - 1
    )
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * kl.flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "T is forgotten", "factor", "You forgot the factor T.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = 0.5 * (
        log_var
        - true_log_var
        + torch.exp(true_log_var - log_var)
        + (true_mean - mean.detach()) ** 2 / log_var.exp()
        - 1
    )
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * T * kl.flatten(1).mean(1)


W(hybrid_loss, "nats", "factor", "Your KL is in nats.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = 0.5 * (
        log_var
        - true_log_var
        + torch.exp(true_log_var - log_var)
        + (true_mean - mean.detach()) ** 2 / log_var.exp()
        - 1
    )
    return ((noise - eps) ** 2).flatten(1).sum(1) + lam * T * kl.flatten(1).sum(1) / math.log(2)


W(hybrid_loss, "sums over D", "layout", "You summed over D, in both parts.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = 0.5 * (
        log_var
        - true_log_var
        + torch.exp(true_log_var - log_var)
        + (true_mean - mean.detach()) ** 2 / log_var.exp()
        - 1
    )
    return F.mse_loss(eps, noise) + lam * T * kl.mean() / math.log(2)


W(hybrid_loss, "one number for the batch", "layout", "You return the mean over the batch, one number.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = 0.5 * (
        log_var
        - true_log_var
        + torch.exp(true_log_var - log_var)
        + (true_mean - mean.detach()) ** 2 / log_var.exp()
        - 1
    )
    return F.mse_loss(eps, noise) + lam * T * kl.flatten(1).mean(1) / math.log(2)


W(
    hybrid_loss,
    "the squared error is averaged over the batch, too",
    "layout",
    "Your squared error is the mean over the whole",
)


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    q = torch.distributions.Normal(true_mean, (true_log_var / 2).exp())
    p = torch.distributions.Normal(mean.detach(), (log_var / 2).exp())
    kl = torch.distributions.kl_divergence(p, q)
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * T * kl.flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "KL(p || q)", "order", "Your KL has its arguments exchanged")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = log_var - true_log_var + torch.exp(true_log_var - log_var) + (true_mean - mean.detach()) ** 2 / log_var.exp()
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * T * (kl - 1).flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "no 1/2", "factor", "You forgot the factor 1/2 of the KL.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = log_var - true_log_var + torch.exp(true_log_var - log_var) + (true_mean - mean.detach()) ** 2 / log_var.exp()
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * T * (0.5 * kl).flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "no -1", "factor", "You forgot the - 1 of the KL.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = log_var - true_log_var + torch.exp(true_log_var - log_var) + (true_mean - mean.detach()) ** 2 / log_var.exp()
    kl = 0.5 * (kl - 1)
    return lam * ((noise - eps) ** 2).flatten(1).mean(1) + T * kl.flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "lam before the simple loss", "order", "lam stands at L_simple.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = log_var - true_log_var + torch.exp(true_log_var - log_var) + (true_mean - mean.detach()) ** 2 / log_var.exp()
    kl = 0.5 * (kl - 1)
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * kl.flatten(1).mean(1)


W(hybrid_loss, "no T and nats", "two", "You forgot the factor T.", "Your KL is in nats.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = log_var - true_log_var + torch.exp(true_log_var - log_var) + (true_mean - mean.detach()) ** 2 / log_var.exp()
    kl = 0.5 * (kl - 1)
    return ((noise - eps) ** 2).flatten(1).mean(1) + 0.001 * T * kl.flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "lam is always 0.001", "ignored-argument", "does not depend on lam")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = log_var - true_log_var + torch.exp(true_log_var - log_var) + (true_mean - mean.detach()) ** 2 / log_var
    kl = 0.5 * (kl - 1)
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * T * kl.flatten(1).mean(1) / math.log(2)


W(hybrid_loss, "divided by the log variance", "formula", "You divided the squared distance of the means by log_var.")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    q = torch.distributions.Normal(true_mean, (true_log_var / 2).exp())
    p = torch.distributions.Normal(mean.detach(), (log_var / 2).exp())
    vlb = reduce(torch.distributions.kl_divergence(q, p), "b ... -> b", "mean") / math.log(2)
    return reduce((noise - eps) ** 2, "b ... -> b", "mean") + lam * T * vlb


C(hybrid_loss, "torch.distributions and einops")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    with torch.no_grad():
        squared = (true_mean - mean) ** 2
    ratio = true_log_var - log_var
    bits = 0.5 * (torch.expm1(ratio) - ratio + squared * torch.exp(-log_var)) / torch.log(torch.tensor(2.0))
    axes = list(range(1, noise.ndim))
    return torch.mean((noise - eps) ** 2, axes) + lam * T * torch.mean(bits, axes)


C(hybrid_loss, "the distance under no_grad")


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    fixed = mean.clone().detach()
    losses = []
    for i in range(noise.shape[0]):
        var = torch.exp(log_var[i])
        kl = 0.5 * (log_var[i] - true_log_var[i] + (true_log_var[i].exp() + (true_mean[i] - fixed[i]) ** 2) / var - 1)
        losses.append(F.mse_loss(eps[i], noise[i]) + lam * T * kl.mean() * math.log2(math.e))
    return torch.stack(losses)


C(hybrid_loss, "an image at a time")


# ---------------------------------------------------------------- 5.4


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)
    selected = log_p[range(len(log_p)), y]
    grad = torch.autograd.grad(selected.mean(), x)[0]
    return mean + scale * var * grad


W(guided_mean, "mean over the batch", "factor", "You averaged over the batch")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    loss = F.cross_entropy(classifier(x, t), y, reduction="sum")
    grad = torch.autograd.grad(loss, x)[0]
    return mean + scale * var * grad


W(guided_mean, "the gradient of the loss", "sign", "You subtracted the gradient")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    loss = F.nll_loss(classifier(x, t), y)
    loss.backward()
    return mean - scale * var * x.grad


W(guided_mean, "F.nll_loss averages", "factor", "You averaged over the batch")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    loss = F.cross_entropy(classifier(x, t), y)
    loss.backward()
    return mean + scale * var * x.grad


W(guided_mean, "the averaged loss, added", "two", "You averaged over the batch", "You subtracted the gradient")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)[torch.arange(len(y)), y].sum()
    return mean + scale * var.sqrt() * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "standard deviation", "square-root", "You scaled the gradient by the standard deviation.")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)[torch.arange(len(y)), y].sum()
    return mean + scale * var.exp() * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "var taken for log var", "formula", "You took var for a log variance")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    p = classifier(x, t).exp()[torch.arange(len(y)), y].sum()
    return mean + scale * var * torch.autograd.grad(p, x)[0]


W(guided_mean, "the probability's gradient", "formula", "You took the gradient of the probability.")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    p = F.softmax(classifier(x, t), dim=1)[torch.arange(len(y)), y].sum()
    return mean + scale * var * torch.autograd.grad(p, x)[0]


W(guided_mean, "a softmax without logarithm", "formula", "You took the gradient of the probability.")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)[:, y].sum()
    return mean + scale * var * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "[:, y]", "indexing", "log_p[:, y] is (B, B)")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)[y].sum()
    return mean + scale * var * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "[y]", "indexing", "picks rows")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t).sum()
    return mean + scale * var * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "y is not used", "ignored-argument", "You took the gradient of all classes together.")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x_t.requires_grad_(True)
    log_p = classifier(x_t, t)[torch.arange(len(y)), y].sum()
    return mean + scale * var * torch.autograd.grad(log_p, x_t)[0]


W(guided_mean, "requires_grad_ on the caller's x_t", "in-place", "requires_grad on in the caller's x_t")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x_t.requires_grad_(True)
    log_p = classifier(x_t, t)[torch.arange(len(y)), y].mean()
    return mean + scale * var * torch.autograd.grad(log_p, x_t)[0]


W(
    guided_mean,
    "requires_grad_ on x_t, and the mean",
    "two",
    "requires_grad on in the caller's x_t",
    "You averaged over the batch",
)


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().clone().requires_grad_(True)
    log_p = classifier(x, t)[torch.arange(len(y)), y].sum()
    return mean + scale * var * torch.autograd.grad(log_p, x, create_graph=True)[0]


W(guided_mean, "create_graph", "gradient", "Your result holds the graph")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = mean.detach().requires_grad_(True)
    log_p = classifier(x, t)[torch.arange(len(y)), y].sum()
    return mean + scale * var * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "the gradient at the mean", "table", "You took the gradient at mean.")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)[torch.arange(len(y)), y].sum()
    return mean + var * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "no scale", "ignored-argument", "You forgot the scale.")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)[torch.arange(len(y)), y].sum()
    return mean + scale * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "no variance", "ignored-argument", "You forgot var.")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)[torch.arange(len(y)), y].sum()
    grad = torch.autograd.grad(log_p, x)[0]
    return mean + scale * var * grad / grad.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))


W(guided_mean, "a unit gradient", "formula", "You divided the gradient by its norm.")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, torch.zeros_like(t))[torch.arange(len(y)), y].sum()
    return mean + scale * var * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "the classifier is told t = 0", "table", "You told the classifier t = 0")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_(True)
    log_p = classifier(x, t)[torch.arange(len(y)), y].sum()
    return mean + scale * var * 0.5 * torch.autograd.grad(log_p, x)[0]


W(guided_mean, "a stray 1/2", "factor", "has the factor 0.5")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    def own(image, step, label):
        return classifier(image[None], step[None])[0].gather(0, label[None])[0]

    return mean + scale * var * torch.vmap(torch.func.grad(own))(x_t, t, y)


C(guided_mean, "vmap and func.grad")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    def total(x):
        return torch.take_along_dim(classifier(x, t).log_softmax(1), rearrange(y, "b -> b 1"), 1).sum()

    return torch.addcmul(mean, scale * var, torch.func.grad(total)(x_t))


C(guided_mean, "func.grad of a second log_softmax")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.clone().requires_grad_()
    F.cross_entropy(classifier(x, t), y, reduction="sum").backward()
    return mean - scale * (var * x.grad)


W(guided_mean, "right, but not under no_grad", "gradient", "your gradient fails where gradients are off")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    x = x_t.detach().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda x: classifier(x, t), x)
    out = [mean[i] + scale * var[i] * jacobian[i, y[i], i] for i in range(len(x))]
    return torch.stack(out)


C(guided_mean, "a row of the Jacobian")


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    chosen = F.one_hot(y, classifier(x_t, t).shape[1])
    x = torch.autograd.Variable(x_t.data, requires_grad=True)
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(classifier(x, t), x, chosen.double())
    return mean.double() + scale * var.double() * grad


C(guided_mean, "a one-hot vector-Jacobian product, in float64")


# ---------------------------------------------------------------- 5.5


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t)[range(len(y)), y].sum(), x)[0]
    a = alphas_bar[t].view(-1, *[1] * (x.ndim - 1))
    return eps + scale * (1 - a).sqrt() * grad


W(guided_eps, "plus", "sign", "You added the gradient.")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t)[range(len(y)), y].sum(), x)[0]
    a = alphas_bar[t].view(-1, *[1] * (x.ndim - 1))
    return eps - scale * (1 - a) * grad


W(guided_eps, "no root", "square-root", "You scaled the gradient by 1 - alpha_bar")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t)[range(len(y)), y].sum(), x)[0]
    a = alphas_bar[t].view(-1, *[1] * (x.ndim - 1))
    return eps - scale * a.sqrt() * grad


W(guided_eps, "the image's root", "table", "You scaled the gradient by sqrt(alpha_bar)")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t)[range(len(y)), y].sum(), x)[0]
    a = alphas_bar[t].view(-1, *[1] * (x.ndim - 1))
    return eps - scale / (1 - a).sqrt() * grad


W(guided_eps, "divided", "formula", "You divided the gradient by sqrt(1 - alpha_bar).")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t)[range(len(y)), y].sum(), x)[0]
    return eps - scale * grad


W(guided_eps, "the bare gradient", "ignored-argument", "You forgot sqrt(1 - alpha_bar)")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t)[range(len(y)), y].mean(), x)[0]
    a = alphas_bar[t].view(-1, *[1] * (x.ndim - 1))
    return eps - scale * (1 - a).sqrt() * grad


W(guided_eps, "mean over the batch", "factor", "You averaged over the batch")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t)[range(len(y)), y].sum(), x)[0]
    return eps - scale * (1 - alphas_bar[t]).sqrt() * grad


W(guided_eps, "shape (B,)", "broadcast", "Your alphas_bar[t] has shape (B,)")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t)[range(len(y)), y].sum(), x)[0]
    a = alphas_bar[t - 1].view(-1, *[1] * (x.ndim - 1))
    return eps - scale * (1 - a).sqrt() * grad


W(guided_eps, "t - 1", "indexing", "You read alphas_bar at t - 1.")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t).max(1).values.sum(), x)[0]
    a = alphas_bar[t].view(-1, *[1] * (x.ndim - 1))
    return eps - scale * (1 - a).sqrt() * grad


W(guided_eps, "the most probable class", "ignored-argument", "You guided each image to its most probable class.")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        grad = torch.autograd.grad(classifier(x, t).exp()[range(len(y)), y].sum(), x)[0]
    a = alphas_bar[t].view(-1, *[1] * (x.ndim - 1))
    return eps - scale * (1 - a) * grad


W(
    guided_eps,
    "the probability, and no root",
    "two",
    "You took the gradient of the probability.",
    "You scaled the gradient by 1 - alpha_bar",
)


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    x_t.requires_grad = True
    grad = torch.autograd.grad(classifier(x_t, t)[range(len(y)), y].sum(), x_t)[0]
    a = alphas_bar[t].view(-1, *[1] * (x_t.ndim - 1))
    return eps - scale * (1 - a).sqrt() * grad


W(guided_eps, "x_t.requires_grad = True", "in-place", "requires_grad on in the caller's x_t")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    x_t.requires_grad_()
    (grad,) = torch.autograd.grad(classifier(x_t, t)[range(len(y)), y].sum(), x_t, create_graph=True)
    return eps - scale * (1 - alphas_bar[t]).sqrt().view(-1, *[1] * (x_t.ndim - 1)) * grad


W(guided_eps, "x_t is changed and the graph kept", "in-place", "in the caller's x_t, and your result holds the graph.")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    score = -eps / (1 - alphas_bar[t]).sqrt().view(-1, *[1] * (eps.ndim - 1))
    x = x_t.detach().requires_grad_(True)
    score = score + scale * torch.autograd.grad(classifier(x, t)[range(len(y)), y].sum(), x)[0]
    return -(1 - alphas_bar[t]).sqrt().view(-1, *[1] * (eps.ndim - 1)) * score


W(guided_eps, "by way of the score, not under no_grad", "gradient", "your gradient fails where gradients are off")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    total = lambda x: classifier(x, t).gather(1, y[:, None]).sum()  # noqa: E731
    std = rearrange(torch.sqrt(1 - alphas_bar[t]), f"b -> b {'1 ' * (eps.ndim - 1)}").to(eps.dtype)
    return eps - scale * std * torch.func.grad(total)(x_t)


C(guided_eps, "func.grad and einops")


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    out = []
    for i in range(len(x_t)):
        x = x_t[i : i + 1].clone().requires_grad_(True)
        classifier(x, t[i : i + 1])[0, y[i]].backward()
        out.append(eps[i] - scale * math.sqrt(1 - alphas_bar[t[i]]) * x.grad[0])
    return torch.stack(out)


W(guided_eps, "an image at a time, not under no_grad", "gradient", "your gradient fails where gradients are off")


# ---------------------------------------------------------------- 5.7


def walk(
    combine=lambda c, u, s: u + s * (c - u),
    start=lambda steps: steps[::-1],
    null=lambda y: None,
    told=lambda x, t: torch.full((x.shape[0],), t),
    clip=lambda x_0: x_0.clamp(-1, 1),
    again=lambda x, a, x_0, e: (x - a.sqrt() * x_0) / (1 - a).sqrt(),
    following=lambda bar, t, left: bar[left[0]] if left else torch.tensor(1.0),
):
    """One way to write the chain, with places to get it wrong."""

    def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
        x, left = x_T, list(start(timesteps))
        while left:
            t = left.pop(0)
            cond, uncond = model(x, told(x, t), y), model(x, told(x, t), null(y))
            e, a, b = combine(cond, uncond, scale), alphas_bar[t], following(alphas_bar, t, left)
            x_0 = clip((x - (1 - a).sqrt() * e) / a.sqrt())
            x = b.sqrt() * x_0 + (1 - b).sqrt() * again(x, a, x_0, e)
            yield x

    return guided_chain


C(walk(), "a list that gets shorter")
W(walk(combine=lambda c, u, s: (1 + s) * c - s * u), "s as w", "factor", "You took scale for the paper's w")
W(walk(combine=lambda c, u, s: c + s * (u - c)), "the two exchanged", "order", "You exchanged the two estimates")
W(walk(combine=lambda c, u, s: c), "only the label", "ignored-argument", "scale has no effect")
W(walk(start=lambda steps: steps), "upwards", "order", "You walk through timesteps upwards, to the next higher")
W(walk(null=torch.zeros_like), "label 0", "table", "asked with label 0 instead of without one")
W(walk(null=lambda y: torch.full_like(y, -1)), "label -1", "table", "model expects labels y in 0..2, or None")
W(
    walk(following=lambda bar, t, left: bar[left[0]] if left and left[0] else torch.tensor(1.0)),
    "`if p` where p is 0",
    "edge",
    "You treat timestep 0 as if it were None",
)
W(walk(following=lambda bar, t, left: bar[t]), "the level stays", "table", "You add the noise of the level you came")
W(walk(told=lambda x, t: t), "t as an int", "layout", "model expects t of shape (2,) and dtype torch.int64, got int")
W(walk(told=lambda x, t: torch.tensor(t)), "t without batch", "layout", "model expects t of shape (2,)")
W(walk(told=lambda x, t: torch.full((len(x),), t + 1)), "t + 1", "table", "You tell the network t + 1.")
W(walk(clip=lambda x: x), "no clip", "clip", "You did not clip x_0.")
W(walk(again=lambda x, a, x_0, e: e), "eps as it was", "clip", "You clipped x_0 and kept eps")
W(
    walk(following=lambda bar, t, left: bar[t - 1] if t else torch.tensor(1.0)),
    "to t - 1",
    "indexing",
    "You step to t - 1, and at t = 0 to the clean image.",
)
W(
    walk(following=lambda bar, t, left: bar[left[0]] if left else bar[0]),
    "the last step to alphas_bar[0]",
    "edge",
    "Your last step leads to alphas_bar[0]",
)
W(
    walk(following=lambda bar, t, left: bar[left[0]] if left else bar[-1]),
    "the last step wraps around",
    "edge",
    "Your last step reads alphas_bar[-1]",
)
W(walk(start=lambda steps: steps[:0:-1]), "the first timestep is left out", "edge", "You leave out timesteps[0]")
W(
    walk(clip=lambda x: x, combine=lambda c, u, s: (1 + s) * c - s * u),
    "no clip, and s as w",
    "two",
    "You did not clip x_0.",
    "You took scale for the paper's w",
)


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x = x_T
    for k in range(len(timesteps) - 1, -1, -1):
        t = torch.full((len(x),), timesteps[k])
        a, b = alphas_bar[timesteps[k]], alphas_bar[timesteps[k - 1]]
        eps = (1 - scale) * model(x, t, None) + scale * model(x, t, y)
        x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        x = b.sqrt() * x_0 + (1 - b).sqrt() * eps
        yield x


W(guided_chain, "timesteps[-1] after the last step", "edge", "Your last step wraps around")


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x = x_T
    for t, t_next in zip(timesteps[::-1], timesteps[-2::-1] + [-1]):
        batch = torch.tensor([t] * len(x))
        a, b = alphas_bar[t], alphas_bar[t_next] if t_next >= 0 else torch.tensor(1.0)
        estimates = []
        for label in (None, y):
            eps = model(x, batch, label)
            estimates.append(((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1))
        x_0 = torch.lerp(*estimates, scale)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        x = b.sqrt() * x_0 + (1 - b).sqrt() * eps
        yield x


W(guided_chain, "each estimate is clipped, not the mixture", "clip", "You clipped each of the two estimates and not")


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x = x_T
    for t, t_next in zip(timesteps[::-1], timesteps[-2::-1] + [-1]):
        batch = torch.tensor([t] * len(x))
        a, b = alphas_bar[t], alphas_bar[t_next] if t_next >= 0 else torch.tensor(1.0)
        uncond = model(x, batch, None)
        eps = uncond + scale * (model(x, batch, y) - uncond)
        x_0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = (b.sqrt() * x_0 + (1 - b).sqrt() * eps).clamp(-1, 1)
        yield x


W(guided_chain, "the state is clipped", "clip", "You clipped the state after the step.")


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x = x_T
    for t, t_next in zip(timesteps[::-1], timesteps[-2::-1] + [-1]):
        batch = torch.tensor([t] * len(x))
        a, b = alphas_bar[t], alphas_bar[t_next] if t_next >= 0 else torch.tensor(1.0)
        uncond = model(x, batch, None)
        eps = uncond + scale * (model(x, batch, y) - uncond)
        x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        x = b.sqrt() * x_0 + (1 - b).sqrt() * torch.randn_like(x)
        yield x


W(guided_chain, "new noise in each step", "random", "Two calls with the same input gave two results.")


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x = x_T
    timesteps.reverse()
    for i, t in enumerate(timesteps):
        batch = torch.tensor([t] * len(x))
        a = alphas_bar[t]
        b = alphas_bar[timesteps[i + 1]] if i + 1 < len(timesteps) else torch.tensor(1.0)
        uncond = model(x, batch, None)
        eps = uncond + scale * (model(x, batch, y) - uncond)
        x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        x = b.sqrt() * x_0 + (1 - b).sqrt() * eps
        yield x


W(guided_chain, "timesteps.reverse()", "in-place", "your function changes timesteps in place", "x[::-1]")


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x = x_T
    for i in reversed(range(len(timesteps))):
        batch = torch.full((len(x),), i)
        a = alphas_bar[timesteps[i]]
        b = alphas_bar[timesteps[i - 1]] if i else torch.tensor(1.0)
        uncond = model(x, batch, None)
        eps = uncond + scale * (model(x, batch, y) - uncond)
        x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        x = b.sqrt() * x_0 + (1 - b).sqrt() * eps
        yield x


W(guided_chain, "the network is told the place", "table", "You tell the network the place in the list.")


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x = x_T
    for i in reversed(range(len(timesteps))):
        batch = torch.full((len(x),), timesteps[i])
        a = alphas_bar[timesteps[i]]
        b = alphas_bar[timesteps[i - 1]] if i else torch.tensor(1.0)
        uncond = model(x, batch, None)
        eps = uncond + scale * (model(x, batch, y) - uncond)
        x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        x = b.sqrt() * x_0 + (1 - b).sqrt() * eps
    yield x


W(guided_chain, "only the image", "count", "You yield the image only.")


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x = x_T.double()
    root, std = alphas_bar.sqrt(), torch.sqrt(1 - alphas_bar)
    root, std = torch.cat([root, torch.ones(1)]), torch.cat([std, torch.zeros(1)])  # index -1 is the clean image
    path = [-1, *timesteps]
    for i in range(len(timesteps), 0, -1):
        t, s = path[i], path[i - 1]
        at = torch.ones(len(x), dtype=torch.long) * t
        eps = torch.lerp(model(x, at, None), model(x, at, y), scale)
        x_0 = torch.clamp((x - std[t] * eps) / root[t], min=-1, max=1)
        x = root[s] * x_0 + std[s] / std[t] * (x - root[t] * x_0)
        yield x


C(guided_chain, "tables that end with the clean image, lerp")


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    *rest, t = timesteps
    at = torch.full_like(y, t)
    a = alphas_bar[t].item()
    b = alphas_bar[rest[-1]].item() if rest else 1.0
    cond, uncond = model(x_T, at, y), model(x_T, at, None)
    eps = scale * cond - (scale - 1) * uncond
    x_0 = (x_T / a**0.5 - (1 / a - 1) ** 0.5 * eps).clip(-1, 1)
    eps = (x_T / a**0.5 - x_0) / (1 / a - 1) ** 0.5
    x = b**0.5 * x_0 + (1 - b) ** 0.5 * eps
    yield x
    if rest:
        yield from guided_chain(model, x, y, scale, rest, alphas_bar)


C(guided_chain, "one step, then the chain that is left")
