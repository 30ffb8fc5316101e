"""One update of GumbelSAC against a plain recomputation: critics, actor, entropy coefficient and slow copies."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from oracles import assert_mean
from sac_reference import ALPHA, ROWS, Reference, agent, close, gradient, part, transitions, update
from scripted import Memory, Scale, Scripted, vectorised

from gumbel_rl import ESTIMATORS, GumbelSAC, make_estimator
from gumbel_rl.algorithms.gumbel_sac import TWINS
from gumbel_rl.critics import CRITICS
from gumbel_rl.sb3.replay import Transitions
from gumbel_rl.wrappers import MASK_KEY


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("sizes", [(3,), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("twins", TWINS)
@pytest.mark.parametrize("critic", CRITICS)
def test_update_recomputed(critic, twins, sizes, masked):
    model = agent(sizes, masked=masked, twins=twins, policy_kwargs={"critic": critic, "n_critics": 3})
    batch, reference = transitions(model), Reference(model, twins)
    changes = update(model, batch)
    close(part(changes, "critics"), reference.critic_step(batch, reference.returns(batch)))
    close(part(changes, "actor"), reference.actor_step(batch))
    # The slow copies follow the critics that have been moved.
    fast = torch.nn.utils.parameters_to_vector(reference.critics.parameters()) + part(changes, "critics")
    slow = torch.nn.utils.parameters_to_vector(reference.target.parameters())
    close(part(changes, "target"), 0.25 * (fast - slow).detach())
    assert float(changes["log_ent_coef"]) == 0.0


@pytest.mark.parametrize("n_critics", [1, 2])
def test_target_by_hand(n_critics):
    # Networks that are constants: Q(s, .) = (5, 5), its slow copies (1, 3) and (2, 6), pi = (1/4, 3/4).
    model = agent((2,), policy_kwargs={"net_arch": [], "critic": "action-linear", "n_critics": n_critics})
    policy = model.policy
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim:
                parameter.zero_()
        policy.actor[-1].bias.copy_(torch.tensor([0.0, math.log(3)]))
        for critic, slow, values in zip(policy.critics, policy.target, [(1.0, 3.0), (2.0, 6.0)], strict=False):
            critic.net[-1].bias.fill_(5.0)
            slow.net[-1].bias.copy_(torch.tensor(values))
    states = torch.zeros(2, 3)
    rewards, discounts = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [0.0]])
    actions = torch.tensor([[0], [1]])
    changes = update(model, Transitions(states, actions, states, 1 - discounts, rewards, discounts))
    # E Q' = min(1/4 * 1 + 3/4 * 3, 1/4 * 2 + 3/4 * 6) = 2.5, H = ln 4 - 3/4 ln 3 = 0.5623.
    value = 2.5 + ALPHA * (math.log(4) - 0.75 * math.log(3))
    first, second = 2.0 + 0.5 * value, -1.0
    for number in range(n_critics):
        moved = changes[f"critics.members.{number}.net.0.bias"]
        assert moved.tolist() == pytest.approx([first - 5, second - 5])  # 2/B times the error
    # What the critics say does not depend on the action: the actor follows the entropy alone.
    slopes = [-p * (math.log(p) + math.log(4) - 0.75 * math.log(3)) for p in (0.25, 0.75)]
    assert changes["actor.0.bias"].tolist() == pytest.approx([ALPHA * slope for slope in slopes], rel=1e-5)


def test_target_without_the_entropy_of_later_states():
    model = agent((2, 3), entropy_in_target=False)
    batch, reference = transitions(model), Reference(model)
    changes = update(model, batch)
    close(part(changes, "critics"), reference.critic_step(batch, reference.returns(batch, entropy_in_target=False)))
    close(part(changes, "actor"), reference.actor_step(batch))  # which seeks entropy all the same


def test_without_an_entropy_coefficient():
    model = agent((2, 3), ent_coef=0.0)
    batch, reference = transitions(model), Reference(model, alpha=0.0)
    changes = update(model, batch)
    close(part(changes, "critics"), reference.critic_step(batch, reference.returns(batch)))
    close(part(changes, "actor"), reference.actor_step(batch))


@pytest.mark.parametrize("q_clip", [0.5, 3.0])
def test_clipped_values(q_clip):
    model = agent(q_clip=q_clip)
    batch, reference = transitions(model), Reference(model)
    returns = reference.returns(batch)
    expected = reference.critic_step(batch, returns, q_clip)
    assert (expected - reference.critic_step(batch, returns)).norm() > 0.1 * expected.norm()
    close(part(update(model, batch), "critics"), expected)


@pytest.mark.parametrize("estimator", ["exact", "straight-through"])
def test_one_critic(estimator):
    # Straight-through is exact where the critic is linear in the action, sample by sample.
    model = agent((5,), estimator=estimator, policy_kwargs={"n_critics": 1})
    batch, reference = transitions(model), Reference(model)
    changes = update(model, batch)
    close(part(changes, "critics"), reference.critic_step(batch, reference.returns(batch)))
    close(part(changes, "actor"), reference.actor_step(batch))


@pytest.mark.parametrize("critic", ["multilinear", "mlp"])
@pytest.mark.parametrize("estimator", [name for name, cls in ESTIMATORS.items() if cls.unbiased and name != "exact"])
def test_unbiased_estimators_follow_the_exact_gradient_on_average(estimator, critic):
    # With the smaller of the critics: which one that is depends on what is expected of them, not on the actions that
    # were drawn.
    model = agent((2, 3), estimator=estimator, twins="min", policy_kwargs={"critic": critic})
    batch, reference = transitions(model), Reference(model, "min")
    expected, start = reference.actor_step(batch), copy.deepcopy(model.policy.state_dict())
    draws = []
    for _ in range(120):
        draws.append(part(update(model, batch), "actor"))
        model.policy.load_state_dict(start)
    assert_mean(torch.stack(draws), expected)
    assert float(torch.stack(draws).std(0).max()) > 1e-2


def test_a_sampled_target_is_right_on_average_and_at_one_hots():
    # Too many joint actions to enumerate, and a critic that is not linear: 3 samples of the policy.
    sizes = (3, 3, 2, 2, 3)
    model = agent(
        sizes, estimator="rloo", estimator_kwargs={"samples": 3}, policy_kwargs={"critic": "mlp", "n_critics": 1}
    )
    batch, reference = transitions(model, 12), Reference(model)
    expected, start = reference.critic_step(batch, reference.returns(batch)), copy.deepcopy(model.policy.state_dict())
    asked = []
    (slow,) = model.policy.target
    at = slow.at

    def noting(features):
        f = at(features)
        return lambda actions: (asked.append(actions), f(actions))[1]

    slow.at = noting
    draws = []
    for _ in range(200):
        draws.append(part(update(model, batch), "critics"))
        model.policy.load_state_dict(start)
    assert_mean(torch.stack(draws), expected)
    assert {actions.shape for actions in asked} == {(3, 12, sum(sizes))}
    assert all(set(actions.unique().tolist()) == {0.0, 1.0} for actions in asked)
    # The mean over the samples, all of them.
    with torch.no_grad():
        values = reference.q(reference.target, batch.next_observations, asked[0].double())[0].mean(0)
        _, entropy = reference.policy(batch.next_observations)
    returns = batch.rewards.squeeze(-1) + batch.discounts.squeeze(-1) * (values + ALPHA * entropy)
    close(draws[0], reference.critic_step(batch, returns))


@pytest.mark.parametrize("estimator", ["st-gumbel-softmax", "rloo", "score-function"])
def test_critics_are_compared_on_the_same_actions(estimator):
    model = agent((2, 3), estimator=estimator, policy_kwargs={"critic": "mlp"})
    asked = [[], []]
    for critic, actions in zip(model.policy.critics, asked, strict=True):
        at = critic.at
        critic.at = lambda features, at=at, actions=actions: lambda z: (actions.append(z.detach()), at(features)(z))[1]
    update(model, transitions(model))
    first, second = ([z for z in actions if z.ndim == 3] for actions in asked)
    # Sampled, and then all of them, to see whose expectation is the smallest.
    assert [len(z) for z in first] == [len(z) for z in second] == [model._estimator.samples, 6]
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("st-gumbel-softmax", {"temperature": 0.3}),
        ("mixture", {"second": "gumbel-rao", "second_kwargs": {"temperature": 0.3}}),
    ],
)
def test_the_temperature_reaches_the_estimator(name, options):
    made = make_estimator(name, **options)
    model = agent(estimator=made, temperature=0.6)
    update(model, transitions(model))
    assert made.temperature == pytest.approx(0.6)
    assert float(model.policy.temperature) == pytest.approx(0.6)
    assert model.memory.values("train/temperature") == pytest.approx([0.6])


def test_critics_are_fitted_where_they_ask_to_be():
    # Interpolated critic learning: at points between the action taken and others.
    model = agent((3, 2), policy_kwargs={"critic": "mlp", "critic_kwargs": {"interpolated_learning": True}})
    batch, reference = transitions(model), Reference(model)
    generator = torch.Generator().manual_seed(0)
    points = [torch.rand(ROWS, 5, generator=generator) for _ in range(2)]
    for critic, z in zip(model.policy.critics, points, strict=True):
        critic.regression_actions = lambda actions, z=z: z.to(actions)
    values = torch.stack(
        [c(reference.state(batch.observations), z.double()) for c, z in zip(reference.critics, points, strict=True)]
    )
    loss = (values - reference.returns(batch)).square().mean(-1).sum()
    close(part(update(model, batch), "critics"), -gradient(loss, reference.critics))


@pytest.mark.parametrize("delay", [1, 3])
def test_the_actor_waits_for_the_critics(delay):
    model = agent(actor_delay=delay, learning_rate=1e-2, ent_coef="auto")
    batch = transitions(model)
    for number in range(1, 7):
        changes = update(model, batch)
        assert float(part(changes, "critics").norm()) > 0
        assert float(part(changes, "target").norm()) > 0
        moves = number % delay == 0
        assert (float(part(changes, "actor").norm()) > 0) == moves
        assert (float(changes["log_ent_coef"].abs()) > 0) == moves
        assert ("train/actor_loss" in model.memory.rows[0]) == moves


def test_several_updates_are_one_after_the_other():
    together, apart = agent(learning_rate=1e-2, actor_delay=2), agent(learning_rate=1e-2, actor_delay=2)
    batch = transitions(together)
    for _ in range(5):
        update(apart, batch)
    together.replay_buffer.sample = lambda *_, **__: batch
    Memory.of(together)
    together.train(gradient_steps=5, batch_size=ROWS)
    assert together._n_updates == apart._n_updates == 5
    for one, other in zip(together.policy.parameters(), apart.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def entropy_of(model, batch):
    return Reference(model).policy(batch.observations)[1].detach()


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.95, 1.0])
def test_the_entropy_coefficient_moves_towards_the_target_from_both_sides(ratio):
    model = agent((2, 3), ent_coef="auto_0.2", target_entropy_ratio=ratio)
    batch = transitions(model)
    mean = float(entropy_of(model, batch).mean())
    assert 0.1 * math.log(6) < mean < 0.9 * math.log(6)
    change = float(update(model, batch)["log_ent_coef"])
    assert change == pytest.approx(ratio * math.log(6) - mean, rel=1e-5)
    assert (change > 0) == (ratio > 0.5)
    assert model.memory.values("train/ent_coef") == pytest.approx([0.2])  # that which the update was made with
    update(model, batch)
    assert model.memory.values("train/ent_coef") == pytest.approx([0.2 * math.exp(change)])


def test_masks_leave_less_entropy_to_aim_at():
    sizes = (2, 4, 3)
    model = agent(sizes, masked=True, ent_coef="auto", target_entropy_ratio=0.4)
    batch = transitions(model)
    allowed = batch.observations[MASK_KEY].split(sizes, -1)
    largest = sum(block.sum(-1).double().log() for block in allowed)
    assert float(largest.max()) < math.log(24)
    mean = entropy_of(model, batch).mean()
    expected = 0.4 * largest.mean() - mean
    assert float(update(model, batch)["log_ent_coef"]) == pytest.approx(float(expected), rel=1e-5)
    # What is logged is the share that is aimed at.
    assert model.memory.values("train/entropy_ratio") == pytest.approx([float(mean / largest.mean())], rel=1e-5)


def test_the_target_of_the_entropy_follows_its_schedule_over_environment_steps():
    batches, seen = [], []

    class Noting(GumbelSAC):
        def train(self, gradient_steps, batch_size):
            batches.append(transitions(self))
            self.replay_buffer.sample = lambda *_, **__: batches[-1]
            entropy = entropy_of(self, batches[-1]).mean()
            before = self.policy.log_ent_coef.item()
            super().train(gradient_steps, batch_size)
            # The learning rate is 1: the change is the distance from the target.
            target = self.policy.log_ent_coef.item() - before + float(entropy)
            seen.append((self.num_timesteps, target / math.log(3)))

    env = vectorised(*(Scripted([(7, "terminated")]) for _ in range(2)))
    kwargs = {"net_arch": [], "optimizer_class": torch.optim.SGD}
    options = {"learning_rate": 1.0, "learning_starts": 10, "train_freq": 5, "gradient_steps": 1}
    model = Noting(
        "MlpPolicy", env, ent_coef="auto", target_entropy_ratio="linear:0.8:0.2", policy_kwargs=kwargs, **options
    )
    memory = Memory.of(model)
    model.learn(50)
    model.dump_logs()
    assert [steps for steps, _ in seen] == [20, 30, 40, 50]
    assert [ratio for _, ratio in seen] == pytest.approx([0.56, 0.44, 0.32, 0.2], abs=1e-4)
    assert memory.values("train/target_entropy_ratio")[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("limit", [1e-2, 1e9])
def test_gradients_of_actor_and_critics_are_limited_apart(limit):
    model = agent(max_grad_norm=limit, ent_coef="auto")
    batch, reference = transitions(model), Reference(model, alpha=1.0)
    steps = {"critics": reference.critic_step(batch, reference.returns(batch)), "actor": reference.actor_step(batch)}
    changes = update(model, batch)
    for name, step in steps.items():
        norm = float(step.norm())
        torch.testing.assert_close(part(changes, name), step * min(1.0, limit / norm), rtol=1e-3, atol=1e-4 * limit)
    assert model.memory.values("train/grad_norm") == pytest.approx([float(steps["actor"].norm())], rel=1e-4)
    assert abs(float(changes["log_ent_coef"])) > 0.1  # which is one number, and knows no norm


@pytest.mark.parametrize("shared", [True, False])
def test_a_shared_extractor_learns_from_the_critics_alone(shared):
    networks = {"features_extractor_class": Scale, "share_features_extractor": shared, "net_arch": []}
    model = agent(policy_kwargs=networks)
    with torch.no_grad():
        for parameter in model.policy.critics.members.parameters():
            parameter.zero_()  # nothing reaches the extractor through the critics
    batch = transitions(model)
    changes = update(model, batch)
    assert float(part(changes, "critics.members").norm()) > 0
    assert (float(changes["features_extractor.scale"].norm()) > 0) == (not shared)
    # Now something does.
    assert float(part(update(model, batch), "features_extractor" if shared else "critics.extractor").norm()) > 0


def test_the_slow_copies_have_the_statistics_of_the_critics():
    class Normalised(Scale):
        def __init__(self, observation_space):
            super().__init__(observation_space)
            self.norm = torch.nn.BatchNorm1d(3)

        def forward(self, observations):
            return self.norm(super().forward(observations))

    model = agent(policy_kwargs={"features_extractor_class": Normalised})
    batch = transitions(model)
    update(model, batch._replace(observations=batch.observations + 5.0))
    fast, slow = (critics.extractor.norm.running_mean for critics in (model.policy.critics, model.policy.target))
    assert float(fast.abs().min()) > 0
    assert torch.equal(fast, slow)
    # They make targets, and are not in training mode when the others are: nothing is dropped out of them, say.
    assert model.policy.training
    assert model.policy.critics.extractor.norm.training
    assert not model.policy.target.extractor.norm.training


def test_what_is_logged_of_an_update():
    model = agent((2, 3), policy_kwargs={"n_critics": 3})
    batch, reference = transitions(model), Reference(model)
    values = reference.q(reference.critics, batch.observations, reference.taken(batch))
    _, entropy = reference.policy(batch.observations)
    objective = reference.value(reference.critics, batch.observations) + ALPHA * entropy
    expected = {
        "critic_loss": (values - reference.returns(batch)).square().mean(),
        "value": values.mean(),
        "actor_loss": -objective.mean(),
        "entropy": entropy.mean(),
        "entropy_ratio": entropy.mean() / math.log(6),
        "grad_norm": reference.actor_step(batch).norm(),
        "ent_coef": ALPHA,
        "n_updates": 1,
    }
    update(model, batch)
    (row,) = model.memory.rows
    for name, number in expected.items():
        assert row[f"train/{name}"] == pytest.approx(torch.as_tensor(number).item(), rel=1e-4), name


@pytest.mark.parametrize(("interval", "updates"), [(0, []), (1, [2, 4, 6, 8]), (2, [2, 6])])
def test_the_gradient_is_measured_when_it_is_due(interval, updates):
    model = agent(actor_delay=2, diagnostics_interval=interval, learning_rate=1e-3)
    batch, measured = transitions(model), []
    for number in range(1, 9):
        update(model, batch)
        if "grad/bias" in model.memory.rows[0]:
            measured.append(number)
            assert model.memory.values("grad/cosine") == pytest.approx([1.0], abs=1e-4)
    assert measured == updates


@pytest.mark.parametrize("layer_norm", [False, True])
def test_layer_norm_in_every_network(layer_norm):
    policy = agent(policy_kwargs={"layer_norm": layer_norm, "net_arch": [4, 5]}).policy
    for network in (policy.actor, *policy.critics, *policy.target):
        norms = [module for module in network.modules() if isinstance(module, torch.nn.LayerNorm)]
        assert [norm.normalized_shape for norm in norms] == ([(4,), (5,)] if layer_norm else [])
