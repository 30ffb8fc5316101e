"""Critics: what their flag `multilinear` says is true, and so are their shapes and their centring."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from oracles import exact_expectation
from torch import nn

from gumbel_rl import ActionFactors, FactoredCategorical
from gumbel_rl.critics import CRITICS, ActionLinear, Additive, Critic, MLPCritic, centre, mlp
from gumbel_rl.estimators import Exact

SIZES = [(4,), (2, 3, 4), (3, 3)]
F = 5


def make(name: str, sizes: tuple[int, ...], seed: int = 0, **options: object) -> Critic:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CRITICS[name](F, ActionFactors(sizes), net_arch=(16,), **options).double()


def features(batch: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, F, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def policy(sizes: tuple[int, ...], batch: int, seed: int = 2) -> FactoredCategorical:
    logits = torch.randn(batch, sum(sizes), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return FactoredCategorical(logits, ActionFactors(sizes))


def test_the_registry() -> None:
    assert {"action-linear": ActionLinear, "additive": Additive, "mlp": MLPCritic} == CRITICS


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CRITICS)
def test_multilinear_means_the_value_at_the_probabilities_is_the_expectation(name: str, sizes: tuple[int, ...]) -> None:
    critic, dist, f = make(name, sizes), policy(sizes, 6), features(6)
    at_probs = critic(f, dist.probs)
    enumerated = torch.stack([exact_expectation(dist.logits[i], sizes, critic.at(f[i]))[0] for i in range(6)])
    assert torch.allclose(at_probs, enumerated, rtol=0, atol=1e-10) == critic.multilinear
    assert torch.allclose(Exact()(dist, critic.at(f)), enumerated)
    assert torch.allclose(Exact(multilinear=critic.multilinear)(dist, critic.at(f)), enumerated)


@pytest.mark.parametrize("name", [name for name, cls in CRITICS.items() if cls.multilinear])
def test_the_slope_of_a_multilinear_critic_is_a_difference_of_values(name: str) -> None:
    sizes = (2, 3)
    critic, factors = make(name, sizes), ActionFactors(sizes)
    vertices = factors.vertices(dtype=torch.float64)[:, None].requires_grad_()
    values = critic(features(1), vertices)
    (slope,) = torch.autograd.grad(values.sum(), vertices)
    index = {choice: row for row, choice in enumerate(itertools.product(range(2), range(3)))}
    for (i, j), row in index.items():
        for other in range(3):
            expected = values[index[i, other]] - values[row]
            torch.testing.assert_close(slope[row, :, 2 + other] - slope[row, :, 2 + j], expected)


@pytest.mark.parametrize("samples", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CRITICS)
def test_shapes_with_sample_dimensions(name: str, sizes: tuple[int, ...], samples: tuple[int, ...]) -> None:
    critic, dist, f = make(name, sizes), policy(sizes, 7), features(7)
    torch.manual_seed(3)
    actions = dist.sample(samples)
    values = critic(f, actions)
    assert values.shape == (*samples, 7)
    # Row by row and sample by sample it is the same function.
    for where in itertools.product(*map(range, samples), range(7)):
        torch.testing.assert_close(values[where], critic(f[where[-1]], actions[where]))


@pytest.mark.parametrize("name", CRITICS)
def test_at_runs_once_and_gives_gradients_to_parameters_and_actions(name: str) -> None:
    critic = make(name, (2, 3))
    actions = policy((2, 3), 7).probs.requires_grad_()
    critic.at(features(7))(actions).sum().backward()
    assert actions.grad is not None
    assert actions.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_action_linear_is_the_inner_product_with_its_outputs() -> None:
    critic, f = make("action-linear", (2, 3)), features(7)
    assert isinstance(critic, ActionLinear)
    actions = policy((2, 3), 7).sample()
    torch.testing.assert_close(critic(f, actions), torch.einsum("bn,bn->b", actions, critic.net(f)))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_centred_heads_have_mean_zero_under_the_reference(sizes: tuple[int, ...]) -> None:
    critic, dist, f = make("additive", sizes), policy(sizes, 6), features(6)
    assert isinstance(critic, Additive)
    value, advantages = critic.heads(f, reference=dist.probs)
    assert value.shape == (6,)
    assert advantages.shape == (6, sum(sizes))
    for block, probs in zip(advantages.split(list(sizes), -1), dist.probs.split(list(sizes), -1), strict=True):
        torch.testing.assert_close((block * probs).sum(-1), torch.zeros(6, dtype=torch.float64))
    # So that V is the value of the reference policy, and differences between choices stay what they were.
    torch.testing.assert_close(critic.at(f, reference=dist.probs)(dist.probs), value)
    _, raw = critic.heads(f)
    for block, before in zip(advantages.split(list(sizes), -1), raw.split(list(sizes), -1), strict=True):
        torch.testing.assert_close(block.diff(dim=-1), before.diff(dim=-1))


def test_centre_by_hand() -> None:
    centred = centre(
        torch.tensor([1.0, 3.0, 0.0, 6.0, 3.0]), torch.tensor([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]), ActionFactors((2, 3))
    )
    torch.testing.assert_close(centred, torch.tensor([-1.0, 1.0, -3.0, 3.0, 0.0]))


def test_mlp_has_activations_between_its_layers_only() -> None:
    assert [type(layer) for layer in mlp([3, 4, 5, 1], nn.ReLU)] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in mlp([3, 1])] == [nn.Linear]


@pytest.mark.parametrize("name", CRITICS)
def test_copies_and_state_dicts(name: str) -> None:
    critic, other = make(name, (2, 3)), make(name, (2, 3), seed=9)
    actions, f = policy((2, 3), 4).mode, features(4)
    assert not torch.equal(critic(f, actions), other(f, actions))
    other.load_state_dict(critic.state_dict())
    assert torch.equal(critic(f, actions), other(f, actions))
    assert torch.equal(critic(f, actions), copy.deepcopy(critic)(f, actions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", CRITICS)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    critic = make(name, (2, 3)).to(dtype)
    dist = FactoredCategorical(policy((2, 3), 4).logits.to(dtype), ActionFactors((2, 3)))
    assert critic(features(4).to(dtype), dist.sample((2,))).dtype == dtype


@pytest.mark.parametrize("name", CRITICS)
def test_no_operation_mixes_devices(name: str) -> None:
    critic = make(name, (2, 3)).to("meta")
    dist = FactoredCategorical(torch.zeros(4, 5, device="meta"), ActionFactors((2, 3)))
    f = torch.zeros(4, F, device="meta", dtype=torch.float64)
    assert critic(f, dist.sample((2,)).double()).device.type == "meta"
    if isinstance(critic, Additive):
        assert critic.at(f, reference=dist.probs.double())(dist.probs.double()).device.type == "meta"
