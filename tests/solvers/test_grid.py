"""Grids: n steps are n + 1 falling noise levels, those of their papers, on every path."""

import pytest
import torch

from dit.diffusion import LinearFlow
from dit.solvers import LogSNRGrid, TableGrid, UniformGrid, make_grid, sample
from dit.solvers.grid import check_grid
from tests.exact import PATHS, Gaussian

TABLES = ["linear", "scaled_linear", "cosine", "sigmoid", "zero_terminal_snr"]


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("steps", [1, 3, 250])
def test_a_grid_of_n_steps_has_n_plus_one_falling_levels(path, steps):
    grid = make_grid(path, steps)
    assert grid.dtype == torch.float64
    assert len(grid) == steps + 1
    assert (grid.diff() < 0).all()
    assert (float(grid[0]), float(grid[-1])) == (1.0, 0.0)
    check_grid(grid)


@pytest.mark.parametrize("spacing", ["uniform", "uniform_log_snr", "karras"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_every_grid_falls_to_clean_data_on_every_path(path, spacing, steps):
    grid = make_grid(path, steps, spacing)
    assert len(grid) == steps + 1
    assert (grid.diff() < 0).all()
    assert float(grid[-1]) == 0


def test_grids_have_the_levels_of_their_papers():
    flow = LinearFlow()
    shifted = make_grid(flow, 10, "shifted", shift=3.0)
    t = torch.linspace(1, 0, 11, dtype=torch.float64)
    torch.testing.assert_close(shifted, 3 * t / (1 + 2 * t), rtol=0, atol=1e-12)  # SD3's t' = s t / (1 + (s - 1) t)
    karras = make_grid(flow, 18, "karras", u_max=80.0, u_min=0.002)
    c = flow.coefficients(karras)
    i = torch.arange(18, dtype=torch.float64)
    edm = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close((c.sigma / c.alpha)[:-1], edm, rtol=1e-9, atol=0)
    steps = flow.log_snr(make_grid(flow, 7, "uniform_log_snr", first=-6, last=6)[:-1])
    torch.testing.assert_close(steps, torch.linspace(-6, 6, 7, dtype=torch.float64), rtol=0, atol=1e-9)
    # A table ends where it ends: its own last level, not the grid's.
    assert float(make_grid(PATHS["scaled_linear"], 5, "karras")[0]) == pytest.approx(1)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 250])
def test_grids_of_a_table_are_its_entries(name, spacing, steps):
    grid = make_grid(PATHS[name], steps, spacing)
    assert len(grid) == steps + 1
    assert float(grid[-1]) == 0
    index = grid[:-1] * 1000 - 1
    torch.testing.assert_close(index, index.round(), rtol=0, atol=1e-9)
    first = {"trailing": 999, "leading": 1000 // steps * (steps - 1), "linspace": 999}[spacing]
    assert float(index[0]) == pytest.approx(first)


def entries(grid):
    """Numbers of the table's entries, the lowest first, without clean data."""
    return (grid[:-1] * 1000 - 1).round().int().tolist()[::-1]


@pytest.mark.parametrize("steps", [2, 7, 10, 25, 30, 50, 100, 250, 333, 400, 1000])
def test_dit_s_respacing_by_a_number_is_linspace(steps):
    """DiT's "250" keeps entries at a fractional stride of 999/249, summed up from 0 and rounded."""
    place, kept = 0.0, []
    for _ in range(steps):
        kept.append(round(place))
        place += 999 / (steps - 1)
    assert entries(make_grid(PATHS["linear"], steps, "linspace")) == kept


def test_dit_s_respacing_by_ddim_is_leading():
    """DiT's "ddim250" takes the smallest whole stride that keeps 250 entries: T/n rounded up, where there is one."""

    def kept(steps):
        strides = (range(0, 1000, stride) for stride in range(1, 1000))
        return next((list(found) for found in strides if len(found) == steps), None)

    same = [n for n in range(2, 1001) if entries(make_grid(PATHS["linear"], n, "leading")) == kept(n)]
    assert same == [n for n in range(2, 1001) if 1000 % n == 0]
    assert kept(30)[1] == 34  # and ours 33
    assert kept(300) is None


def test_the_last_level_before_clean_data_can_be_given():
    """SiT's and REPA's SDE: n - 1 equal steps from 1 to 0.04, and one from there to 0."""
    flow = LinearFlow()
    grid = make_grid(flow, 250, "uniform", last=0.04)
    expected = torch.linspace(1, 0.04, 250, dtype=torch.float64)
    torch.testing.assert_close(grid, torch.cat([expected, torch.zeros(1, dtype=torch.float64)]), rtol=0, atol=0)
    # Without a step to clean data all steps lie between noise and that level.
    torch.testing.assert_close(UniformGrid(final="min", last=0.04)(flow, 249), expected, rtol=0, atol=0)
    assert make_grid(flow, 1, "uniform", last=0.04).tolist() == [1, 0]
    assert torch.equal(UniformGrid(last=None)(flow, 7), torch.linspace(1, 0, 8, dtype=torch.float64))
    for bad in (0, 1, -0.1):
        with pytest.raises(ValueError, match=rf"grid\.last must lie between 0 and 1, or be null, got {bad}"):
            UniformGrid(last=bad)


def test_a_grid_can_end_at_the_smallest_level_there_is():
    for grid in (UniformGrid(final="min"), TableGrid("trailing", final="min"), TableGrid("leading", 1, final="min")):
        assert float(grid(PATHS["linear"], 10)[-1]) == 1 / 1000
        assert len(grid(PATHS["linear"], 10)) == 11
    flow = LinearFlow()
    named = LogSNRGrid(-6, 6, final="min")(flow, 4)
    torch.testing.assert_close(flow.log_snr(named), torch.linspace(-6, 6, 5, dtype=torch.float64), rtol=0, atol=1e-9)
    karras = make_grid(PATHS["edm"], 5, "karras", final="min", u_min=0.01)
    assert (len(karras), float(PATHS["edm"].coefficients(karras[-1]).sigma)) == (6, pytest.approx(0.01))
    with pytest.raises(ValueError, match=r"grid\.final=min needs a path made of a table of betas, got LinearFlow"):
        UniformGrid(final="min")(flow, 4)
    for spacing in ("leading", "linspace"):
        grid = TableGrid(spacing, final="min")(PATHS["linear"], 10)
        assert (len(grid), float(grid[-1]), bool((grid.diff() < 0).all())) == (11, 1 / 1000, True)
    # A grid made of noise levels asks a table's network no further than the table goes.
    for name in ("karras", "uniform_log_snr"):
        assert float(make_grid(PATHS["scaled_linear"], 10, name)[-2]) == pytest.approx(1 / 1000)
    with pytest.raises(ValueError, match=r"grid\.final must be zero or min, got 'max'"):
        UniformGrid(final="max")


def test_bad_grids_are_refused():
    path = LinearFlow()
    for bad in (0, 2.5):
        with pytest.raises(ValueError, match=f"steps must be at least 1, and whole, got {bad}"):
            make_grid(path, bad)
    with pytest.raises(ValueError, match="grid uniform has no such option, got rho"):
        make_grid(path, 4, "uniform", rho=7)
    names = "uniform, shifted, uniform_log_snr, karras, trailing, leading, linspace"
    with pytest.raises(ValueError, match=rf"spacing must be one of {names}, got 'linear'"):
        make_grid(path, 5, "linear")
    with pytest.raises(ValueError, match=r"grid\.first must be below grid\.last"):
        make_grid(path, 5, "uniform_log_snr", first=3, last=1)
    with pytest.raises(ValueError, match=r"grid\.u_min must lie between 0 and grid\.u_max=1, got 2"):
        make_grid(path, 5, "karras", u_max=1, u_min=2)
    with pytest.raises(ValueError, match=r"grid\.shift must be positive, got 0"):
        make_grid(path, 5, "shifted", shift=0)
    with pytest.raises(ValueError, match="grid must fall strictly"):
        make_grid(PATHS["scaled_linear"], 20, "shifted", shift=50)
    with pytest.raises(ValueError, match=r"grid\.spacing=trailing needs a path made of a table of betas, got LinearFl"):
        make_grid(path, 5, "trailing")
    with pytest.raises(
        ValueError, match=r"grid\.spacing must be trailing, leading \(ddimN in DiT\) or .*, got 'ddim250'"
    ):
        TableGrid("ddim250")
    with pytest.raises(ValueError, match=r"grid\.offset belongs to leading spacing, got 1 with trailing"):
        TableGrid("trailing", 1)
    with pytest.raises(ValueError, match="steps must be at most 1000, the entries of the table, got 1001"):
        make_grid(PATHS["linear"], 1001, "trailing")
    for bad in ([0.0, 1.0], [1.0, 1.0], [0.5], [2.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="grid must fall strictly"):
            sample(Gaussian(path), torch.zeros(1, 2), grid=torch.tensor(bad))
