"""Samplers of higher order: measured orders, closed forms, diffusers' solvers in float64, and their mechanics."""

import itertools
import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, HeunDiscreteScheduler, PNDMScheduler

from ddpm_lesson import oracle, samplers, spacing
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.predictions import Prediction, epsilon, fixedsmall
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, heun, last, reverse
from ddpm_lesson.schedules import linear, zero_terminal_snr

SOLVERS = {name: getattr(samplers, name) for name in ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "plms")}
ALL = SOLVERS | {"dpmpp_2m_sde": dpmpp_2m_sde}
every_solver = pytest.mark.parametrize("name", SOLVERS)
every_sampler = pytest.mark.parametrize("name", ALL)
EVALUATIONS = {"heun": lambda T: 2 * T - 1, "plms": lambda T: T + 1 if T > 1 else 1}


def log_snr_grid(steps, start=157):
    """A process whose steps are even in log-SNR, from sigma = 0.05 to start, by default pure noise."""
    sigma = torch.linspace(math.log(0.05), math.log(start), steps + 1, dtype=torch.float64).exp()
    return GaussianDiffusion.from_alphas_bar(1 / (1 + sigma**2))


def two_clusters(base):
    means = torch.tensor([[0.8], [-0.6]], dtype=torch.float64)
    return oracle.Mixture(base, torch.tensor([0.3, 0.7]), means, torch.tensor([0.25, 0.2]))


def before_the_last_jump(sampler, steps, start=157):
    process = log_snr_grid(steps, start)
    x_T = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1)
    return next(state.x_t for state in sampler(process, two_clusters(process), x_T) if state.i == 1)


# Orders. The error of a method of order p falls by 2^p when the step is halved. The reference is a chain of 5,120 steps
# of third order, whose own error is below 1e-9.

ORDERS = {"ddim": 1, "heun": 2, "dpmpp_2m": 2, "dpmpp_2s": 2, "plms": 2, "dpmpp_3m": 3}


@pytest.fixture(scope="module")
def solution():
    return before_the_last_jump(dpmpp_3m, 5120)


@pytest.mark.parametrize("name", ORDERS)
def test_measured_order(name, solution):
    coarse, fine = ((before_the_last_jump(SOLVERS[name], n) - solution).abs().max().item() for n in (320, 640))
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[name], abs=0.15)


def test_a_third_order_that_begins_in_the_middle_is_a_second_one():
    """The first step is DDIM's: its error, of second order, is made once. In pure noise it is too small to be seen."""
    steps = before_the_last_jump(dpmpp_3m, 2560, start=3)
    errors = [(before_the_last_jump(dpmpp_3m, n, start=3) - steps).abs().max().item() for n in (160, 320)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


def test_the_published_third_order_is_of_second_order(solution, monkeypatch):
    # The authors' code and diffusers weigh the parabola's bend by half of the integral.
    def half_bent(x_0, level):
        to, here, *back = (each.log_snr for each in level)
        h = to - here
        r0, r1 = ((here - back[0]) / h, (back[0] - back[1]) / h)
        first, second = (x_0[0] - x_0[1]) / r0, (x_0[1] - x_0[2]) / r1
        slope, bend = first + r0 / (r0 + r1) * (first - second), (first - second) / (r0 + r1)
        phi_1, phi_2 = math.expm1(-h), math.expm1(-h) / h + 1
        return x_0[0] - (phi_2 * slope - (phi_2 / h - 0.5) * bend) / phi_1

    monkeypatch.setattr(samplers.multistep, "_bent", half_bent)
    errors = [(before_the_last_jump(dpmpp_3m, n) - solution).abs().max().item() for n in (320, 640)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)
    monkeypatch.undo()
    assert (before_the_last_jump(dpmpp_3m, 640) - solution).abs().max() < errors[1] / 5


def test_third_order_is_exact_for_an_x_0_that_is_a_parabola_in_log_snr():
    # With s = log-SNR and x_0 = 1 + 2 s - s^2 / 3 the ODE is x / noise = C + integral of e^s x_0(s) ds, in closed form.
    process = log_snr_grid(12)
    s = 0.5 * process.snr.log()

    def denoise(x_t, t, prev=None):
        x_0 = torch.full_like(x_t, (1 + 2 * s[t] - s[t] ** 2 / 3).item())
        return Prediction(x_0, process.eps_from_x_0(x_t, t, x_0))

    def integral(s):  # of e^s (1 + 2 s - s^2 / 3): e^s (p - p' + p'')
        return s.exp() * ((1 + 2 * s - s**2 / 3) - (2 - 2 * s / 3) - 2 / 3)

    states = {state.i: state.x_t.item() for state in dpmpp_3m(process, denoise, torch.ones(1, 1, dtype=torch.float64))}
    noise = process.sqrt_one_minus_alphas_bar
    for i in range(process.T - 3, 1, -1):  # between the first two steps and the last two
        way = integral(s[i - 1]) - integral(s[i])
        expected = noise[i - 1] * (states[i + 1] / noise[i] + way)
        assert states[i] == pytest.approx(expected.item(), rel=1e-9)


# Closed forms.


@every_sampler
@pytest.mark.parametrize("steps", [[0], [0, 999], [0, 3, 4, 200, 999], range(0, 1000, 100)])
def test_a_single_point_is_found_exactly(name, steps):
    # x_0 is the same seen from everywhere, so that no order matters and every step is exact. Rounding, 1e-16, grows by
    # 1 / sqrt(alphas_bar_T) = 157 in x and by 100 in eps at t = 0, and where eps is averaged by 157 again.
    base = GaussianDiffusion(linear(1000))
    point = torch.tensor([0.5, -0.25], dtype=torch.float64)
    denoise = oracle.GaussianData(base, point, 0.0)
    x_0 = last(ALL[name](base.respaced(list(steps)), denoise, torch.randn(3, 2, dtype=torch.float64)))
    torch.testing.assert_close(x_0, point.expand(3, 2), rtol=0, atol=1e-9)


# On N(m, s^2) data x_0 and eps are affine in x_t, and so is each step. The recursions are those of the papers, in their
# own variables: lambda, h and exp(-h) for DPM-Solver++, sigma and x / signal for EDM, transferred eps for PNDM.

M, S = 0.3, 0.5


def seen(x, signal, noise):
    """x_0 and eps that a perfect network sees."""
    x_0 = M + signal * S**2 / (signal**2 * S**2 + noise**2) * (x - signal * M)
    return x_0, (x - signal * x_0) / noise


def move(x, x_0, a, b):
    """DPM-Solver++'s first order: sigma' / sigma x - alpha' (exp(-h) - 1) x_0."""
    if b[1] == 0:
        return x_0
    h = math.log(b[0] / b[1]) - math.log(a[0] / a[1])
    return b[1] / a[1] * x - b[0] * math.expm1(-h) * x_0


def ratio(a, b, c):
    """h_before / h for levels a before b before c."""
    la, lb, lc = (math.log(signal / noise) for signal, noise in (a, b, c))
    return (lb - la) / (lc - lb)


def by_2m(x, grid):
    before = None
    for k, (a, b) in enumerate(itertools.pairwise(grid)):
        x_0, _ = seen(x, *a)
        D = x_0
        if before is not None and b[1] > 0:
            r = ratio(grid[k - 1], a, b)
            D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * before
        x, before = move(x, D, a, b), x_0
    return x


def by_2s(x, grid):
    k = 0
    while k < len(grid) - 1:
        x_0, _ = seen(x, *grid[k])
        if k + 3 < len(grid):
            u, _ = seen(move(x, x_0, grid[k], grid[k + 1]), *grid[k + 1])
            r = ratio(grid[k], grid[k + 1], grid[k + 2])  # of the first part to the second
            share = r / (1 + r)
            x, k = move(x, x_0 + (u - x_0) / (2 * share), grid[k], grid[k + 2]), k + 2
        else:
            x, k = move(x, x_0, grid[k], grid[k + 1]), k + 1
    return x


def by_heun(x, grid):
    y = x / grid[0][0]
    for a, b in itertools.pairwise(grid):
        sigma, then = a[1] / a[0], b[1] / b[0]
        slope = (y - seen(a[0] * y, *a)[0]) / sigma
        tried = y + (then - sigma) * slope
        if then > 0:
            slope = (slope + (tried - seen(b[0] * tried, *b)[0]) / then) / 2
        y = y + (then - sigma) * slope
    return y


def by_plms(x, grid):
    eps = []

    def transfer(x, e, a, b):
        return b[0] * (x - a[1] * e) / a[0] + b[1] * e

    for a, b in itertools.pairwise(grid):
        eps = [seen(x, *a)[1], *eps][:4]
        weights = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
        e = sum(w * each for w, each in zip(weights[len(eps)], eps, strict=True))
        if len(eps) == 1 and b[1] > 0:
            e = (e + seen(transfer(x, e, a, b), *b)[1]) / 2
        x = transfer(x, e, a, b)
    return x


PAPERS = {"dpmpp_2m": by_2m, "dpmpp_2s": by_2s, "heun": by_heun, "plms": by_plms}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 25])
@pytest.mark.parametrize("name", PAPERS)
def test_moments_on_gaussian_data_are_those_of_the_papers_recursions(name, steps):
    base = GaussianDiffusion(linear(1000))
    visited = spacing.trailing(1000, steps)
    products = torch.cumprod(1 - linear(1000), 0).tolist()
    grid = [(products[t] ** 0.5, (1 - products[t]) ** 0.5) for t in reversed(visited)] + [(1.0, 0.0)]
    denoise = oracle.GaussianData(base, torch.tensor([M], dtype=torch.float64), S)
    at_0, at_1 = last(SOLVERS[name](base.respaced(visited), denoise, torch.tensor([[0.0], [1.0]]).double())).flatten()
    mean, slope = PAPERS[name](0.0, grid), PAPERS[name](1.0, grid) - PAPERS[name](0.0, grid)
    assert at_0.item() == pytest.approx(mean, abs=1e-9)
    assert (at_1 - at_0).item() == pytest.approx(slope, abs=1e-9)  # the sample's standard deviation


@every_solver
def test_standard_normal_data_leave_x_T_where_it_is(name):
    # Their x_0 is signal * x_t, and the ODE's solution is constant: the sample is x_T, up to the order's error.
    base = GaussianDiffusion(linear(1000))
    denoise = oracle.GaussianData(base, torch.zeros(1, dtype=torch.float64), 1.0)
    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64).view(-1, 1)
    x_0 = last(SOLVERS[name](base.respaced(spacing.karras(base.snr, 60)), denoise, x_T))
    torch.testing.assert_close(x_0, x_T, rtol=0.02 if name != "ddim" else 0.1, atol=0)


def test_the_noisy_solver_is_ancestral_while_it_has_seen_one_x_0():
    # Two steps: the first has seen one x_0, the last takes x_0 as it is. fixedsmall is its noise.
    base = GaussianDiffusion(linear(1000))
    chain, denoise = base.respaced([400, 999]), two_clusters(base)
    x_T = torch.randn(5, 1, dtype=torch.float64)
    ours = dpmpp_2m_sde(chain, denoise, x_T, generator=torch.Generator().manual_seed(1))
    p = reverse(chain, denoise, fixedsmall)
    expected = ancestral(chain, p, x_T, generator=torch.Generator().manual_seed(1))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a.x_t, b.x_t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("churn", [0.0, 2.0, 40.0])
def test_churn_keeps_the_moments_of_gaussian_data(churn):
    # 40,000 points of N(0.3, 0.5^2): standard errors 0.5 / sqrt(n) and 0.25 sqrt(2 / n). Heun's own error on 200 steps,
    # without churn and from quantiles instead of draws, is below 3e-3.
    n, base = 40_000, GaussianDiffusion(linear(1000))
    denoise = oracle.GaussianData(base, torch.tensor([0.3], dtype=torch.float64), 0.5)
    chain = base.respaced(spacing.karras(base.snr, 200))
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    x_0 = last(heun(chain, denoise, x_T, churn=churn, generator=generator))
    assert x_0.mean().item() == pytest.approx(0.3, abs=4 * 0.5 / n**0.5)
    assert x_0.var().item() == pytest.approx(0.25, abs=4 * 0.25 * (2 / n) ** 0.5 + 3e-3)
    still = last(heun(chain, denoise, x_T))
    correlation = torch.corrcoef(torch.stack([x_0, still]).squeeze(2))[0, 1].item()
    assert correlation > 0.999 if churn == 0 else correlation < 0.9  # with churn x_T does not decide the sample


def test_churn_is_algorithm_2_of_karras():
    # In EDM's coordinates x / signal, on a base whose every second level is visited: churn raises to the one between.
    base, T, generator = log_snr_grid(23), 12, torch.Generator().manual_seed(3)
    chain, denoise = base.respaced(range(1, 24, 2)), two_clusters(base)
    signal = base.alphas_bar.sqrt()
    sigma = (1 - base.alphas_bar).sqrt() / signal
    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64).view(-1, 1)
    churn = T * ((sigma[1] / sigma[0]).item() - 1)
    states = list(heun(chain, denoise, x_T, churn=churn, generator=torch.Generator().manual_seed(3)))

    def slope(x, t):
        return denoise(x * signal[t], t).eps

    x = x_T / signal[23]
    for i, state in zip(reversed(range(T)), states[1:], strict=True):
        t, then = 2 * i + 1, 2 * i - 1
        if t < 23:  # there is no level above the last
            x = x + (sigma[t + 1] ** 2 - sigma[t] ** 2).sqrt() * torch.randn(5, 1, dtype=x.dtype, generator=generator)
            t = t + 1
        change = (sigma[then] if i > 0 else 0) - sigma[t]
        first = slope(x, t)
        tried = x + change * first
        x = x + change * (first + slope(tried, then)) / 2 if i > 0 else tried
        torch.testing.assert_close(state.x_t, x * (signal[then] if i > 0 else 1), rtol=1e-9, atol=1e-9)


def test_a_churn_too_small_for_the_levels_does_nothing_and_draws_nothing():
    base, x_T, before = GaussianDiffusion(linear(1000)), torch.linspace(-2, 2, 5).view(-1, 1), torch.get_rng_state()
    chain, denoise = base.respaced([300, 600, 900]), two_clusters(base)
    assert torch.equal(last(heun(chain, denoise, x_T, churn=1e-4)), last(heun(chain, denoise, x_T)))
    assert torch.equal(torch.get_rng_state(), before)


# diffusers' solvers, with their tables in float64.

BETAS = linear(50, 1e-3, 0.2)


def wavy(x_t, t):
    return torch.sin(3 * x_t + 0.1 * t.view(-1, 1))


def their_chain(scheduler, timesteps, x, noise=None):
    """x_0 of a diffusers scheduler on `wavy`. timesteps: None for its own ten. noise: (S, 8, 2), for each step."""
    scheduler.alphas_cumprod = alphas_bar = torch.cumprod(1 - BETAS, 0)
    if timesteps is None:
        scheduler.set_timesteps(10)
    else:
        scheduler.set_timesteps(timesteps=timesteps[::-1])
        sigmas = ((1 - alphas_bar) / alphas_bar).sqrt()
        visited = [sigmas[int(t)] for t in scheduler.timesteps]
        scheduler.sigmas = torch.stack([*visited, torch.zeros((), dtype=torch.float64)])
    x = x * (1.0 if scheduler.init_noise_sigma == 1 else (1 + scheduler.sigmas[0] ** 2).sqrt())
    for k, t in enumerate(scheduler.timesteps):
        options = {} if noise is None else {"variance_noise": noise[k]}
        output = wavy(scheduler.scale_model_input(x, t), torch.full((8,), int(t)))
        x = scheduler.step(output, t, x, **options).prev_sample
    return x


SHARED = {"num_train_timesteps": 50, "trained_betas": BETAS.tolist()}
DPM = {"final_sigmas_type": "zero", "lower_order_final": True}
WITNESSES = {
    "dpmpp_2m": lambda: DPMSolverMultistepScheduler(**SHARED, **DPM, algorithm_type="dpmsolver++"),
    "dpmpp_2m_sde": lambda: DPMSolverMultistepScheduler(**SHARED, **DPM, algorithm_type="sde-dpmsolver++"),
    "dpmpp_2s": lambda: DPMSolverSinglestepScheduler(**SHARED, **DPM, algorithm_type="dpmsolver++"),
    "heun": lambda: HeunDiscreteScheduler(**SHARED, timestep_spacing="leading"),
    "plms": lambda: PNDMScheduler(**SHARED, skip_prk_steps=True, set_alpha_to_one=True, timestep_spacing="trailing"),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers and numpy 2
@pytest.mark.parametrize("timesteps", [list(range(4, 50, 5)), [0, 3, 8, 13, 20, 26, 33, 40, 49]])
@pytest.mark.parametrize("name", WITNESSES)
def test_solvers_agree_with_diffusers(name, timesteps):
    if name == "plms" and timesteps[0] == 0:
        pytest.skip("PNDMScheduler takes even steps only")
    base = GaussianDiffusion(BETAS)
    x_T = torch.linspace(-2, 2, 16, dtype=torch.float64).view(8, 2)
    noise = torch.randn(len(timesteps), 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    noisy = name == "dpmpp_2m_sde"
    options = {"generator": torch.Generator().manual_seed(3)} if noisy else {}
    ours = last(ALL[name](base.respaced(timesteps), make_denoiser(wavy, base, epsilon), x_T, **options))
    theirs = their_chain(WITNESSES[name](), None if name == "plms" else timesteps, x_T, noise if noisy else None)
    # DPMSolverMultistepScheduler steps in float32 whatever it is given: ten steps of its rounding.
    bound = 10 * torch.finfo(torch.float32).eps * ours.abs().max().item() if "2m" in name else 1e-9
    torch.testing.assert_close(theirs, ours, rtol=0, atol=bound)


# Mechanics.


class Counting:
    """A denoiser that keeps the predictions that it was handed and the steps that it was asked at."""

    def __init__(self):
        self.prev, self.t = [], []

    def __call__(self, x_t, t, prev=None):
        self.prev.append(prev)
        self.t.append(t)
        return Prediction(0.5 * x_t, x_t)


@every_sampler
@pytest.mark.parametrize("T", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("shape", [(3, 2), (1, 1, 4, 4), (0, 2)])
def test_states_run_from_T_to_0(name, T, shape):
    denoise, x_T = Counting(), torch.randn(shape)
    before = x_T.clone()
    states = list(ALL[name](GaussianDiffusion(linear(T, 0.1, 0.5)), denoise, x_T))
    two_at_a_time = {i for i in range(T, -1, -1) if (T - i) % 2 == 0 or i < 2}  # of dpmpp_2s: every second i, and 1
    every = set(range(T + 1)) if name != "dpmpp_2s" else two_at_a_time
    assert [state.i for state in states] == sorted(every, reverse=True)
    assert torch.equal(states[0].x_t, before) and torch.equal(x_T, before) and states[0].prediction is None
    assert all(state.x_t.shape == shape for state in states)
    assert len(denoise.t) == EVALUATIONS.get(name, lambda T: T)(T)
    assert denoise.prev[0] is None and all(prev is not None for prev in denoise.prev[1:])


@every_sampler
def test_nothing_runs_before_it_is_asked_for(name):
    denoise = Counting()
    states = ALL[name](GaussianDiffusion(linear(5, 0.1, 0.5)), denoise, torch.randn(2, 1))
    next(states)
    assert denoise.t == []
    next(states)
    assert 1 <= len(denoise.t) <= 2


@every_sampler
def test_the_network_is_asked_at_the_bases_steps(name):
    base, denoise = GaussianDiffusion(linear(1000)), Counting()
    last(ALL[name](base.respaced([0, 300, 500, 999]), denoise, torch.randn(2, 1)))
    assert sorted(set(denoise.t)) == [0, 300, 500, 999] and denoise.t[0] == 999


@every_sampler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_images_keep_their_dtype(name, dtype):
    states = ALL[name](GaussianDiffusion(linear(4, 0.1, 0.5)), Counting(), torch.randn(2, 1, 4, 4).to(dtype))
    assert all(state.x_t.dtype == dtype for state in states)


@every_sampler
def test_only_noisy_samplers_draw_noise(name):
    before, chain = torch.get_rng_state(), GaussianDiffusion(linear(1000)).respaced([0, 300, 500, 999])
    assert last(ALL[name](chain, Counting(), torch.ones(2, 1))).dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), before) == (name != "dpmpp_2m_sde")


@every_sampler
def test_a_chain_that_ends_in_pure_noise(name):
    base = GaussianDiffusion(zero_terminal_snr(linear(1000)))
    point = torch.tensor([0.5], dtype=torch.float64)
    chain, x_T = base.respaced(spacing.trailing(1000, 6)), torch.randn(3, 1, dtype=torch.float64)
    denoise = oracle.GaussianData(base, point, 0.0)
    if name in ("heun", "plms"):
        with pytest.raises(ValueError, match="steps with eps and needs alphas_bar_T > 0"):
            last(ALL[name](chain, denoise, x_T))
        return
    torch.testing.assert_close(last(ALL[name](chain, denoise, x_T)), point.expand(3, 1), rtol=0, atol=1e-10)


def test_a_negative_churn_is_refused():
    with pytest.raises(ValueError, match=r"churn must not be negative, got -0.1"):
        last(heun(GaussianDiffusion(linear(5, 0.1, 0.5)), Counting(), torch.ones(2, 1), churn=-0.1))


def test_ddim_and_2m_take_the_same_first_and_last_step():
    base = GaussianDiffusion(linear(1000))
    chain, denoise, x_T = base.respaced([200, 600, 999]), two_clusters(base), torch.randn(4, 1, dtype=torch.float64)
    ours, theirs = list(dpmpp_2m(chain, denoise, x_T)), list(ddim(chain, denoise, x_T))
    torch.testing.assert_close(ours[1].x_t, theirs[1].x_t, rtol=0, atol=1e-12)
    assert (ours[2].x_t - theirs[2].x_t).abs().max() > 1e-3
    torch.testing.assert_close(ours[3].x_t, ours[3].prediction.x_0, rtol=0, atol=1e-12)


def test_the_first_two_steps_of_3m_are_those_of_2m():
    process, x_T = log_snr_grid(6), torch.linspace(-2, 2, 5, dtype=torch.float64).view(-1, 1)
    second, third = (list(sampler(process, two_clusters(process), x_T)) for sampler in (dpmpp_2m, dpmpp_3m))
    for ours, theirs in zip(third[:3], second[:3], strict=True):
        assert torch.equal(ours.x_t, theirs.x_t)
    assert (third[3].x_t - second[3].x_t).abs().max() > 1e-3
