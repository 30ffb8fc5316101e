"""The contract of a gradient estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.schedules import Schedule

Objective = Callable[[Tensor], Tensor]
"""`f`: maps flat actions `[*, N]` to values `[*]`."""


class Estimator(ABC):
    """Estimates `E_z~dist f(z)` and its gradient with respect to `dist.logits`.

    `estimator(dist, f)` returns a surrogate `[*batch]`. Its value estimates the expectation; its gradient, which
    autograd takes, estimates the gradient of the expectation with respect to `dist.logits` and to any parameter inside
    `f`. Samples are averaged. `f` is called with actions `[S', *batch, N]`, mostly once and with `S' = S`.

    Attributes:
        unbiased: Whether the gradient's expectation is the exact gradient, whatever `f`; it must be continuous, if the
            estimator leaves the vertices.
        evaluations: Evaluations of `f` for each sample and batch element; `None` where it depends on the action space.
        needs_gradient: Whether `f` must be differentiable in the action.
        leaves_vertices: Whether `f` is evaluated at points that are not one-hots.
        has_temperature: Whether there is a temperature.
        temperature: The current temperature where there is one; whoever anneals it assigns it.
        needs_objective: Whether `f` must be known at other actions than the one sampled once, so that the return of a
            single environment step cannot serve as `f`.
        learns: Whether `adapt` improves parameters of its own.

    Args:
        samples: `S`, number of independent samples to average.

    Raises:
        ValueError: `samples` is below `min_samples`.
    """

    unbiased: bool
    evaluations: int | None = 1
    needs_gradient: bool = False
    leaves_vertices: bool = False
    has_temperature: bool = False
    temperature: float
    needs_objective: bool = True
    learns: bool = False
    min_samples: ClassVar[int] = 1

    def __init__(self, samples: int = 1) -> None:
        if samples < self.min_samples:
            raise ValueError(f"{type(self).__name__} needs at least {self.min_samples} samples, got {samples}")
        self.samples = samples

    @abstractmethod
    def __call__(self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None) -> Tensor:
        """Surrogate for `E f(z)`.

        Args:
            dist: The distribution of `z`, logits `[*batch, N]`.
            f: The objective, actions `[S', *batch, N]` to values `[S', *batch]` for any `S'`.
            noise: Standard Gumbel noise `[S, *batch, N]` to use instead of fresh noise, so that several estimators can
                be compared on common random numbers. Estimators that draw no noise ignore it.

        Returns:
            `[*batch]`.
        """

    def adapt(  # noqa: B027 - most estimators learn nothing
        self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None
    ) -> None:
        """Improve the estimator's own parameters by one step, if it has any.

        Whoever trains with an estimator calls this after each estimate, with the same arguments; the estimate itself
        changes nothing. Neither the distribution nor `f` is given a gradient.
        """

    def _noise(self, dist: FactoredCategorical, noise: Tensor | None) -> Tensor:
        if noise is None:
            return dist.noise((self.samples,))
        if noise.shape[1:] != dist.logits.shape or len(noise) < self.min_samples:
            raise ValueError(
                f"noise of shape {tuple(noise.shape)} does not fit: {type(self).__name__} needs at least "
                f"{self.min_samples} samples of shape {tuple(dist.logits.shape)}"
            )
        return noise


def evaluate(f: Objective, actions: Tensor) -> Tensor:
    """`f(actions)`, checked: actions `[*, N]` to values `[*]`.

    Raises:
        ValueError: The values have another shape, most often `[*, 1]`, which would broadcast to nonsense.
    """
    values = f(actions)
    if values.shape != actions.shape[:-1]:
        raise ValueError(
            f"the objective maps actions of shape {tuple(actions.shape)} to values of shape {tuple(values.shape)} "
            f"instead of {tuple(actions.shape[:-1])}"
        )
    return values


class PathwiseEstimator(Estimator):
    """An estimator that hands `f` an action tensor and differentiates through it.

    `relax(dist)` gives that tensor alone, which is all that a stock actor of another library can emit.
    """

    needs_gradient = True

    @abstractmethod
    def relax(self, dist: FactoredCategorical, noise: Tensor | None = None) -> Tensor:
        """The action tensor: forward value and surrogate gradient.

        Args:
            dist: The distribution, logits `[*batch, N]`.
            noise: Gumbel noise `[*samples, *batch, N]`; fresh noise for one sample if omitted.

        Returns:
            `[*samples, *batch, N]`.
        """

    def __call__(self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None) -> Tensor:
        return evaluate(f, self.relax(dist, self._noise(dist, noise))).mean(0)


class TemperatureEstimator(PathwiseEstimator):
    """A pathwise estimator with a temperature.

    Args:
        temperature: A positive number.
        samples: `S`, number of independent samples to average.

    Raises:
        ValueError: The temperature is not positive.
    """

    has_temperature = True

    def __init__(self, temperature: float = 1.0, samples: int = 1) -> None:
        super().__init__(samples)
        if isinstance(temperature, (str, Schedule)) or not 0 < float(temperature) < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {temperature!r}")
        self.temperature = float(temperature)
