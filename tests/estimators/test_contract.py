"""What every estimator of the registry promises, whatever its formula."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from oracles import OBJECTIVES, assert_mean, exact_expectation, nonlinear, outcomes
from torch import Tensor

from gumbel_rl import ESTIMATORS, ActionFactors, Estimator, FactoredCategorical, make_estimator
from gumbel_rl.estimators import Exact, PathwiseEstimator, ScoreFunction, score_function_surrogate
from gumbel_rl.schedules import Linear

SIZES = (2, 3)
FACTORS = ActionFactors(SIZES)
IDS = list(ESTIMATORS)
DETERMINED_BY_NOISE = (
    "exact",
    "score-function",
    "rloo",
    "local-expectation",
    "rebar",
    "relax",
    "straight-through",
    "gumbel-softmax",
    "st-gumbel-softmax",
    "zgr",
    "reinmax",
    "gapped-st",
    "mixture",
)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def logits(*batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    flat = torch.randn(*batch, sum(SIZES), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return flat.to(dtype).requires_grad_()


class Recorder:
    """An objective that remembers where it was evaluated, and can hide its slope."""

    def __init__(self, detach: bool = False) -> None:
        self.f = nonlinear(SIZES)
        self.detach = detach
        self.actions: list[Tensor] = []

    def __call__(self, actions: Tensor) -> Tensor:
        self.actions.append(actions.detach())
        return self.f(actions.detach() if self.detach else actions)


def gradient(estimator: Estimator, leaf: Tensor, f: Any, noise: Tensor | None = None, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    surrogate = estimator(FactoredCategorical(leaf, FACTORS), f, noise)
    if not surrogate.requires_grad:
        return torch.zeros_like(leaf)
    (result,) = torch.autograd.grad(surrogate.sum(), leaf, materialize_grads=True)
    return result


def test_the_registry_holds_what_the_documentation_names() -> None:
    assert set(DETERMINED_BY_NOISE) <= set(ESTIMATORS)
    assert len(set(ESTIMATORS.values())) == len(ESTIMATORS)


@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize("batch", [(), (7,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", IDS)
def test_the_surrogate_has_the_shape_of_the_batch(name: str, batch: tuple[int, ...], samples: int) -> None:
    leaf = logits(*batch)
    surrogate = make_estimator(name, samples=samples)(FactoredCategorical(leaf, FACTORS), nonlinear(SIZES))
    assert surrogate.shape == batch
    surrogate.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert not batch or leaf.grad.abs().sum() > 0  # two samples that agree have no score-function gradient
    # Adding a constant to a factor's logits changes nothing.
    torch.testing.assert_close(leaf.grad[..., :2].sum(-1), torch.zeros(batch, dtype=torch.float64))
    torch.testing.assert_close(leaf.grad[..., 2:].sum(-1), torch.zeros(batch, dtype=torch.float64))


# The attributes are true.


@pytest.mark.parametrize("name", IDS)
def test_leaves_vertices_and_evaluations_are_true(name: str) -> None:
    estimator = make_estimator(name, samples=3)
    f = Recorder()
    estimator(FactoredCategorical(logits(11), FACTORS), f)
    evaluated = torch.cat([actions.reshape(-1, 5) for actions in f.actions])
    on_vertices = (evaluated[:, None] == outcomes(SIZES)).all(-1).any(-1)
    assert bool(on_vertices.all()) is not estimator.leaves_vertices
    if estimator.evaluations is not None:
        assert len(evaluated) == estimator.evaluations * 3 * 11


@pytest.mark.parametrize("name", IDS)
def test_needs_gradient_is_true(name: str) -> None:
    estimator = make_estimator(name)
    leaf = logits(11)
    with_slope, without = (gradient(estimator, leaf, Recorder(detach)) for detach in (False, True))
    assert torch.equal(with_slope, without) is not estimator.needs_gradient


@pytest.mark.parametrize("name", IDS)
def test_has_temperature_is_true(name: str) -> None:
    estimator = make_estimator(name)
    parameters = inspect.signature(ESTIMATORS[name]).parameters
    assert estimator.has_temperature == hasattr(estimator, "temperature") == ("temperature" in parameters)
    if estimator.has_temperature:
        annealed: Any = make_estimator(name, temperature=0.5)
        cold = gradient(annealed, logits(11), nonlinear(SIZES))
        hot = gradient(make_estimator(name, temperature=2.0), logits(11), nonlinear(SIZES))
        assert not torch.equal(cold, hot)
        annealed.temperature = 2.0
        assert torch.equal(gradient(annealed, logits(11), nonlinear(SIZES)), hot)


@pytest.mark.parametrize("name", IDS)
def test_learns_is_true(name: str) -> None:
    estimator = make_estimator(name, samples=2)
    dist = FactoredCategorical(logits(11), FACTORS)
    noise = dist.noise((2,))
    state = torch.get_rng_state()
    before = gradient(estimator, dist.logits, nonlinear(SIZES), noise)
    torch.set_rng_state(state)
    for _ in range(2):
        estimator.adapt(dist, nonlinear(SIZES), noise)
    assert torch.equal(torch.get_rng_state(), state) or name == "relax"  # which makes a network
    assert torch.equal(gradient(estimator, dist.logits, nonlinear(SIZES), noise), before) is not estimator.learns


@pytest.mark.parametrize("name", [name for name in IDS if not ESTIMATORS[name].needs_objective])
def test_needs_objective_is_true(name: str) -> None:
    # The return of a step that has been made: one number for each sample, whatever one might ask.
    returns = torch.randn(1, 11, dtype=torch.float64)
    assert gradient(make_estimator(name, samples=1), logits(11), lambda actions: returns).abs().sum() > 0


def test_exact_with_a_multilinear_objective_says_what_it_does() -> None:
    exact = Exact(multilinear=True)
    f = Recorder()
    exact(FactoredCategorical(logits(11), FACTORS), f)
    assert exact.leaves_vertices
    assert exact.needs_gradient
    assert f.actions[0].shape == (11, 5)
    assert not Exact().leaves_vertices
    assert not Exact.leaves_vertices
    assert not Exact.needs_gradient
    assert not gradient(exact, logits(11), Recorder(detach=True)).any()


# Noise.


@pytest.mark.parametrize("name", IDS)
def test_the_same_noise_gives_the_same_estimate(name: str) -> None:
    estimator = make_estimator(name, samples=2)
    leaf = logits(11)
    noise = FactoredCategorical(leaf, FACTORS).noise((2,))
    before = noise.clone()
    first, again = (gradient(estimator, leaf, nonlinear(SIZES), noise) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(noise, before)
    other = gradient(estimator, leaf, nonlinear(SIZES), noise.roll(1, 1), seed=2)
    assert torch.equal(first, other) == (name == "exact")


def test_common_random_numbers_mean_common_samples() -> None:
    dist = FactoredCategorical(logits(200), FACTORS)
    noise = dist.noise((3,))
    drawn = []
    sampling = [name for name in IDS if name != "exact" and not ESTIMATORS[name].leaves_vertices]
    for name in sampling:
        f = Recorder()
        make_estimator(name, samples=3)(dist, f, noise)
        drawn.append(f.actions[0][:3])
    for actions in drawn:
        assert torch.equal(actions, dist.sample(noise=noise))


@pytest.mark.parametrize("name", [name for name in IDS if name != "exact"])
def test_noise_that_does_not_fit_is_refused(name: str) -> None:
    dist = FactoredCategorical(logits(11), FACTORS)
    with pytest.raises(ValueError, match="noise of shape"):
        make_estimator(name, samples=2)(dist, nonlinear(SIZES), dist.noise())


def test_rloo_refuses_noise_for_a_single_sample() -> None:
    dist = FactoredCategorical(logits(11), FACTORS)
    with pytest.raises(ValueError, match="Rloo needs at least 2 samples"):
        make_estimator("rloo")(dist, nonlinear(SIZES), dist.noise((1,)))


# `relax`: the action tensor alone.

RELAXERS = [name for name in IDS if issubclass(ESTIMATORS[name], PathwiseEstimator)]


@pytest.mark.parametrize("batch", [(), (7,)], ids=str)
@pytest.mark.parametrize("name", RELAXERS)
def test_relax_gives_actions_with_a_gradient(name: str, batch: tuple[int, ...]) -> None:
    estimator = make_estimator(name)
    assert isinstance(estimator, PathwiseEstimator)
    leaf = logits(*batch)
    dist = FactoredCategorical(leaf, FACTORS)
    action = estimator.relax(dist)
    assert action.shape == (*batch, 5)
    torch.testing.assert_close(
        action.detach().split(list(SIZES), -1)[1].sum(-1), torch.ones(batch, dtype=torch.float64)
    )
    (slope,) = torch.autograd.grad((action * torch.arange(5)).sum(), leaf)
    assert slope.abs().sum() > 0
    if name != "exact":
        noise = dist.noise((4,))
        relaxed = estimator.relax(dist, noise)
        assert relaxed.shape == (4, *batch, 5)
        if not estimator.leaves_vertices:
            assert torch.equal(relaxed, dist.sample(noise=noise))  # exactly, not off by 6e-8


def test_relax_of_exact_is_the_mean() -> None:
    dist = FactoredCategorical(logits(7), FACTORS)
    assert torch.equal(Exact().relax(dist), dist.probs)


# Masks, dtypes, devices, copies.

MASK = torch.tensor([True, False, True, True, False])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("name", IDS)
def test_masks_and_extremes_leave_no_nan(name: str, scale: float, dtype: torch.dtype) -> None:
    leaf = (logits(50, dtype=dtype).detach() * scale).requires_grad_()
    f = Recorder()
    surrogate = make_estimator(name, samples=2)(FactoredCategorical(leaf, FACTORS, MASK), f)
    (slope,) = torch.autograd.grad(surrogate.sum(), leaf)
    assert surrogate.isfinite().all()
    assert slope.isfinite().all()
    assert slope.dtype == dtype
    assert (slope[:, ~MASK] == 0).all()
    if name != "exact":  # which evaluates every vertex and gives the impossible ones no weight
        assert all((actions[..., ~MASK] == 0).all() for actions in f.actions)


@pytest.mark.parametrize("name", IDS)
def test_masked_estimates_are_those_of_what_is_left(name: str) -> None:
    # One choice is left in the first factor, and two in the second.
    leaf = logits(50)
    if name not in DETERMINED_BY_NOISE:  # they draw noise of their own, and agree on average
        leaf = logits().detach().expand(4000, -1).clone().requires_grad_()
    f = nonlinear(SIZES)
    reduced = FactoredCategorical(leaf[:, MASK], ActionFactors((1, 2)))
    noise = FactoredCategorical(leaf, FACTORS).noise((2,))
    embed = torch.eye(5, dtype=torch.float64)[MASK]
    estimates = []
    for dist, objective, g in (
        (FactoredCategorical(leaf, FACTORS, MASK), f, noise),
        (reduced, lambda z: f(z @ embed), noise[..., MASK]),
    ):
        torch.manual_seed(3)
        estimates.append(torch.autograd.grad(make_estimator(name, samples=2)(dist, objective, g).sum(), leaf)[0])
    if name in DETERMINED_BY_NOISE:
        torch.testing.assert_close(*estimates)
    else:
        assert_mean(estimates[0] - estimates[1], 0.0)


@pytest.mark.parametrize("name", IDS)
def test_no_operation_mixes_devices(name: str) -> None:
    # "meta" tensors have a device and no data: mixing them with the CPU's fails as mixing a GPU's does.
    leaf = torch.zeros(4, 5, device="meta", requires_grad=True)
    surrogate = make_estimator(name, samples=2)(FactoredCategorical(leaf, FACTORS), lambda z: z.square().sum(-1))
    assert surrogate.device.type == "meta"
    surrogate.sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", IDS)
def test_cuda_gives_what_the_cpu_gives(name: str) -> None:
    estimator = make_estimator(name, samples=2)
    leaf = logits(50)
    noise = FactoredCategorical(leaf, FACTORS).noise((2,))
    twin = leaf.detach().cuda().requires_grad_()
    ours, theirs = (gradient(estimator, x, nonlinear(SIZES), noise.to(x.device)) for x in (leaf, twin))
    assert theirs.device.type == "cuda"
    assert theirs.isfinite().all()
    if name in DETERMINED_BY_NOISE:
        torch.testing.assert_close(theirs.cpu(), ours)


@pytest.mark.parametrize("name", IDS)
def test_copies_estimate_the_same(name: str) -> None:
    estimator = make_estimator(name, samples=2)
    expected = gradient(estimator, logits(11), nonlinear(SIZES))
    for twin in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        assert torch.equal(gradient(twin, logits(11), nonlinear(SIZES)), expected)


@pytest.mark.parametrize("name", IDS)
def test_a_choice_of_one_has_no_gradient(name: str) -> None:
    leaf = torch.zeros(6, 1, requires_grad=True)
    surrogate = make_estimator(name, samples=2)(FactoredCategorical(leaf, ActionFactors((1,))), lambda z: 3 * z.sum(-1))
    assert surrogate.tolist() == [3.0] * 6
    surrogate.sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()


# Errors.


def test_unknown_estimators_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown estimator 'st-gumbel'.*did you mean 'st-gumbel-softmax'.*rloo"):
        make_estimator("st-gumbel")
    with pytest.raises(ValueError, match="known are exact, score-function"):
        make_estimator("???")


def test_unknown_options_are_refused_with_the_known() -> None:
    with pytest.raises(TypeError, match="'exact' has no option 'temperature'; it takes multilinear, max_vertices"):
        make_estimator("exact", temperature=1.0)


@pytest.mark.parametrize("name", IDS)
def test_too_few_samples_are_refused(name: str) -> None:
    least = ESTIMATORS[name].min_samples
    with pytest.raises(ValueError, match=f"needs at least {least} samples, got {least - 1}"):
        make_estimator(name, samples=least - 1)


@pytest.mark.parametrize(
    "temperature", [0, -1.0, float("nan"), float("inf"), "linear:1:0.5", Linear(1.0, 0.5)], ids=str
)
@pytest.mark.parametrize("name", [name for name in IDS if ESTIMATORS[name].has_temperature])
def test_temperatures_that_are_not_positive_numbers_are_refused(name: str, temperature: Any) -> None:
    with pytest.raises(ValueError, match="temperature must be a positive number, got"):
        make_estimator(name, temperature=temperature)


@pytest.mark.parametrize("name", IDS)
def test_an_objective_of_the_wrong_shape_is_refused(name: str) -> None:
    # A critic's trailing dimension of 1, forgotten, would broadcast [S, B] with [S, B, 1] to nonsense.
    with pytest.raises(ValueError, match=r"the objective maps actions .* to values"):
        make_estimator(name, samples=2)(FactoredCategorical(logits(11), FACTORS), lambda z: z.sum(-1, keepdim=True))


def test_exact_refuses_to_enumerate_too_much_and_says_what_else_there_is() -> None:
    dist = FactoredCategorical(torch.zeros(2, 26), ActionFactors((2,) * 13))
    with pytest.raises(ValueError, match="8192 joint actions, more than 4096; use multilinear=True"):
        Exact()(dist, lambda z: z.sum(-1))
    assert Exact(max_vertices=8192)(dist, lambda z: z.sum(-1)).tolist() == pytest.approx([13.0, 13.0])
    assert Exact(multilinear=True)(dist, lambda z: z.sum(-1)).tolist() == [13.0, 13.0]


def test_baselines_are_given_when_asked_for_and_only_then() -> None:
    dist = FactoredCategorical(logits(11), FACTORS)
    with pytest.raises(ValueError, match="unknown baseline 'median'; known are none, mean, given"):
        ScoreFunction(baseline="median")
    with pytest.raises(ValueError, match="no tensor was given"):
        ScoreFunction(baseline="given")(dist, nonlinear(SIZES))
    with pytest.raises(ValueError, match="a tensor was given"):
        ScoreFunction()(dist, nonlinear(SIZES), baseline=torch.zeros(11))
    with pytest.raises(ValueError, match="must have one shape"):
        ScoreFunction(baseline="given")(dist, nonlinear(SIZES), baseline=torch.zeros(11, 1))
    with pytest.raises(ValueError, match="must have one shape"):
        score_function_surrogate(torch.zeros(4), torch.zeros(4, 1))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_value_of_the_surrogate_estimates_the_expectation(kind: str) -> None:
    leaf = logits()
    f = OBJECTIVES[kind](SIZES)
    value, _ = exact_expectation(leaf, SIZES, f)
    assert Exact()(FactoredCategorical(leaf, FACTORS), f).item() == pytest.approx(value.item())
