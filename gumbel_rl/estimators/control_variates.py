"""REBAR and RELAX: the score function with a control variate that is relaxed, differentiable and learnt."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gumbel_rl.critics import mlp
from gumbel_rl.distributions import MASKED, FactoredCategorical
from gumbel_rl.estimators.base import Estimator, Objective, evaluate
from gumbel_rl.gumbel import posterior_gumbel, softmax

# Bounds of the learnt temperature. Below, a relaxed sample is a one-hot but for the few whose slope explodes; above, it
# is constant.
TEMPERATURES = (0.05, 20.0)


class Learnt(nn.Module):
    """What a control variate is made of.

    Attributes:
        eta: Weight of `f`, a scalar.
        log_temperature: Logarithm of the relaxation's temperature, a scalar.
        net: Network on the relaxed action, if there is one and its width is known.
    """

    def __init__(self, eta: float, temperature: float) -> None:
        super().__init__()
        self.eta = nn.Parameter(torch.tensor(float(eta)))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.net: nn.Sequential | None = None


class ControlVariateEstimator(Estimator):
    """Score function with a control variate: unbiased, whatever the control variate and its parameters.

    With `z = log p + g` the perturbed log-probabilities, `b = onehot(argmax z)` the sample, `z~` a draw of `z` given
    `b`, and `c` the control variate, a function of the relaxed sample `softmax(z / temperature)`, the gradient is

    `(f(b) - c(z~)) d log p(b) + d c(z) - d c(z~)`,

    where `z` and `z~` are differentiated at fixed noise (Tucker et al. 2017; Grathwohl et al. 2018). The value is
    `f(b)`. The noise of `z~` is either independent, or coupled to that of `z`: given `b`, the exponential variables
    that `z` is made of are independent of `b`, so that `z~ = z` is a draw like any other, with a derivative of its own.
    Tucker et al. couple the noise of Bernoulli variables so.

    The parameters follow the gradient of the variance of the estimate with respect to the logits, sample by sample: the
    expectation is the same whatever they are, so that it is the gradient of the mean square.

    Args:
        samples: `S`, number of independent samples to average.
        initial_eta: First value of the weight of `f` in the control variate.
        initial_temperature: First value of the temperature, positive.
        coupled: Give `z~` the noise of `z`: two evaluations of `f` in place of three, and no randomness but the noise.
        learning_rate: Of Adam, for the parameters; 0 to leave them as they are.

    Raises:
        ValueError: The temperature is not positive or the learning rate is negative.
    """

    unbiased = True
    evaluations = 2
    needs_gradient = True
    leaves_vertices = True
    learns = True

    def __init__(
        self,
        samples: int = 1,
        initial_eta: float = 1.0,
        initial_temperature: float = 0.5,
        coupled: bool = True,
        learning_rate: float = 0.01,
    ) -> None:
        super().__init__(samples)
        if not 0 < initial_temperature < math.inf:
            raise ValueError(f"initial_temperature must be a positive number, got {initial_temperature}")
        if not 0 <= learning_rate < math.inf:
            raise ValueError(f"learning_rate must not be negative, got {learning_rate}")
        self.coupled = coupled
        self.learning_rate = learning_rate
        self.evaluations = 2 if coupled else 3
        self.learnt = Learnt(initial_eta, initial_temperature)
        self._optimizer: torch.optim.Adam | None = None

    @abstractmethod
    def control_variate(self, f: Objective, relaxed: Tensor, context: Tensor | None) -> Tensor:
        """`c`: relaxed actions `[S, *batch, N]` to values `[S, *batch]`."""

    def __call__(
        self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        self._to(dist.logits.device)
        value, weights = self._value_and_weights(dist, f, self._noise(dist, noise), context)
        # The gradient is that of sum_k weights_k log p_k.
        score = dist.log_prob(dist.factors.flatten(weights.detach()))
        return (value + (score - score.detach())).mean(0)

    def adapt(
        self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        if self.learning_rate == 0:
            return
        self._to(dist.logits.device)
        self._prepare(dist, context)
        parameters = list(self.learnt.parameters())
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        slopes = torch.autograd.grad(
            self.mean_square(dist, f, noise, context), parameters, allow_unused=True, materialize_grads=True
        )
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            self.learnt.log_temperature.clamp_(*map(math.log, TEMPERATURES))

    def mean_square(
        self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Mean over samples and batch of the squared norm of the gradient with respect to the logits, a scalar.

        Its expectation is the variance of a single sample's estimate, plus what no parameter changes. It is
        differentiable with respect to the parameters, not to the logits.
        """
        with torch.enable_grad():
            _, weights = self._value_and_weights(dist, f, self._noise(dist, noise), context, create_graph=True)
            probs = dist.factors.pad(dist.probs.detach().to(weights.dtype), 0.0)
            gradient = weights - probs * weights.sum(-1, keepdim=True)
            return gradient.square().sum((-2, -1)).mean()

    def _value_and_weights(
        self,
        dist: FactoredCategorical,
        f: Objective,
        noise: Tensor,
        context: Tensor | None,
        create_graph: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """`f(b)` `[S, *batch]`, and the weights `[S, *batch, D, K]` of the gradient `sum_k weights_k d log p_k`."""
        factors = dist.factors
        log_p = factors.pad(dist.log_probs.detach(), MASKED)
        z = log_p + factors.pad(noise, 0.0)
        sample = dist.sample(noise=noise)
        one_hot = factors.pad(sample.to(log_p.dtype), 0.0)
        value = evaluate(f, sample)

        def control(z: Tensor) -> tuple[Tensor, Tensor]:
            """`c(z)` and its slope."""
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                relaxed = softmax(leaf / self.learnt.log_temperature.exp())
                c = self.control_variate(f, factors.flatten(relaxed).to(sample.dtype), context)
                if not c.requires_grad:
                    return c.to(z.dtype), torch.zeros_like(z)
                (slope,) = torch.autograd.grad(
                    c.sum(), leaf, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
            return c.to(z.dtype), slope

        c, slope = control(z)
        if self.coupled:
            z_tilde, c_tilde, slope_tilde = z, c, slope
        else:
            z_tilde = log_p + posterior_gumbel(log_p, one_hot)
            c_tilde, slope_tilde = control(z_tilde)
        # With exponential variables E held fixed, dz = d log p, and of z~_b = -log E_b and z~_i = -log(E_i / p_i + E_b)
        # the first does not depend on p, and the second with d z~_i = (1 - exp(z~_i - z~_b)) d log p_i.
        top = (z_tilde * one_hot).sum(-1, keepdim=True)
        kept = 1.0 - (z_tilde - top).exp()
        advantage = (value.detach() - c_tilde)[..., None, None]
        return value, advantage * one_hot + slope - slope_tilde * kept

    def _prepare(self, dist: FactoredCategorical, context: Tensor | None) -> None:
        """Make what depends on the widths of actions and context."""

    def _to(self, device: torch.device) -> None:
        if self.learnt.eta.device != device:
            self.learnt.to(device)
            self._optimizer = None  # its averages are on the other device

    def __getstate__(self) -> dict[str, Any]:
        # What was learnt on a GPU must be readable without one.
        state = self.__dict__.copy()
        if self.learnt.eta.device.type != "cpu":
            state |= {"learnt": copy.deepcopy(self.learnt).cpu(), "_optimizer": None}
        return state


class Rebar(ControlVariateEstimator):
    """REBAR: the control variate is `eta f(relaxed)`, with `eta` and the temperature learnt (Tucker et al. 2017).

    `f` must be defined between the one-hots too, continuous and differentiable but for kinks: where it jumps there is a
    bias. The more what it says there resembles what it says at the one-hots, the less variance is left.
    """

    def control_variate(self, f: Objective, relaxed: Tensor, context: Tensor | None) -> Tensor:
        return self.learnt.eta * evaluate(f, relaxed)


class Relax(ControlVariateEstimator):
    """RELAX: the control variate is `eta f(relaxed) + net(relaxed)`, all of it learnt (Grathwohl et al. 2018).

    The network is made when it first learns, as wide as the action, and says 0 until then and at first. It may be
    given features of the batch elements as `context`, `[*batch, C]`, beside the relaxed action. With
    `uses_objective=False` it is the whole control variate: then `f` is asked at the sample alone and may be anything,
    even a return that is known at that action only.

    Args:
        samples: `S`, number of independent samples to average.
        initial_eta: First value of the weight of `f` in the control variate.
        initial_temperature: First value of the temperature, positive.
        coupled: Give `z~` the noise of `z`: one evaluation of `f` less, and no randomness but the noise. The published
            algorithm draws it independently.
        learning_rate: Of Adam, for the parameters; 0 to leave them as they are.
        net_arch: Widths of the hidden layers.
        uses_objective: Whether `eta f(relaxed)` is part of the control variate, for an `f` as REBAR needs it.
    """

    def __init__(
        self,
        samples: int = 1,
        initial_eta: float = 1.0,
        initial_temperature: float = 0.5,
        coupled: bool = True,
        learning_rate: float = 0.01,
        net_arch: Sequence[int] = (32, 32),
        uses_objective: bool = True,
    ) -> None:
        super().__init__(samples, initial_eta, initial_temperature, coupled, learning_rate)
        self.net_arch = tuple(net_arch)
        self.uses_objective = self.needs_gradient = self.leaves_vertices = self.needs_objective = uses_objective
        if not uses_objective:
            self.evaluations = 1

    def control_variate(self, f: Objective, relaxed: Tensor, context: Tensor | None) -> Tensor:
        net = self.learnt.net
        says = relaxed.new_zeros(relaxed.shape[:-1]) if net is None else self._say(net, relaxed, context)
        return says + self.learnt.eta * evaluate(f, relaxed) if self.uses_objective else says

    def _say(self, net: nn.Sequential, relaxed: Tensor, context: Tensor | None) -> Tensor:
        parts = [relaxed] if context is None else [relaxed, context.expand(*relaxed.shape[:-1], -1)]
        weight = next(net.parameters())
        inputs = torch.cat([part.to(weight.dtype) for part in parts], -1)
        if inputs.shape[-1] != weight.shape[-1]:
            raise ValueError(
                f"the control variate has learnt from {weight.shape[-1]} numbers, action and context together, got "
                f"{inputs.shape[-1]}"
            )
        says: Tensor = net(inputs).squeeze(-1)
        return says.to(relaxed.dtype)

    def _prepare(self, dist: FactoredCategorical, context: Tensor | None) -> None:
        if self.learnt.net is None:
            width = dist.factors.width + (0 if context is None else context.shape[-1])
            net = mlp([width, *self.net_arch, 1])
            for parameter in net[-1].parameters():
                nn.init.zeros_(parameter)
            self.learnt.net = net.to(self.learnt.eta.device, self.learnt.eta.dtype)
