"""Critics: what their flag `multilinear` says is true, and so are their shapes and their centring."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from oracles import assert_mean, assert_plausible, exact_expectation, outcomes
from scipy import stats
from torch import Tensor, nn

from gumbel_rl import ActionFactors, FactoredCategorical
from gumbel_rl.critics import (
    CRITICS,
    ActionLinear,
    Additive,
    Chain,
    Critic,
    InterpolatedMLP,
    MLPCritic,
    Multilinear,
    OrdinalMLP,
    centre,
    make_critic,
    mlp,
)
from gumbel_rl.estimators import Exact, StraightThrough

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
    assert {
        "action-linear": ActionLinear,
        "additive": Additive,
        "multilinear": Multilinear,
        "chain": Chain,
        "interpolated": InterpolatedMLP,
        "mlp": MLPCritic,
        "ordinal": OrdinalMLP,
    } == CRITICS


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_which_critics_call_themselves_multilinear(sizes: tuple[int, ...]) -> None:
    # That it is true is the next test's; this one fails if a critic hides an expectation that it could give.
    multilinear = {name for name in CRITICS if make(name, sizes).multilinear}
    single = {"interpolated"} if len(sizes) == 1 else set()
    assert multilinear == {"action-linear", "additive", "multilinear", "chain"} | single


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CRITICS)
def test_multilinear_means_the_value_at_the_probabilities_is_the_expectation(
    name: str, sizes: tuple[int, ...], layer_norm: bool
) -> None:
    critic, dist, f = make(name, sizes, layer_norm=layer_norm), policy(sizes, 6), features(6)
    at_probs = critic(f, dist.probs)
    enumerated = torch.stack([exact_expectation(dist.logits[i], sizes, critic.at(f[i]))[0] for i in range(6)])
    assert torch.allclose(at_probs, enumerated, rtol=0, atol=1e-10) == critic.multilinear
    assert torch.allclose(Exact()(dist, critic.at(f)), enumerated)
    assert torch.allclose(Exact(multilinear=critic.multilinear)(dist, critic.at(f)), enumerated)


@pytest.mark.parametrize("name", [name for name in CRITICS if name not in ("mlp", "ordinal")])
def test_the_slope_at_a_vertex_is_a_difference_of_values(name: str) -> None:
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
    normalised = mlp([3, 4, 5, 1], nn.ReLU, layer_norm=True)
    hidden = [nn.Linear, nn.LayerNorm, nn.ReLU]
    assert [type(layer) for layer in normalised] == [*hidden, *hidden, nn.Linear]
    assert [layer.normalized_shape for layer in normalised if isinstance(layer, nn.LayerNorm)] == [(4,), (5,)]
    assert [type(layer) for layer in mlp([3, 1], layer_norm=True)] == [nn.Linear]


@pytest.mark.parametrize("name", CRITICS)
def test_with_layer_norm_the_scale_of_the_first_layer_does_not_matter(name: str) -> None:
    for layer_norm in (False, True):
        critic = make(name, (2, 3), layer_norm=layer_norm)
        actions = policy((2, 3), 4).sample((2,)).requires_grad_()  # one-hots whose slope is asked for too
        before = critic(features(4), actions)
        with torch.no_grad():
            for parameter in critic.net[0].parameters():  # type: ignore[index,union-attr]
                parameter.mul_(1e3)
        # LayerNorm adds 1e-5 to the variance.
        assert torch.allclose(critic(features(4), actions), before, rtol=1e-2, atol=1e-3) == layer_norm


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
    # Actions that ask for their slope: whether others are one-hots cannot be seen without data.
    actions = dist.sample((2,)).double().requires_grad_()
    assert critic(f, actions).device.type == "meta"
    assert critic.regression_actions(actions).device.type == "meta"
    if isinstance(critic, Additive):
        assert critic.at(f, reference=dist.probs.double())(dist.probs.double()).device.type == "meta"


# Multilinear


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("sizes", [(2, 3, 4), (3, 3), (2, 1, 2, 5)], ids=str)
def test_multilinear_is_the_sum_over_all_pairs_spelt_out(sizes: tuple[int, ...], rank: int) -> None:
    critic, f = make("multilinear", sizes, rank=rank), features(3)
    assert isinstance(critic, Multilinear)
    output = critic.net(f)
    width = sum(sizes)
    assert output.shape == (3, 1 + width + rank * width)
    signs = torch.tensor([(-1.0) ** r for r in range(rank)], dtype=f.dtype)
    for actions in (outcomes(sizes)[:, None].expand(-1, 3, -1), policy(sizes, 3).probs[None]):
        values = critic(f, actions)
        for b in range(3):
            value, heads, embeddings = output[b].split([1, width, rank * width])
            blocks = embeddings.reshape(rank, width).split(list(sizes), -1)
            for row, action in enumerate(actions[:, b]):
                expected = value[0] + heads @ action
                u = [block @ z for block, z in zip(blocks, action.split(list(sizes)), strict=True)]
                for c, d in itertools.combinations(u, 2):
                    expected = expected + signs @ (c * d)
                torch.testing.assert_close(values[row, b], expected)


def test_multilinear_with_one_factor_is_additive() -> None:
    critic, additive = make("multilinear", (4,), rank=8), make("additive", (4,), seed=5)
    additive.load_state_dict(critic.state_dict(), strict=False)
    actions, f = policy((4,), 6).probs, features(6)
    assert {name for name, _ in critic.named_parameters()} == {name for name, _ in additive.named_parameters()}
    torch.testing.assert_close(critic(f, actions), additive(f, actions))


def test_interactions_begin_a_tenth_as_large_as_the_heads() -> None:
    critic = make("multilinear", (3, 3), rank=8)
    assert isinstance(critic, Multilinear)
    bound = 1 / 16**0.5  # torch draws the weights and biases of a linear layer uniformly within it
    last = critic.net[-1]
    assert isinstance(last, nn.Linear)
    for parameter in (last.weight, last.bias):
        assert 0.08 * bound < parameter[7:].abs().max() <= 0.1 * bound + 1e-8
        assert parameter[:7].abs().max() > 0.5 * bound


def test_multilinear_can_learn_what_no_sum_over_factors_can() -> None:
    # Exclusive or, of two bits, and its opposite: signs of both kinds are needed.
    for target in (torch.tensor([1.0, -1.0, -1.0, 1.0]), torch.tensor([-1.0, 1.0, 1.0, -1.0])):
        torch.manual_seed(0)
        critic = CRITICS["multilinear"](1, ActionFactors((2, 2)), net_arch=(), rank=2)
        optimizer = torch.optim.Adam(critic.parameters(), 0.05)
        for _ in range(300):
            loss = (critic(torch.ones(1), ActionFactors((2, 2)).vertices()) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 1e-3  # the best sum over factors has 1


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        make("multilinear", (2, 2), rank=0)


# Chain


@pytest.mark.parametrize("sizes", [(2, 3, 4), (3, 3), (2, 1, 2, 5), (4,)], ids=str)
def test_chain_is_the_sum_over_neighbours_spelt_out(sizes: tuple[int, ...]) -> None:
    critic, f = make("chain", sizes), features(3)
    output, width, largest = critic.net(f), sum(sizes), max(sizes)
    assert output.shape == (3, 1 + width + (len(sizes) - 1) * largest**2)
    for actions in (outcomes(sizes)[:, None].expand(-1, 3, -1), policy(sizes, 3).probs[None]):
        values = critic(f, actions)
        for b in range(3):
            value, heads, entries = output[b].split([1, width, (len(sizes) - 1) * largest**2])
            tables = entries.reshape(len(sizes) - 1, largest, largest)
            for row, action in enumerate(actions[:, b]):
                expected = value[0] + heads @ action
                for table, (c, d) in zip(tables, itertools.pairwise(action.split(list(sizes))), strict=True):
                    expected = expected + c @ table[: len(c), : len(d)] @ d
                torch.testing.assert_close(values[row, b], expected)


def test_a_chain_learns_anything_between_neighbours_and_nothing_between_others() -> None:
    sizes = (3, 3, 3)
    torch.manual_seed(0)
    tables = torch.randn(2, 3, 3)
    critic = CRITICS["chain"](1, ActionFactors(sizes), net_arch=())
    vertices = ActionFactors(sizes).vertices()
    first, second, third = vertices.split(3, -1)
    target = torch.einsum("ba,ac,bc->b", first, tables[0], second)
    target = target + torch.einsum("ba,ac,bc->b", second, tables[1], third)
    optimizer = torch.optim.Adam(critic.parameters(), 0.03)
    for _ in range(500):
        loss = (critic(torch.ones(1), vertices) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-3
    values = critic(torch.ones(1), vertices).detach().reshape(3, 3, 3)
    crossed = values - values[:1] - values[:, :, :1] + values[:1, :, :1]
    torch.testing.assert_close(crossed, torch.zeros(3, 3, 3), rtol=0, atol=1e-5)


# InterpolatedMLP


def twins(sizes: tuple[int, ...], **options: object) -> tuple[InterpolatedMLP, MLPCritic]:
    """An interpolated MLP, and the MLP of the same weights."""
    critic, plain = make("interpolated", sizes, **options), make("mlp", sizes, seed=5, **options)
    plain.load_state_dict(critic.state_dict())
    assert isinstance(critic, InterpolatedMLP)
    assert isinstance(plain, MLPCritic)
    return critic, plain


def mlp_value(plain: MLPCritic, f: Tensor, action: Tensor) -> Tensor:
    """The network on features and action side by side, `[F]` and `[N]`: the definition."""
    return plain.net(torch.cat([f, action]))[0]


def swap(action: Tensor, sizes: tuple[int, ...], factor: int, k: int) -> Tensor:
    """The one-hot `action` `[N]` with the choice of one factor replaced by `k`."""
    blocks = list(action.split(list(sizes)))
    blocks[factor] = torch.eye(sizes[factor], dtype=action.dtype)[k]
    return torch.cat(blocks)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("needs_slope", [False, True])
@pytest.mark.parametrize("sizes", [*SIZES, (2, 1, 2)], ids=str)
def test_interpolated_is_the_mlp_at_the_vertices(sizes: tuple[int, ...], needs_slope: bool, layer_norm: bool) -> None:
    critic, plain = twins(sizes, layer_norm=layer_norm)
    f, vertices = features(3), outcomes(sizes)
    actions = vertices[:, None].expand(-1, 3, -1).clone().requires_grad_(needs_slope)
    expected = torch.stack([torch.stack([mlp_value(plain, f[b], v) for b in range(3)]) for v in vertices])
    torch.testing.assert_close(critic(f, actions), expected)
    torch.testing.assert_close(plain(f, actions), expected)


@pytest.mark.parametrize("sizes", [*SIZES, (2, 1, 2)], ids=str)
def test_the_slope_of_interpolated_is_the_value_of_each_swap(sizes: tuple[int, ...]) -> None:
    critic, plain = twins(sizes)
    f, vertices = features(1), outcomes(sizes)
    actions = vertices[:, None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(f, actions).sum(), actions)
    for row, vertex in enumerate(vertices):
        swaps = [mlp_value(plain, f[0], swap(vertex, sizes, d, k)) for d, n in enumerate(sizes) for k in range(n)]
        torch.testing.assert_close(slope[row, 0], torch.stack(swaps))


@pytest.mark.parametrize("needs_slope", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("sizes", [*SIZES, (2, 1, 2)], ids=str)
def test_between_the_vertices_interpolated_follows_its_formula(
    sizes: tuple[int, ...], layer_norm: bool, needs_slope: bool
) -> None:
    critic, plain = twins(sizes, layer_norm=layer_norm)
    f, points = features(6), policy(sizes, 6).probs
    values = critic(f, points.clone().requires_grad_(needs_slope))
    for b, point in enumerate(points):
        vertex = torch.cat([torch.eye(len(p), dtype=p.dtype)[int(p.argmax())] for p in point.split(list(sizes))])
        swaps = [mlp_value(plain, f[b], swap(vertex, sizes, d, k)) for d, n in enumerate(sizes) for k in range(n)]
        expected = mlp_value(plain, f[b], vertex) + ((point - vertex) * torch.stack(swaps)).sum()
        torch.testing.assert_close(values[b], expected)
        # Towards the weights too.
        gradients = torch.autograd.grad(values[b], list(critic.parameters()), retain_graph=True)
        for actual, wanted in zip(gradients, torch.autograd.grad(expected, list(plain.parameters())), strict=True):
            torch.testing.assert_close(actual, wanted)


def test_with_one_factor_interpolated_is_linear() -> None:
    critic, plain = twins((4,))
    f, points = features(6), policy((4,), 6).probs
    at_vertices = torch.stack([critic(f, vertex.expand(6, -1)) for vertex in outcomes((4,))], -1)
    torch.testing.assert_close(critic(f, points), (points * at_vertices).sum(-1))
    assert not torch.allclose(plain(f, points), (points * at_vertices).sum(-1))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_regression_of_interpolated_is_that_of_the_mlp(sizes: tuple[int, ...]) -> None:
    f = features(16)
    targets = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    gradients = []
    for critic in twins(sizes):
        leaf = f.clone().requires_grad_()
        loss = (critic(leaf, policy(sizes, 16).mode) - targets).square().mean()
        gradients.append(torch.autograd.grad(loss, [leaf, *critic.parameters()]))
    assert len(gradients[0]) > 3
    for interpolated, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(interpolated, plain)
        assert plain.abs().sum() > 0


def test_evaluations_of_interpolated() -> None:
    critic, _ = twins((2, 3, 4))
    rows: list[int] = []
    critic.net[1].register_forward_hook(lambda module, inputs, output: rows.append(inputs[0][..., 0].numel()))
    vertices = policy((2, 3, 4), 6).mode
    critic(features(6), vertices)
    assert sum(rows) == 6
    rows.clear()
    critic(features(6), vertices.requires_grad_())
    assert sum(rows) == 6 * (9 + 1)


# OrdinalMLP

SUPPORT = {1: [0.0], 2: [-1.0, 1.0], 3: [-1.0, 0.0, 1.0], 5: [-1.0, -0.5, 0.0, 0.5, 1.0]}


def support_of(sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor([x for n in sizes for x in SUPPORT[n]], dtype=torch.float64)


def rising(sizes: tuple[int, ...], sign: float = 1.0) -> OrdinalMLP:
    """A critic whose value rises with every factor's choice, or falls with it: all weights are positive but for it."""
    critic = make("ordinal", sizes)
    assert isinstance(critic, OrdinalMLP)
    with torch.no_grad():
        for parameter in critic.net.parameters():
            parameter.abs_()
        critic.net[0].weight[:, F:] *= sign  # type: ignore[index,operator]
    return critic


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("sizes", [(5,), (2, 2, 2), (2, 1, 5, 3)], ids=str)
def test_ordinal_is_the_network_on_the_expected_choices(sizes: tuple[int, ...], layer_norm: bool) -> None:
    critic, f = make("ordinal", sizes, layer_norm=layer_norm), features(6)
    assert critic.net[0].in_features == F + len(sizes)  # type: ignore[index,union-attr]
    for actions in (policy(sizes, 6).sample(), policy(sizes, 6).probs):
        products = (actions * support_of(sizes)).split(list(sizes), -1)
        expected = torch.stack([block.sum(-1) for block in products], -1)
        torch.testing.assert_close(critic(f, actions), critic.net(torch.cat([f, expected], -1))[:, 0])  # type: ignore[operator]


@pytest.mark.parametrize("sizes", [(2, 2, 2), (2, 1, 5, 3)], ids=str)
def test_ordinal_is_an_mlp_whose_weights_for_a_factor_lie_on_a_line(sizes: tuple[int, ...]) -> None:
    critic, plain = make("ordinal", sizes), make("mlp", sizes, seed=5)
    weights = critic.state_dict()
    of_features, of_factors = weights["net.0.weight"].split([F, len(sizes)], 1)
    of_choices = of_factors.repeat_interleave(torch.tensor(sizes), 1) * support_of(sizes)
    plain.load_state_dict(weights | {"net.0.weight": torch.cat([of_features, of_choices], 1)})
    for actions in (policy(sizes, 6).sample(), policy(sizes, 6).probs):
        torch.testing.assert_close(critic(features(6), actions), plain(features(6), actions))


def test_the_value_of_ordinal_depends_on_the_expected_choice_alone() -> None:
    critic, plain = make("ordinal", (3, 5)), make("mlp", (3, 5))
    other = [0.1, 0.2, 0.3, 0.4, 0.0]
    middle, ends = (torch.tensor([*block, *other], dtype=torch.float64) for block in ([0, 1, 0], [0.5, 0, 0.5]))
    low = torch.tensor([1, 0, 0, *other], dtype=torch.float64)
    f = features(4)
    torch.testing.assert_close(critic(f, middle.expand(4, -1)), critic(f, ends.expand(4, -1)))
    assert not torch.allclose(plain(f, middle.expand(4, -1)), plain(f, ends.expand(4, -1)))
    assert not torch.allclose(critic(f, middle.expand(4, -1)), critic(f, low.expand(4, -1)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("sizes", [(5,), (2, 1, 5, 3)], ids=str)
def test_the_slope_of_ordinal_points_along_the_order(sizes: tuple[int, ...], sign: float) -> None:
    critic = rising(sizes, sign)
    points = torch.cat([policy(sizes, 6).sample(), policy(sizes, 6).probs]).requires_grad_()
    (slope,) = torch.autograd.grad(critic(features(12), points).sum(), points)
    for n, block in zip(sizes, slope.split(list(sizes), -1), strict=True):
        steps = sign * block.diff(dim=-1)
        assert (steps > 0).all()
        torch.testing.assert_close(steps, steps[:, :1].expand(-1, n - 1))  # a line
        assert n > 1 or not block.any()
    # So that a pathwise estimator moves probability up the order, or down it.
    dist = policy(sizes, 6)
    leaf = dist.logits.clone().requires_grad_()
    surrogate = StraightThrough()(FactoredCategorical(leaf, dist.factors), critic.at(features(6)))
    (gradient,) = torch.autograd.grad(surrogate.sum(), leaf)
    for n, block in zip(sizes, gradient.split(list(sizes), -1), strict=True):
        assert n == 1 or bool((sign * block[:, 0] < 0).all() and (sign * block[:, -1] > 0).all())


def test_the_support_of_ordinal_is_no_part_of_its_state() -> None:
    names = set(make("ordinal", (2, 3)).state_dict())
    assert names == set(make("mlp", (2, 3)).state_dict())


# Interpolated-critic learning


@pytest.mark.parametrize("name", CRITICS)
def test_critics_are_fitted_at_the_actions_taken_unless_asked_otherwise(name: str) -> None:
    actions = policy((2, 3), 4).mode
    assert make(name, (2, 3)).regression_actions(actions) is actions


@pytest.mark.parametrize("sizes", [(4,), (2, 1, 3)], ids=str)
def test_the_law_of_the_points_that_are_fitted(sizes: tuple[int, ...]) -> None:
    critic = make("mlp", sizes, interpolated_learning=True)
    torch.manual_seed(11)
    # From the origin the point is w u: its blocks sum to w, and divided by it they are u.
    scaled = critic.regression_actions(torch.zeros(4000, sum(sizes), dtype=torch.float64)).split(list(sizes), -1)
    weight = scaled[0].sum(-1)
    assert_plausible(float(stats.kstest(weight.numpy(), "uniform").pvalue))
    for n, block in zip(sizes, scaled, strict=True):
        torch.testing.assert_close(block.sum(-1), weight)  # one weight for all factors
        uniform = block / weight[:, None]
        assert (uniform >= 0).all()
        for k in range(n):  # an entry of a point uniform on the simplex has the law Beta(1, n - 1)
            if n > 1:
                assert_plausible(float(stats.kstest(uniform[:, k].numpy(), "beta", args=(1, n - 1)).pvalue))
                correlation = stats.spearmanr(uniform[:, k].numpy(), weight.numpy())
                assert_plausible(float(correlation.pvalue))
    if len(sizes) > 1:
        assert_plausible(float(stats.spearmanr(scaled[0][:, 0] / weight, scaled[2][:, 0] / weight).pvalue))


@pytest.mark.parametrize("sizes", [(4,), (2, 3)], ids=str)
def test_points_that_are_fitted_lie_between_the_action_and_the_simplex(sizes: tuple[int, ...]) -> None:
    critic = make("mlp", sizes, interpolated_learning=True)
    action = outcomes(sizes)[1]
    torch.manual_seed(12)
    points = critic.regression_actions(action.expand(4000, -1))
    assert points.shape == (4000, sum(sizes))
    assert points.dtype == torch.float64
    for block in points.split(list(sizes), -1):
        torch.testing.assert_close(block.sum(-1), torch.ones(4000, dtype=torch.float64))
        assert (block >= 0).all()
    middle = torch.cat([torch.full((n,), 1 / n) for n in sizes])
    assert_mean(points, (action + middle) / 2)


# make_critic


def test_make_critic_passes_its_arguments_on() -> None:
    factors = ActionFactors((2, 3))
    for name, cls in CRITICS.items():
        critic = make_critic(name, F, factors, [7], nn.ReLU)
        assert type(critic) is cls
        layers = list(critic.net)  # type: ignore[arg-type]
        assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
        assert layers[0].out_features == 7
        layers = list(make_critic(name, F, factors, [7, 6], layer_norm=True).net)  # type: ignore[arg-type]
        hidden = [nn.Linear, nn.LayerNorm, nn.Tanh]
        assert [type(layer) for layer in layers] == [*hidden, *hidden, nn.Linear]
    critic = make_critic("multilinear", F, factors, rank=3)
    assert isinstance(critic, Multilinear)
    assert critic.rank == 3
    critic = make_critic("mlp", F, factors, interpolated_learning=True)
    assert isinstance(critic, MLPCritic)
    assert critic.interpolated_learning


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "multi-linear",
            r"unknown critic 'multi-linear' \(did you mean 'multilinear'\?\); known are action-linear, add",
        ),
        ("action_linear", "did you mean 'action-linear'"),
        ("xyzzy", r"unknown critic 'xyzzy'; known are"),
        (None, "unknown critic None; known are"),
        (["mlp"], "unknown critic"),
    ],
)
def test_an_unknown_critic_is_refused(name: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_critic(name, F, ActionFactors((2,)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("multilinear", {"rnk": 3}, "critic 'multilinear' has no option 'rnk'; it takes rank, layer_norm$"),
        ("action-linear", {"rank": 3}, "critic 'action-linear' has no option 'rank'; it takes layer_norm$"),
        ("mlp", {"layernorm": True}, "has no option 'layernorm'; it takes interpolated_learning, layer_norm$"),
        ("ordinal", {"interpolated_learning": True}, "'ordinal' has no option .*; it takes layer_norm$"),
        (
            "interpolated",
            {"interpolated_learning": True},
            "'interpolated' has no option 'interpolated_learning'; it takes layer_norm$",
        ),
    ],
)
def test_an_unknown_option_of_a_critic_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_critic(name, F, ActionFactors((2, 2)), **options)
