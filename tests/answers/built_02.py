# ruff: noqa: B905, E501, E731, E741
"""Answers to the exercises of notebook 02 in which something is built, written from their statements alone."""

import torch
from torch import nn


def extract(v, t, x_shape):
    return v[t].view(-1, *[1] * (len(x_shape) - 1))


def q_sample(x_0, t, noise, alphas_bar):
    a = extract(alphas_bar, t, x_0.shape)
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


def training_loop_w0(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    k = 0
    for x_0, t, noise in batches:
        k += 1
        for g in opt.param_groups:
            g["lr"] = lr * min(1, k / warmup)
        l = loss(model, x_0, t, noise).mean()
        l.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        opt.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.copy_(decay * a + (1 - decay) * p)
        yield l.item()


def training_loop_w1(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    k = 0
    for x_0, t, noise in batches:
        k += 1
        for g in opt.param_groups:
            g["lr"] = lr * min(1, k / warmup)
        l = loss(model, x_0, t, noise).mean()
        opt.zero_grad()
        l.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        opt.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.copy_((1 - decay) * a + decay * p)
        yield l.item()


def training_loop_w2(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    k = 0
    for x_0, t, noise in batches:
        for g in opt.param_groups:
            g["lr"] = lr * min(1, k / warmup)
        l = loss(model, x_0, t, noise).mean()
        opt.zero_grad()
        l.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        opt.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.copy_(decay * a + (1 - decay) * p)
        k += 1
        yield l.item()


def training_loop_w3(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    k = 0
    for x_0, t, noise in batches:
        k += 1
        for g in opt.param_groups:
            g["lr"] = lr * min(1, k / warmup)
        l = loss(model, x_0, t, noise).mean()
        opt.zero_grad()
        l.backward()
        opt.step()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.copy_(decay * a + (1 - decay) * p)
        yield l.item()


def training_loop_w4(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    k = 0
    for x_0, t, noise in batches:
        k += 1
        for g in opt.param_groups:
            g["lr"] = lr * min(1, k / warmup)
        l = loss(model, x_0, t, noise).mean()
        opt.zero_grad()
        l.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.copy_(decay * a + (1 - decay) * p)
        opt.step()
        yield l.item()


def training_loop_w5(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    for k, (x_0, t, noise) in enumerate(batches, 1):
        for g in opt.param_groups:
            g["lr"] = lr * min(1, k / warmup)
        l = loss(model, x_0, t, noise).mean()
        l.backward()
        opt.zero_grad()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        opt.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.copy_(decay * a + (1 - decay) * p)
        yield l.item()


def training_loop_w6(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    for k, (x_0, t, noise) in enumerate(batches, 1):
        for g in opt.param_groups:
            g["lr"] = lr * min(1, k / warmup)
        l = loss(model, x_0, t, noise).mean()
        l.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        opt.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.copy_(decay * a + (1 - decay) * p)
        yield l.item()


def training_loop_w7(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    for k, (x_0, t, noise) in enumerate(batches, 1):
        for g in opt.param_groups:
            g["lr"] = lr * min(1, k / warmup)
        l = loss(model, x_0, t, noise).mean()
        opt.zero_grad()
        l.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.copy_(decay * a + (1 - decay) * p)
        yield l.item()


def training_loop_c0(model, average, batches, loss, lr, warmup, clip_norm, decay):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1.0, (s + 1) / warmup))
    for batch in batches:
        value = loss(model, *batch).mean()
        opt.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=clip_norm)
        opt.step()
        sched.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.lerp_(p, 1 - decay)
        yield float(value)


def training_loop_c1(model, average, batches, loss, lr, warmup, clip_norm, decay):
    params = list(model.parameters())
    opt = torch.optim.Adam(params, lr)
    for k, (x_0, t, noise) in enumerate(batches):
        opt.param_groups[0]["lr"] = lr * min(1, (k + 1) / warmup)
        value = torch.mean(loss(model, x_0, t, noise))
        for p in params:
            p.grad = None
        value.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in params))
        if norm > clip_norm:
            for p in params:
                p.grad.mul_(clip_norm / (norm + 1e-6))
        opt.step()
        for a, p in zip(average.parameters(), params):
            a.data = decay * a.data + (1 - decay) * p.data
        yield value.item()


from answers import Answers, Correct, Wrong  # noqa: E402

answers = Answers()
answers.wrongs += [
    Wrong(
        "training_loop",
        training_loop_w0,
        "the gradients are never cleared",
        "gradient",
        ("You did not clear the gradients",),
    ),
    Wrong(
        "training_loop",
        training_loop_w1,
        "decay and 1 - decay swapped in the average",
        "swap",
        ("decay and 1 - decay are exchanged",),
    ),
    Wrong(
        "training_loop",
        training_loop_w2,
        "the warm-up counts from 0: the first step has learning rate 0",
        "count",
        ("Your warm-up counts from 0, so the first step does nothing",),
    ),
    Wrong(
        "training_loop",
        training_loop_w3,
        "clips after the optimizer's step, without effect",
        "order",
        ("You do not clip, or you clip before backward has made the gradient",),
    ),
    Wrong(
        "training_loop",
        training_loop_w4,
        "the average is updated before the step: it sees the old weights",
        "order",
        ("Your average takes in the weights before the step",),
    ),
    Wrong("training_loop", training_loop_w5, "zero_grad after backward", "order", ("Your model does not move",)),
    Wrong(
        "training_loop", training_loop_w6, "gradients set to 0 before the step", "order", ("Your model does not move",)
    ),
    Wrong("training_loop", training_loop_w7, "step is never called", "order", ("or step() is never called",)),
]
answers.corrects += [
    Correct("training_loop", training_loop_c0, "LambdaLR for the warm-up, lerp_"),
    Correct("training_loop", training_loop_c1, "norm by hand, .data for the average, gradients set to None"),
]
