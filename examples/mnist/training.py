"""Training a model by gradient ascent on its bound."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from examples.mnist.digits import Split, binarise
from examples.mnist.importance import importance_weighted_bound
from gumbel_rl import Estimator
from gumbel_rl.schedules import Schedule

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),  # as published
}


class Model(Protocol):
    """What is trained: a module with a bound."""

    estimators: list[Estimator]

    def loss(self, pixels: Tensor) -> tuple[Tensor, Tensor]: ...

    def adapt(self, pixels: Tensor) -> None: ...

    def log_weights(self, pixels: Tensor, samples: int) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is trained.

    Attributes:
        steps: Updates.
        batch: Digits of an update.
        optimizer: A key of `OPTIMIZERS`.
        learning_rate: Its step size.
        temperature: Schedule over updates, for estimators that have a temperature; `None` leaves theirs alone.
        refresh: Updates between looks at the schedule, as published.
        evaluate_every: Updates between bounds on the validation digits.
        evaluation_samples: Of these bounds.
        keep_best: End with the parameters whose validation bound was best, instead of the last.
        redraw: Draw the black and white pixels of training digits anew in every batch, from their intensities.
        seed: Of everything random but the initial parameters, which are the model's.
    """

    steps: int
    batch: int = 100
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    temperature: Schedule | None = None
    refresh: int = 500
    evaluate_every: int = 100
    evaluation_samples: int = 10
    keep_best: bool = True
    redraw: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of training.

    Attributes:
        best_step: Update after which the validation bound was best.
        validation: That bound, nats; negative.
        training: Mean of the bound's estimates over the last tenth of the updates, nats.
        seconds_a_step: CPU seconds of an update, evaluations left out.
        curve: Validation bound by update.
    """

    best_step: int
    validation: float
    training: float
    seconds_a_step: float
    curve: dict[int, float]


Report = Callable[[int, dict[str, float]], None]
"""Called with the update and what was measured: `train/bound`, `train/temperature`, `validation/bound`."""


def train(model: Model, digits: Split, settings: Settings, report: Report = lambda step, values: None) -> Outcome:
    """Train the model.

    Raises:
        FloatingPointError: The validation bound is no longer a number.
    """
    torch.manual_seed(settings.seed)
    optimizer = OPTIMIZERS[settings.optimizer](model.parameters(), lr=settings.learning_rate)
    batches = _batches(digits.train.images, settings)
    curve: dict[int, float] = {}
    bounds: list[Tensor] = []
    best_step, best_state = 0, copy.deepcopy(model.state_dict())
    seconds = 0.0
    for step in range(settings.steps):
        if settings.temperature is not None and step % settings.refresh == 0:
            set_temperature(model.estimators, settings.temperature(step))
        pixels = next(batches)
        begun = time.process_time()
        update(model, optimizer, pixels, bounds)
        seconds += time.process_time() - begun
        done = step + 1
        if done % settings.evaluate_every == 0 or done == settings.steps:
            curve[done] = mean_bound(model, digits.validation.images, settings.evaluation_samples)
            if curve[done] != curve[done]:
                raise FloatingPointError(f"the validation bound is not a number after {done} updates")
            if curve[done] >= max(curve.values()):
                best_step, best_state = done, copy.deepcopy(model.state_dict())
            measured = {"validation/bound": curve[done], **temperatures(model.estimators)}
            report(done, measured | {"train/bound": float(torch.stack(bounds[-settings.evaluate_every :]).mean())})
        else:
            report(done, {})
    if settings.keep_best:
        model.load_state_dict(best_state)
    last = torch.stack(bounds[-max(1, settings.steps // 10) :]).mean()
    return Outcome(best_step, curve[best_step], float(last), seconds / settings.steps, curve)


def update(model: Model, optimizer: torch.optim.Optimizer, pixels: Tensor, bounds: list[Tensor]) -> None:
    """One step of the model, and one of what its estimators learn."""
    loss, bound = model.loss(pixels)
    optimizer.zero_grad()
    loss.backward()
    if any(estimator.learns for estimator in model.estimators):
        model.adapt(pixels)
    optimizer.step()
    bounds.append(bound)


def mean_bound(model: Model, pixels: Tensor, samples: int) -> float:
    """Mean of the importance-weighted bound over digits `[n, 784]`, nats."""
    return float(importance_weighted_bound(model.log_weights, pixels, samples).double().mean())


def set_temperature(estimators: Sequence[Estimator], temperature: float) -> None:
    """Give the temperature to all that have one."""
    for estimator in estimators:
        if estimator.has_temperature:
            estimator.temperature = temperature


def temperatures(estimators: Sequence[Estimator]) -> dict[str, float]:
    """The temperature of the first that has one, by its tag."""
    for estimator in estimators:
        if estimator.has_temperature:
            return {"train/temperature": estimator.temperature}
    return {}


def _batches(images: Tensor, settings: Settings) -> Iterator[Tensor]:
    """Digits in a new order each time, `[batch, 784]`, without end."""
    # A generator of its own: estimators that draw more noise than others see the same digits.
    generator = torch.Generator().manual_seed(settings.seed)
    size = min(settings.batch, len(images))
    while True:
        for rows in torch.randperm(len(images), generator=generator).split(size):
            if len(rows) == size:
                yield binarise(images[rows], "dynamic", generator) if settings.redraw else images[rows]
