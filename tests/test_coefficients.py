import copy
import math
import pickle
import re

import mpmath as mp
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from ddpm_lesson import schedules
from ddpm_lesson.coefficients import Coefficients, _Numbers, combine, extract, spread

EPS = torch.finfo(torch.float64).eps
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TABLES = [name for name, table in Coefficients(schedules.linear(2)).named_buffers() if table.is_floating_point()]
LOGARITHMS = {"log_betas", "posterior_log_var", "posterior_log_var_clipped", "log_betas_clipped"}


def exact_tables(betas):
    """Every table from the definitions, with 50 digits; the betas are taken as the float64 numbers that they are."""
    with mp.workdps(50):
        rows, before = [], mp.mpf(1)
        for beta in map(mp.mpf, betas.tolist()):
            alpha = 1 - beta
            now = before * alpha
            var = beta * (1 - before) / (1 - now)
            rows.append(
                {
                    "betas": beta,
                    "alphas": alpha,
                    "alphas_bar": now,
                    "alphas_bar_prev": before,
                    "log_alphas_bar": mp.log(now) if now else -mp.inf,
                    "log_one_minus_alphas_bar": mp.log(1 - now),
                    "snr": now / (1 - now),
                    "sqrt_alphas": mp.sqrt(alpha),
                    "sqrt_betas": mp.sqrt(beta),
                    "sqrt_alphas_bar": mp.sqrt(now),
                    "sqrt_one_minus_alphas_bar": mp.sqrt(1 - now),
                    "sqrt_recip_alphas_bar": 1 / mp.sqrt(now) if now else mp.inf,
                    "sqrt_recipm1_alphas_bar": mp.sqrt((1 - now) / now) if now else mp.inf,
                    "posterior_var": var,
                    "log_betas": mp.log(beta),
                    "posterior_log_var": mp.log(var) if var else -mp.inf,
                    "posterior_mean_coef1": mp.sqrt(before) * beta / (1 - now),
                    "posterior_mean_coef2": mp.sqrt(alpha) * (1 - before) / (1 - now),
                }
            )
            before = now
        tables = {name: [row[name] for row in rows] for name in rows[0]}
        first = tables["posterior_var"][1] if len(rows) > 1 else tables["betas"][0]
        tables["posterior_log_var_clipped"] = [mp.log(first), *tables["posterior_log_var"][1:]]
        tables["log_betas_clipped"] = [mp.log(first), *map(mp.log, tables["betas"][1:])]
    return {name: torch.tensor(list(map(float, table)), dtype=torch.float64) for name, table in tables.items()}


def assert_exact(betas):
    """Every table to 1e-12, relative, with two exceptions that float64 dictates.

    A logarithm turns a relative error of its argument into an absolute one, so the logarithms of variances, which pass
    through 0, are held to 1e-12 absolutely. And log_alphas_bar = L is a sum of T terms: each partial sum is rounded by
    EPS / 2 of itself, half of L on average, and exp turns that into a relative error of T * EPS * |L| / 4. With
    T = 4000 and L = -81 that is 1.8e-11.
    """
    coefficients, exact = Coefficients(betas), exact_tables(betas)
    finite = [0.0, *exact["log_alphas_bar"][exact["log_alphas_bar"].isfinite()].tolist()]
    rtol = max(1e-12, len(betas) * EPS * -min(finite) / 4)
    assert set(TABLES) == set(exact)
    for name in TABLES:
        bound = dict(rtol=rtol, atol=1e-12 if name in LOGARITHMS else 0, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(getattr(coefficients, name), exact[name], **bound)


# The tables.


@pytest.mark.parametrize(
    "betas",
    [
        schedules.linear(1),
        schedules.linear(2),
        schedules.linear(10),
        schedules.linear(1000),
        schedules.linear(4000),
        schedules.constant(1, 1e-8),
        schedules.constant(1000, 1e-8),
        schedules.linear(10, 1e-8, 0.999),
        schedules.linear(10, 0.999, 1e-8),
        schedules.constant(4000),
        schedules.cosine(1000),
        schedules.jsd(1),
        schedules.jsd(10),
        schedules.vp(4),
        schedules.zero_terminal_snr(schedules.linear(1000)),
    ],
    ids=lambda betas: f"T={len(betas)},{betas[0]:.3g}..{betas[-1]:.3g}",
)
def test_tables_against_fifty_digits(betas):
    assert_exact(betas)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-9, 0.999), min_size=1, max_size=12), st.booleans())
def test_tables_of_any_betas_against_fifty_digits(betas, ends_at_one):
    assert_exact(torch.tensor(betas + [1.0] * ends_at_one, dtype=torch.float64))


def test_tables_are_those_of_diffusers():
    """diffusers holds alphas_cumprod in float32: a product of 1000 rounded factors, off by 1000 * 2^-24 at worst."""
    theirs = DDPMScheduler().alphas_cumprod.double()
    ours = Coefficients(schedules.linear(1000)).alphas_bar
    torch.testing.assert_close(ours, theirs, rtol=1000 * 2**-24, atol=0)


@pytest.mark.parametrize("T", [1, 2, 5])
def test_the_first_step_has_a_point_for_a_posterior(T):
    first = {name: getattr(Coefficients(schedules.linear(T)), name)[0].item() for name in TABLES}
    assert first["alphas_bar_prev"] == 1
    assert first["posterior_var"] == 0 and first["posterior_log_var"] == -math.inf
    assert first["posterior_mean_coef1"] == 1 and first["posterior_mean_coef2"] == 0


def test_no_table_shows_a_negative_zero():
    for name in TABLES:
        table = getattr(Coefficients(schedules.jsd(5)), name)
        assert not (torch.signbit(table) & (table == 0)).any(), name


def test_a_last_beta_of_one_leaves_nothing_of_the_image():
    last = {name: getattr(Coefficients(schedules.jsd(10)), name)[-1].item() for name in TABLES}
    assert last["alphas_bar"] == last["snr"] == last["sqrt_alphas_bar"] == last["posterior_mean_coef2"] == 0
    assert last["sqrt_one_minus_alphas_bar"] == 1


def test_betas_may_be_a_list_and_keep_their_digits():
    assert Coefficients([1e-4, 0.02]).betas.tolist() == [1e-4, 0.02]


def test_T_and_alpha_bar_T_are_shown():
    coefficients = Coefficients(schedules.linear(1000))
    assert coefficients.T == 1000
    assert repr(coefficients) == "Coefficients(T=1000, alpha_bar_T=4.036e-05)"


def test_a_process_that_was_not_respaced_maps_each_step_to_itself():
    assert Coefficients(schedules.linear(4)).timestep_map.tolist() == [0, 1, 2, 3]


# The tables as a module.


@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.half(),
        lambda m: m.float(),
        lambda m: m.bfloat16(),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to("cpu", torch.float16),
        lambda m: torch.nn.Sequential(torch.nn.Linear(2, 2), m).half()[1],
    ],
)
def test_tables_keep_float64_under_every_cast(cast):
    coefficients, untouched = cast(Coefficients(schedules.linear(5))), Coefficients(schedules.linear(5))
    for name, table in coefficients.named_buffers():
        assert table.dtype == (torch.int64 if name == "timestep_map" else torch.float64)
        assert torch.equal(table, getattr(untouched, name))


def test_tables_move_with_the_module(device):
    moved = Coefficients(schedules.linear(5)).to(device, torch.float16)
    assert all(table.device.type == device.type for table in moved.buffers())
    assert moved.betas.dtype == torch.float64
    assert torch.equal(moved.cpu().betas, schedules.linear(5))


def test_the_state_dict_is_empty():
    coefficients = Coefficients(schedules.linear(5))
    assert not coefficients.state_dict() and not list(coefficients.parameters())
    coefficients.load_state_dict({})


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_hold_the_same_tables_and_their_own_memory(clone):
    original = Coefficients(schedules.linear(5))
    copied = clone(original)
    for name, table in original.named_buffers():
        assert torch.equal(getattr(copied, name), table)
        assert getattr(copied, name).data_ptr() != table.data_ptr()
    assert copied.half().betas.dtype == torch.float64


def test_the_defaults_of_torch_do_not_matter():
    expected = Coefficients(schedules.linear(5))
    betas = schedules.linear(5)
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            built = Coefficients(betas).half()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(table, getattr(expected, name)) for name, table in built.named_buffers())


def test_betas_are_neither_changed_nor_given_a_graph():
    betas = schedules.linear(5).requires_grad_()
    kept = betas.detach().clone()
    coefficients = Coefficients(betas)
    assert torch.equal(betas, kept)
    assert not any(table.requires_grad for table in coefficients.buffers())


@pytest.mark.parametrize(
    "betas, message",
    [
        ([], r"at least one step, got shape \(0,\)"),
        ([[0.1, 0.2]], r"betas must be \(T,\).*got shape \(1, 2\)"),
        (0.1, r"betas must be \(T,\).*got shape \(\)"),
        ([0.1, 0.0], r"lie in \(0, 1\], got 0.0 at t = 1"),
        ([-0.1, 0.2], r"lie in \(0, 1\], got -0.1\d* at t = 0"),
        ([0.1, 0.2, 1.5], r"lie in \(0, 1\], got 1.5 at t = 2"),
        ([0.1, math.nan], r"lie in \(0, 1\], got nan at t = 1"),
        ([0.1, math.inf], r"lie in \(0, 1\], got inf at t = 1"),
        ([0.1, 1.0, 0.2, 1.0], "allowed at the last step only, got it at t = 1"),
        ([0.1, 1.0, 1.0, 0.2], "allowed at the last step only, got it at t = 1"),
        ([0.1, 0.2, 1.0, 0.3], "allowed at the last step only, got it at t = 2"),
    ],
)
def test_betas_that_are_no_schedule_are_refused(betas, message):
    with pytest.raises(ValueError, match=message):
        Coefficients(torch.tensor(betas))


# extract.


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 3), max_size=4))
def test_extract_takes_one_entry_per_image_and_broadcasts(t, rest):
    v = torch.arange(10, dtype=torch.float64) ** 2
    out = extract(v, torch.tensor(t, dtype=torch.int64), (len(t), *rest))
    assert out.shape == (len(t),) + (1,) * len(rest)
    assert out.flatten().tolist() == [i**2 for i in t]


def test_extract_on_every_device(device):
    v, t = torch.arange(10.0, device=device), torch.tensor([3, 1], device=device)
    assert extract(v, t, (2, 1, 8, 8)).flatten().tolist() == [3, 1]


def test_extract_keeps_the_dtype_of_the_table_or_takes_the_one_asked_for():
    v, t = torch.linspace(0, 1, 5, dtype=torch.float64), torch.tensor([1])
    assert extract(v, t, (1, 2)).dtype == torch.float64
    assert extract(v, t, (1, 2), dtype=torch.float16).dtype == torch.float16
    assert torch.equal(extract(v, t.int(), (1, 2)), extract(v, t, (1, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.uint8])
def test_t_must_be_int64(dtype):
    with pytest.raises(TypeError, match=rf"integer indices \(int64\), got {dtype}"):
        extract(torch.zeros(5), torch.zeros(2, dtype=dtype), (2, 3))


@pytest.mark.parametrize("t, values", [([0, 5], "0 to 5"), ([-1, 2], "-1 to 2"), ([1000, 1000], "1000 to 1000")])
def test_t_must_lie_inside_the_table(t, values):
    with pytest.raises(ValueError, match=rf"t must lie in 0\.\.4, got values from {values}"):
        extract(torch.zeros(5), torch.tensor(t), (2, 3))


@pytest.mark.parametrize("t", [[0, 1, 2], [0], [[0, 1]], 0, []])
def test_t_must_hold_one_step_per_image(t):
    t = torch.tensor(t, dtype=torch.int64)
    shape = re.escape(str(tuple(t.shape)))
    with pytest.raises(ValueError, match=rf"the batch size of x \(2, 3\), got t of shape {shape}"):
        extract(torch.zeros(5), t, (2, 3))


def test_a_shape_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"batch size of x \(\), got t of shape \(1,\)"):
        extract(torch.zeros(5), torch.tensor([0]), ())


def test_t_must_lie_on_the_device_of_the_table():
    with pytest.raises(ValueError, match="one device, got t on meta and the table on cpu"):
        extract(torch.zeros(5), torch.zeros(2, dtype=torch.int64, device="meta"), (2, 3))


def test_a_compiled_extract_does_not_wrap_negative_steps():
    """Compiled code and GPUs skip the check of the range, so the look-up itself has to refuse -1."""
    compiled = torch.compile(extract, fullgraph=True, backend="eager")
    assert compiled(torch.arange(5.0), torch.tensor([3, 1]), (2, 3)).flatten().tolist() == [3, 1]
    with pytest.raises((IndexError, RuntimeError), match="out of (range|bounds)"):
        compiled(torch.arange(5.0), torch.tensor([-1, 1]), (2, 3))


# combine.


@pytest.mark.parametrize("dtype", DTYPES)
def test_combine_sums_in_float32_at_least_and_rounds_once(dtype):
    """Three terms of which two cancel: rounding in between would leave an error of the size of the large ones."""
    c = torch.full((4,), 100.0, dtype=torch.float64)
    x, small = torch.randn(4, 3).to(dtype), torch.randn(4, 3).to(dtype)
    out = combine((c, x), (c / 800, small), (-c, x))
    assert torch.equal(out, combine((100.0, x), (0.125, small), (-100.0, x)))  # one number for all images
    exact = small.double() / 8
    work = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    bound = torch.finfo(dtype).eps / 2 * exact.abs() + work * 200 * x.double().abs()
    assert out.dtype == dtype and ((out.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize(
    "a, b, expected",
    [
        (torch.float16, torch.float32, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_images_of_two_dtypes_are_promoted(a, b, expected):
    for c in (torch.ones(2, dtype=torch.float64), 1.0):
        assert combine((c, torch.ones(2, 3, dtype=a)), (c, torch.ones(2, 3, dtype=b))).dtype == expected


@pytest.mark.parametrize("dtype, expected", [(torch.float16, torch.float32), (torch.float64, torch.float64)])
def test_spread_coefficients_broadcast_in_float32_at_least(dtype, expected):
    x = torch.zeros(2, 3, 4, dtype=dtype)
    each, one = spread(torch.tensor([0.1, 0.2], dtype=torch.float64), x), spread(0.1, x)
    assert each.shape == (2, 1, 1) and one.shape == (1, 1, 1) and each.dtype == one.dtype == expected
    assert each[0].item() == one.item() == torch.tensor(0.1, dtype=expected).item()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_images_must_be_floating_point(dtype):
    for c in (torch.ones(2), 1.0):
        with pytest.raises(TypeError, match=rf"floating point in \[-1, 1\], got {dtype}"):
            combine((c, torch.zeros(2, 3)), (c, torch.zeros(2, 3, dtype=dtype)))


def test_images_must_have_one_shape():
    for c in (torch.ones(2), 1.0):
        with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(2, 1\)"):
            combine((c, torch.zeros(2, 3)), (c, torch.zeros(2, 1)))


@pytest.mark.parametrize("devices", [("meta", "cpu"), ("cpu", "meta"), ("meta", "meta")])
def test_images_must_lie_on_the_device_of_the_table(devices):
    with pytest.raises(ValueError, match="one device, got .*meta.*cpu|one device, got .*cpu.*meta"):
        combine(*((torch.ones(2), torch.zeros(2, 3, device=device)) for device in devices))


@pytest.mark.parametrize("devices", [("meta", "cpu"), ("cpu", "meta")])
@pytest.mark.parametrize("t", [1, torch.tensor([1, 0])], ids=["a number", "a tensor"])
def test_images_must_lie_on_one_device(t, devices):
    row = Coefficients(schedules.linear(5)).row(t)
    x_0, noise = (torch.ones(2, 3, device=device) for device in devices)
    with pytest.raises(ValueError, match=f"one device, got .*images on {' and '.join(devices)}"):
        combine((row.sqrt_alphas_bar, x_0), (row.sqrt_one_minus_alphas_bar, noise))


# What others trace: no tensor of theirs is kept for later, and what is kept does not disturb them.


def blended(x):
    return combine((0.123, x), (0.456, x))


def exported(x):
    class Model(torch.nn.Module):
        def forward(self, x):
            return blended(x)

    return torch.export.export(Model(), (x,)).module()(x)


def faked(x):
    with FakeTensorMode() as mode:
        out = blended(mode.from_tensor(x))
        assert isinstance(out, FakeTensor) and (out.shape, out.dtype) == (x.shape, x.dtype)
    return blended(x)


def faked_inside_alone(x):
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(blended(x), FakeTensor)
    return blended(x)


TRACES = {
    "export": exported,
    "FakeTensorMode": faked,
    "FakeTensorMode with real images": faked_inside_alone,
    "make_fx real": lambda x: make_fx(blended)(x)(x),
    "make_fx symbolic": lambda x: make_fx(blended, tracing_mode="symbolic")(x)(x),
    "jit": lambda x: torch.jit.trace(blended, x)(x),
    "compile": torch.compile(blended, fullgraph=True, backend="eager"),
    "vmap": torch.vmap(blended),
    "jvp": lambda x: torch.func.jvp(blended, (x,), (x,))[1],  # of a linear function: its value at x
    "functionalize": torch.func.functionalize(blended),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.*deprecated")
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", TRACES)
def test_what_is_traced_leaves_nothing_behind(name, warm, monkeypatch):
    monkeypatch.setattr("ddpm_lesson.coefficients._numbers", numbers := _Numbers())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = 0.123 * x + 0.456 * x
    if warm:
        assert torch.equal(blended(x), expected) and len(numbers) == 2
    assert torch.equal(TRACES[name](x), expected)
    for number in numbers.values():
        assert type(number) is torch.Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(number)
    after = blended(x)
    assert type(after) is torch.Tensor and torch.equal(after, expected)


def test_numbers_are_kept_for_the_next_call_and_not_without_end():
    numbers = _Numbers()
    assert numbers[0.1, torch.float32] is numbers[0.1, torch.float32]
    assert numbers[0.1, torch.float64].item() == 0.1 != numbers[0.1, torch.float32].item()
    with torch.inference_mode():
        assert not numbers[0.2, torch.float32].is_inference()
    kept = [numbers[float(i), torch.float32] for i in range(6000)]  # six of a chain of 1000 steps
    assert all(numbers[float(i), torch.float32] is number for i, number in enumerate(kept))
    for i in range(2**16 + 1):
        numbers[float(i), torch.float32]
    assert len(numbers) < 2**16


# row: the coefficients of one step, or of a step for each image.


def test_a_row_holds_every_table_at_its_steps():
    coefficients = Coefficients(schedules.linear(50))
    t = torch.tensor([0, 7, 49, 7])
    rows = coefficients.row(t)
    for name, table in coefficients.named_buffers():
        assert torch.equal(getattr(rows, name), table[t])
        assert [getattr(coefficients.row(i), name) for i in t.tolist()] == table[t].tolist()


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda rows: pickle.loads(pickle.dumps(rows))])
def test_a_row_can_be_copied(clone):
    rows = Coefficients(schedules.linear(50)).row(torch.tensor([7, 49]))
    assert torch.equal(clone(rows).betas, rows.betas)
    with pytest.raises(AttributeError, match="no attribute '_unknown'"):
        _ = rows._unknown


@pytest.mark.parametrize("t", [-1, 50])
def test_a_row_outside_of_the_table_is_refused(t):
    with pytest.raises(ValueError, match=rf"t must lie in 0\.\.49, got {t}"):
        Coefficients(schedules.linear(50)).row(t)
    with pytest.raises(ValueError, match=rf"t must lie in 0\.\.49, got values from {t} to {t}"):
        Coefficients(schedules.linear(50)).row(torch.tensor([t]))


@pytest.mark.parametrize("t", [1.0, "1", None, torch.tensor([1.0])])
def test_a_row_of_what_is_no_integer_is_refused(t):
    with pytest.raises(TypeError, match="int"):
        Coefficients(schedules.linear(50)).row(t)


# What the post gets wrong.


def test_erratum_07_the_posterior_of_the_first_step_is_a_point_and_only_the_clipped_table_is_not():
    """The post puts index 1's value at index 0 of the posterior; the official first file clips at 1e-20 instead."""
    coefficients = Coefficients(schedules.linear(1000))
    post = torch.log(torch.cat([coefficients.posterior_var[1:2], coefficients.posterior_var[1:]]))
    official = torch.log(coefficients.posterior_var.clamp(min=1e-20))
    assert f"{post[0]:.2f}" == "-9.82" and f"{official[0]:.2f}" == "-46.05"
    assert coefficients.posterior_log_var[0] == -math.inf
    assert torch.equal(coefficients.posterior_log_var_clipped, post)
    assert f"{coefficients.log_betas_clipped[0]:.2f}" == "-9.82"


def post_extract(v, t, x_shape):
    return torch.gather(v, index=t, dim=0).float().view([t.shape[0]] + [1] * (len(x_shape) - 1))


def test_erratum_11_float64_images_meet_float64_coefficients():
    """alphas_bar / alphas_bar = 1, through two roots in float32 and their square: 1.6e-7 off; in float64 1e-15."""
    coefficients, t = Coefficients(schedules.linear(1000)), torch.arange(1000)
    x_0 = torch.ones(1000, 1, dtype=torch.float64)

    def there_and_back(take):
        scale, back = coefficients.sqrt_alphas_bar, coefficients.sqrt_recip_alphas_bar
        return (take(back, t, x_0.shape) * (take(scale, t, x_0.shape) * x_0)).square()

    assert 1.5e-7 < (there_and_back(post_extract) - x_0).abs().max() < 1.8e-7
    assert (there_and_back(extract) - x_0).abs().max() < 1e-15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_erratum_11_half_precision_images_stay_half(dtype):
    coefficients, t, x_0 = Coefficients(schedules.linear(10)), torch.tensor([3, 4]), torch.ones(2, 3, dtype=dtype)
    post = post_extract(coefficients.sqrt_alphas_bar, t, x_0.shape) * x_0
    with pytest.raises(RuntimeError, match="dtype"):  # a half precision network cannot take it
        torch.nn.Linear(3, 3, dtype=dtype)(post)
    torch.nn.Linear(3, 3, dtype=dtype)(combine((coefficients.row(t).sqrt_alphas_bar, x_0)))


def test_erratum_13_a_chain_of_one_step_has_whole_tables():
    coefficients = Coefficients(schedules.linear(1))
    post = torch.log(torch.cat([coefficients.posterior_var[1:2], coefficients.betas[1:]]))
    assert len(post) == 0
    with pytest.raises(RuntimeError, match="out of bounds"):
        post_extract(post, torch.tensor([0]), (1, 3))
    assert all(len(table) == 1 for table in coefficients.buffers())
    assert coefficients.posterior_log_var_clipped.item() == coefficients.log_betas_clipped.item() == math.log(1e-4)
