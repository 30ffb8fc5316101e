"""Coordination: neighbouring factors of an action have to fit each other, step after step, and the optimum is known.

The reward of a step is a chain over the action's factors, so that dynamic programming finds the best of all `K^D` joint
actions. What the first two factors choose also decides whether the next context is a richer one.

Shapes: `C` contexts, `D` factors of `K` choices each, `T` steps, `n` sub-environments.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.chain import Chain, draw_allowed

LIMITS = {"factors": (1, 256), "choices": (2, 32), "contexts": (1, 32), "steps": (1, 1000), "table_seed": (0, 2**63)}
"""Smallest and largest value of the arguments of `Coordination`."""

RICHNESS = 1.5
"""Best reward of a step in the richest context, relative to the poorest; evenly spaced between."""

SLIP = 0.1
"""Probability that the context moves the other way."""

PENALTY = -1.0
"""Reward of a step with a forbidden choice."""


class Coordination:
    """The decision process itself: its rewards and moves, and exact answers about policies.

    **Reward.** `r_c(a) = first_c(a_1) + sum_{d<D} pairs_{c,d}(a_d, a_{d+1})` for action `a` in context `c`, the tables
    of `Chain`: an additive model fitted to uniform actions sees the factors' main effects alone, and a uniform policy
    earns 0 in every context. Contexts are ordered by `max_a r_c(a)`, from the poorest to the richest.

    **Move.** The first context is uniform. A step goes to the next richer context if `a_1 + a_2 + s_c` is odd, else to
    the next poorer, and stays where there is none; with probability `SLIP` it is the other way round. The shift `s_c`
    is such that the action of the largest immediate reward goes down. (With one factor, `a_1 + s_c` decides.)

    **End.** The episode terminates after `T` steps. Observed are the context as a one-hot and the share of steps left.

    **Scale.** One factor common to all rewards makes the optimal expected return `T`: 1 a step.

    **Masks.** If masked, about a third of the choices is forbidden; which ones depends on the context. A step with a
    forbidden choice is worth `PENALTY`, and the context stays. It never pays: had one stayed without it, there would be
    one step more to go, which is worth more. "Uniform" means uniform over allowed choices throughout.

    Args:
        factors: `D`; one factor makes the action space `Discrete`.
        choices: `K`; two choices of several factors make it `MultiBinary`, more `MultiDiscrete`.
        contexts: `C`.
        steps: `T`.
        masked: Forbid choices, and put masks into the infos.
        table_seed: Seed of tables and masks.

    Attributes:
        chain: The rewards. A second factor with one choice is added if `D = 1`.
        allowed: Whether a choice is allowed, `[C, D, K]`; all of them if not masked.
        moves_up: Whether the first two choices go up (unless it slips), `[C, K, K]`.
        random_return: Expected return of uniformly random allowed actions: 0, see above.

    Raises:
        ValueError: An argument that is no integer or not within its `LIMITS`.
    """

    random_return = 0.0

    def __init__(
        self,
        factors: int = 8,
        choices: int = 5,
        contexts: int = 4,
        steps: int = 10,
        masked: bool = False,
        table_seed: int = 0,
    ) -> None:
        given = {"factors": factors, "choices": choices, "contexts": contexts, "steps": steps, "table_seed": table_seed}
        for name, (low, high) in LIMITS.items():
            if not isinstance(given[name], (int, np.integer)) or not low <= given[name] <= high:
                raise ValueError(f"{name} must be an integer between {low} and {high}, got {given[name]!r}")
        self.factors, self.choices = int(factors), int(choices)
        self.contexts, self.steps = int(contexts), int(steps)
        self.masked = bool(masked)
        generator = np.random.default_rng(table_seed)
        self.allowed = draw_allowed(generator, self.contexts, self.factors, self.choices, self.masked)
        linked = self.allowed
        if self.factors == 1:
            silent = np.arange(self.choices) == 0
            linked = np.concatenate([linked, np.broadcast_to(silent, linked.shape)], 1)
        self.chain = Chain(generator, linked)

        rungs = np.arange(self.contexts)
        # Next contexts, down and up: [C, 2].
        self._next = np.stack([np.maximum(rungs - 1, 0), np.minimum(rungs + 1, self.contexts - 1)], -1)
        odd = np.add.outer(np.arange(self.choices), np.arange(self.choices)) % 2 == 1
        heads = self.chain.head.reshape(self.contexts, -1)
        self.moves_up: NDArray[np.bool_] = odd != odd.reshape(-1)[heads.argmax(-1)][:, None, None]
        self.chain.rescale(np.linspace(1.0, RICHNESS, self.contexts) / heads.max(-1))
        # The optimum is linear in the rewards.
        self.chain.rescale(np.full(self.contexts, self.steps / self.optimal_return))

    def _ahead(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected value `[C, 2]` of the context that follows a move down or up, from values `[C]`."""
        moved: NDArray[np.float64] = value[self._next]
        return (1 - SLIP) * moved + SLIP * moved[:, ::-1]

    def ahead_of_head(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected value `[C, K, K]` of the context that follows the first two choices, from values `[C]`.

        Reward and this together are an action's value.
        """
        ahead = self._ahead(value)[:, :, None, None]
        return np.where(self.moves_up, ahead[:, 1], ahead[:, 0])

    def _solve(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """By backward induction, the best first two choices as positions `[T, C]`, and the values at first `[C]`."""
        value = np.zeros(self.contexts)
        best = np.zeros((self.steps, self.contexts), dtype=np.int64)
        for t in reversed(range(self.steps)):
            total = (self.chain.head + self.ahead_of_head(value)).reshape(self.contexts, -1)
            best[t] = total.argmax(-1)
            value = total.max(-1)
        return best, value

    @property
    def optimal_return(self) -> float:
        """Largest expected return of any policy: `T`, up to rounding."""
        return float(self._solve()[1].mean())

    @property
    def optimal_actions(self) -> NDArray[np.int64]:
        """The best action at each step and in each context, `[T, C, D]`."""
        return self.chain.complete(self._solve()[0])[..., : self.factors]

    @property
    def myopic_return(self) -> float:
        """Expected return of the policy that takes the largest immediate reward."""
        head = self.chain.head.reshape(self.contexts, -1).argmax(-1)
        return self.policy_return(self.chain.complete(head[None])[..., : self.factors])

    @property
    def additive_return(self) -> float:
        """Expected return of the policy that is greedy with respect to additive action values.

        By backward induction: its action at step `t` maximises `sum_d E[Q_t(c, a) | a_d]` over allowed choices, up to a
        constant the least-squares additive fit to `Q_t` under uniform actions; `Q_t` is the exact action value if this
        same policy acts in the later steps.

        An agent that goes on fitting an additive model to its own actions can do better: each factor then comes to
        suit what the others do, until no change of a single factor is an improvement.
        """
        effects, uniform = self.chain.main_effects(), self.chain.uniform
        value = np.zeros(self.contexts)
        for _ in range(self.steps):
            ahead = self.ahead_of_head(value)
            fit = effects.copy()
            fit[:, 0] += (ahead @ uniform[:, 1, :, None])[..., 0]
            fit[:, 1] += (uniform[:, 0, None, :] @ ahead)[..., 0, :]
            value = self.evaluate_step(np.where(uniform > 0, fit, -np.inf).argmax(-1)[:, : self.factors], value)
        return float(value.mean())

    def policy_return(self, actions: NDArray[np.int64]) -> float:
        """Expected return of a deterministic policy, by backward induction.

        Args:
            actions: The action at each step and in each context, `[T, C, D]`, or `[1, C, D]` for the same at all steps.

        Raises:
            ValueError: Another shape, or choices that do not exist. Forbidden choices are penalised, not refused.
        """
        actions = np.asarray(actions)
        wanted = (self.steps, self.contexts, self.factors)
        if actions.shape not in {wanted, (1, *wanted[1:])}:
            raise ValueError(f"actions of shape {actions.shape} do not fit {wanted}, where the first may be 1")
        if actions.min() < 0 or actions.max() >= self.choices:
            raise ValueError(f"choices must lie between 0 and {self.choices - 1}")
        value = np.zeros(self.contexts)
        for t in reversed(range(self.steps)):
            value = self.evaluate_step(actions[t % len(actions)], value)
        return float(value.mean())

    def evaluate_step(self, action: NDArray[np.int64], value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values `[C]` before a step with actions `[C, D]`, from the values `[C]` after it."""
        rungs = np.arange(self.contexts)
        reward, up, invalid = self._collect(rungs, action)
        return reward + np.where(invalid > 0, value, self._ahead(value)[rungs, up.astype(np.int64)])

    def _collect(
        self, context: NDArray[np.int64], action: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
        """Rewards, whether it goes up, numbers of forbidden choices, `[n]`, for contexts `[n]`, actions `[n, D]`."""
        linked = action if self.factors > 1 else np.pad(action, ((0, 0), (0, 1)))
        reward = self.chain.rewards(context, linked)
        up = self.moves_up[context, linked[:, 0], linked[:, 1]]
        if not self.masked:
            return reward, up, np.zeros(len(context), dtype=np.int64)
        invalid = (~self.allowed[context[:, None], np.arange(self.factors), action]).sum(-1)
        return np.where(invalid > 0, PENALTY, reward), up, invalid

    def _step(
        self, context: NDArray[np.int64], action: Any, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], dict[str, Any]]:
        """Next contexts `[n]`, rewards `[n]` and infos, for contexts `[n]` and the environments' actions."""
        reward, up, invalid = self._collect(context, np.asarray(action).reshape(len(context), self.factors))
        up = up != (generator.random(len(context)) < SLIP)
        context = np.where(invalid > 0, context, self._next[context, up.astype(np.int64)])
        return context, reward, {**self._info(context), "invalid_actions": invalid} if self.masked else {}

    def _info(self, context: NDArray[np.int64]) -> dict[str, Any]:
        return {"action_mask": self._masks(context)} if self.masked else {}

    def _masks(self, context: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Masks `[n, D*K]` in contexts `[n]`."""
        return self.allowed[context].reshape(len(context), -1)

    def _observe(self, context: NDArray[np.int64], step: int) -> NDArray[np.float32]:
        """Observations `[n, C+1]` of contexts `[n]` after a number of steps."""
        left = np.full((len(context), 1), (self.steps - step) / self.steps)
        return np.concatenate([np.eye(self.contexts)[context], left], -1, dtype=np.float32)

    def _spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        """Observation and action space of one environment."""
        action: spaces.Space[Any]
        if self.factors == 1:
            action = spaces.Discrete(self.choices)
        elif self.choices == 2:
            action = spaces.MultiBinary(self.factors)
        else:
            action = spaces.MultiDiscrete([self.choices] * self.factors)
        return spaces.Box(0, 1, (self.contexts + 1,), np.float32), action


class CoordinationEnv(Coordination, gym.Env[Any, Any]):
    """`gumbel_rl/Coordination-v0`: see `Coordination`.

    If masked, `info["action_mask"]` has the mask of the present context and `info["invalid_actions"]` the number of
    factors whose choice was forbidden in the step.

    Args:
        render_mode: Accepted for uniformity; there is nothing to see.
        **options: Arguments of `Coordination`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium reads it from the class

    def __init__(self, render_mode: None = None, **options: Any) -> None:
        super().__init__(**options)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self._spaces()
        self._context = np.zeros(1, dtype=np.int64)
        self._time = 0

    def action_masks(self) -> NDArray[np.bool_]:
        """Whether a choice is allowed at present, the factors side by side, `[D*K]`."""
        return self.allowed[self._context].reshape(-1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw the first context."""
        gym.Env.reset(self, seed=seed)
        self._context, self._time = self.np_random.integers(self.contexts, size=1), 0
        return self._observe(self._context, 0)[0], {key: value[0] for key, value in self._info(self._context).items()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Collect the reward and move; the episode ends with the last step."""
        self._context, reward, info = self._step(self._context, action, self.np_random)
        self._time += 1
        done = self._time >= self.steps
        observation = self._observe(self._context, self._time)[0]
        return observation, float(reward[0]), done, False, {key: value[0] for key, value in info.items()}


class CoordinationVectorEnv(Coordination, VectorEnv[Any, Any, Any]):
    """Many independent copies of `CoordinationEnv` in NumPy. Their episodes are equally long and end together.

    Args:
        num_envs: `n`.
        render_mode: Accepted for uniformity; there is nothing to see.
        **options: Arguments of `Coordination`.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as above

    def __init__(self, num_envs: int = 1, render_mode: None = None, **options: Any) -> None:
        super().__init__(**options)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space, self.single_action_space = self._spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._context = np.zeros(num_envs, dtype=np.int64)
        self._time = 0

    def action_masks(self) -> NDArray[np.bool_]:
        """Whether a choice is allowed at present in each sub-environment, `[n, D*K]`."""
        return self._masks(self._context)

    def _restart(self) -> tuple[Any, dict[str, Any]]:
        self._context, self._time = self.np_random.integers(self.contexts, size=self.num_envs), 0
        return self._observe(self._context, 0), self._info(self._context)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw the first context of every sub-environment."""
        VectorEnv.reset(self, seed=seed)
        return self._restart()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Collect the rewards and move; with the last step every episode ends and a new one begins."""
        self._context, rewards, infos = self._step(self._context, actions, self.np_random)
        self._time += 1
        done = np.full(self.num_envs, self._time >= self.steps)
        observations = self._observe(self._context, self._time)
        if self._time >= self.steps:
            last = {"final_obs": observations, "_final_obs": done, "final_info": infos, "_final_info": done}
            observations, infos = self._restart()
            infos = {**infos, **last}
        return observations, rewards, done, np.zeros_like(done), infos
