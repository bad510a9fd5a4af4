"""Our solvers against the schedulers of diffusers 0.42: same denoiser, levels and noise, so the same samples.

Both sides ask one closed-form denoiser at the same entries of a table, which diffusers is handed in float64. Some of
its schedulers round levels and samples to float32 all the same; then the last digits are theirs.
"""

from itertools import product

import diffusers
import numpy as np
import pytest
import torch

from dit.diffusion import DiscreteVP, LinearFlow, Prediction
from dit.solvers import DDIM, Ancestral, DPMSolverPP, Euler, Heun, SDEDPMSolverPP, UniPC, make_grid, sample
from dit.solvers.start import FromState
from tests.exact import PATHS, Mixture

TABLES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
}
ENTRIES = 1000
FIRST_ENTRY = 1 / ENTRIES
SPACINGS = ["trailing", "leading", "linspace"]
NOISE = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
EXACT, ROUNDED = 1e-11, 1e-5  # tolerances: of schedulers that stay in float64, of the others


def source():
    """The generator both sides draw from, each its own copy."""
    return torch.Generator().manual_seed(2)


def drawn_from(generator):
    return lambda: torch.randn(NOISE.shape, dtype=NOISE.dtype, generator=generator)


def time_of(timestep):
    return (timestep.double() + 1) / ENTRIES


def their_run(scheduler, denoiser, steps, final=0.0, options=dict, output=lambda said: said.native):
    """Where a scheduler ends; x where it begins, in the variance-preserving form; the grid it walked."""
    t = torch.arange(1, ENTRIES + 1, dtype=torch.float64) / ENTRIES
    scheduler.alphas_cumprod = denoiser.path.coefficients(t).alpha ** 2
    scheduler.set_timesteps(steps)
    x = NOISE * scheduler.init_noise_sigma
    start = scheduler.scale_model_input(x, scheduler.timesteps[0])
    for timestep in scheduler.timesteps:
        said = denoiser(scheduler.scale_model_input(x, timestep), time_of(timestep))
        x = scheduler.step(output(said), timestep, x, **options()).prev_sample
    levels = time_of(scheduler.timesteps).unique().flip(0)  # Heun's list names most of them twice
    return x, start, torch.cat([levels, torch.tensor([final], dtype=torch.float64)])


def assert_same(ours, theirs, atol):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def assert_parity(solver, scheduler, denoiser, steps, atol=ROUNDED, final=0.0, noise=None, **theirs):
    x, start, grid = their_run(scheduler, denoiser, steps, final, **theirs)
    assert len(grid) == steps + 1
    assert_same(sample(denoiser, None, grid=grid, solver=solver, start=FromState(start), step_noise=noise).x0, x, atol)


@pytest.mark.parametrize(
    ("path", "table"),
    [
        (DiscreteVP.linear(), TABLES["linear"]),
        (DiscreteVP.scaled_linear(), TABLES["scaled_linear"]),
        (DiscreteVP.scaled_linear(zero_terminal_snr=True), TABLES["scaled_linear"] | {"rescale_betas_zero_snr": True}),
        (DiscreteVP.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
    ids=["linear", "scaled_linear", "zero_terminal_snr", "cosine"],
)
def test_tables_are_theirs(path, table):
    theirs = diffusers.DDIMScheduler(**table).alphas_cumprod
    ours = path.coefficients(time_of(torch.arange(ENTRIES))).alpha ** 2
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("spacing", "offset"), [("trailing", 0), ("leading", 0), ("leading", 1), ("linspace", 0)])
def test_table_grids_have_their_timesteps(spacing, offset):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    # One step of theirs by linspace starts at the first entry, almost clean; ours at the last.
    for steps in (1, 2, 3, 7, 10, 12, 25, 50, 64, 250, 333)[spacing == "linspace" :]:
        scheduler.set_timesteps(steps)
        grid = make_grid(PATHS["linear"], steps, spacing, **({"offset": offset} if offset else {}))
        assert (grid * ENTRIES - 1).round().tolist() == [*scheduler.timesteps.tolist(), -1]


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("name", TABLES)
def test_ddim(name, spacing, eta):
    scheduler = diffusers.DDIMScheduler(**TABLES[name], clip_sample=False, timestep_spacing=spacing)
    options = {"eta": eta, "generator": source()}
    # Its steps all have the length 1000 // 20, whatever the list of entries says, so the division must leave nothing.
    noise = drawn_from(source())
    assert_parity(DDIM(eta), scheduler, Mixture(PATHS[name]), 20, EXACT, noise=noise, options=lambda: options)


def test_ddim_from_pure_noise():
    scheduler = diffusers.DDIMScheduler(
        **TABLES["scaled_linear"],
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
    )
    assert_parity(Euler(), scheduler, Mixture(PATHS["zero_terminal_snr"], "v"), 20, EXACT)


class Learned(Mixture):
    """A mixture whose network also says, made up from x, where the log-variance lies."""

    learned_variance = True

    def __call__(self, x, t, labels=None):
        said = super().__call__(x, t)
        return Prediction(said.native, said.kind, x, said.coefficients, variance=torch.sin(3 * x))


# Neither spacing draws noise in the last step: both begin it at entry 0.
@pytest.mark.parametrize(
    ("variance", "steps", "spacing"),
    # Through all entries with the variance that lies between the two others.
    [*product(["small", "large", "learned"], [10], ["leading", "linspace"]), ("learned", 1000, "leading")],
)
def test_ancestral(variance, steps, spacing):
    scheduler = diffusers.DDPMScheduler(
        **TABLES["linear"],
        variance_type={"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}[variance],
        clip_sample=False,
        timestep_spacing=spacing,
    )
    options = {"generator": source()}
    assert_parity(
        Ancestral(variance),
        scheduler,
        Learned(PATHS["linear"]),
        steps,
        EXACT,
        noise=drawn_from(source()),
        options=lambda: options,
        output=lambda said: torch.cat([said.native, said.variance], 1) if variance == "learned" else said.native,
    )


SIGMA_FORM = {
    "EulerDiscreteScheduler": Euler(),
    "HeunDiscreteScheduler": Heun("u"),
    "EulerAncestralDiscreteScheduler": DDIM(1.0),
}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("scheduler", SIGMA_FORM)
@pytest.mark.parametrize("name", TABLES)
def test_schedulers_in_sigma(name, scheduler, spacing):
    solver = SIGMA_FORM[scheduler]
    options = {"generator": source()} if solver.stochastic else {}
    # Ten steps of linspace meet entries only; between entries it interpolates sigma, we its logarithm.
    assert_parity(
        solver,
        getattr(diffusers, scheduler)(**TABLES[name], timestep_spacing=spacing),
        Mixture(PATHS[name]),
        10,
        noise=drawn_from(source()),
        options=lambda: options,
    )


@pytest.mark.parametrize("variant", ["midpoint", "heun"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", TABLES)
def test_dpm_solver_2m(name, spacing, variant):
    scheduler = diffusers.DPMSolverMultistepScheduler(**TABLES[name], solver_type=variant, timestep_spacing=spacing)
    assert_parity(DPMSolverPP(2, variant=variant), scheduler, Mixture(PATHS[name]), 12)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
@pytest.mark.parametrize("name", TABLES)
def test_dpm_solver_2m_to_the_first_entry(name, variant, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **TABLES[name], solver_type=variant, timestep_spacing="trailing", final_sigmas_type="sigma_min"
    )
    denoiser, solver = Mixture(PATHS[name]), DPMSolverPP(2, variant=variant)
    theirs, start, grid = their_run(scheduler, denoiser, steps, FIRST_ENTRY)
    if steps >= 15:
        ours = sample(denoiser, None, grid=grid, solver=solver, start=FromState(start)).x0
    else:  # then it lowers the order of the last step
        before = sample(denoiser, None, grid=grid[:-1], solver=solver, start=FromState(start)).x0
        ours = sample(denoiser, None, grid=grid[-2:], solver=Euler(), start=FromState(before)).x0
    assert_same(ours, theirs, ROUNDED)


@pytest.mark.parametrize("order", [1, 2])
def test_sde_dpm_solver(order):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **TABLES["scaled_linear"], algorithm_type="sde-dpmsolver++", solver_order=order, timestep_spacing="trailing"
    )
    draw = drawn_from(source())  # it would draw by itself in float32, which are other numbers
    assert_parity(
        SDEDPMSolverPP(order),
        scheduler,
        Mixture(PATHS["scaled_linear"]),
        12,
        noise=drawn_from(source()),
        options=lambda: {"variance_noise": draw()},
    )


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", TABLES)
def test_unipc(name, spacing, order):
    scheduler = diffusers.UniPCMultistepScheduler(**TABLES[name], solver_order=order, timestep_spacing=spacing)
    assert_parity(UniPC(order), scheduler, Mixture(PATHS[name]), 12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_to_the_first_entry(order):
    # It lowers order 3 already in the last step but one. Told not to, it cannot end at clean data.
    scheduler = diffusers.UniPCMultistepScheduler(
        **TABLES["scaled_linear"],
        solver_order=order,
        timestep_spacing="trailing",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    solver = UniPC(order, lower_above=None)
    assert_parity(solver, scheduler, Mixture(PATHS["scaled_linear"]), 12, final=FIRST_ENTRY)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    denoiser, grid, x = Mixture(LinearFlow(), "velocity"), scheduler.sigmas.double(), NOISE
    for timestep, t in zip(scheduler.timesteps, grid[:-1], strict=True):
        x = scheduler.step(denoiser(x, t).native, timestep, x).prev_sample
    assert_same(sample(denoiser, NOISE, grid=grid, solver=Euler()).x0, x, ROUNDED)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 28])
def test_shifted_grid_has_their_sigmas(steps, shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    # As the pipelines of Flux and the like call it; left to itself it takes its last step from a twice-shifted 1/1000.
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    grid = make_grid(LinearFlow(), steps, "shifted", shift=shift)
    torch.testing.assert_close(grid, scheduler.sigmas.double(), rtol=0, atol=1e-6)
