"""Adaptive temperatures: the law of their steps by hand, and where they settle on problems whose answer is known."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from scipy import integrate, optimize

from gumbel_rl import ActionFactors, FactoredCategorical, make_estimator, make_schedule, make_temperature
from gumbel_rl.adaptive import ADAPTIVE, Adaptive, AdaptiveBias, AdaptiveZeroShare
from gumbel_rl.diagnostics import diagnose


def relative_bias(temperature: float, p: float) -> float:
    """Of ST-GS for two choices with probabilities `p` and `1 - p`, whatever the values of the two.

    The slope of `y = sigmoid((l + x) / tau)`, with `x` logistic and `l = log(p / (1 - p))`, stands where the exact
    gradient has `p (1 - p)`: the bias is how far its mean is from that.
    """
    location = math.log(p / (1 - p))

    def slope(u: float) -> float:  # in units of the temperature around the place where y = 1/2
        x = temperature * u - location
        density = math.exp(-abs(x)) / (1 + math.exp(-abs(x))) ** 2
        return math.exp(-abs(u)) / (1 + math.exp(-abs(u))) ** 2 * density

    mean, _ = integrate.quad(slope, -60, 60, limit=200)
    return abs(mean / (p * (1 - p)) - 1)


def known_answer(target: float, p: float) -> float:
    """The temperature at which the bias is the target."""
    return float(optimize.brentq(lambda temperature: relative_bias(temperature, p) - target, 0.05, 5.0))


def test_the_oracle_at_temperature_one() -> None:
    # Two equal choices: y is uniform, so that the mean of y (1 - y) is 1/6 where 1/4 would be right.
    assert relative_bias(1.0, 0.5) == pytest.approx(1 / 3)
    assert relative_bias(0.01, 0.5) < 1e-3


@pytest.mark.parametrize(("start", "p"), [(0.2, 0.5), (3.0, 0.5), (1.0, 0.7)])
def test_it_settles_where_the_bias_is_the_target(start: float, p: float) -> None:
    # 100 measurements, each of 64 x 200 draws, which leaves the bias a standard error of about 0.01 and the
    # log-temperature, with a slope of about 1.5 and the gain of 0.2, one of 0.02 each and at most 0.01 in the mean of
    # the last 60. A miss of 0.06 is 6 of these: 2e-9.
    adaptive, temperature = AdaptiveBias(0.2, start), start
    dist = FactoredCategorical(torch.tensor([[p, 1 - p]]).log().repeat(200, 1), ActionFactors((2,)))
    torch.manual_seed(0)
    path = []
    for _ in range(100):
        estimator = make_estimator("st-gumbel-softmax", temperature=temperature)
        quality = diagnose(estimator, dist, lambda z: z[..., 0] - 2 * z[..., 1], repeats=64)
        temperature = adaptive.adapted(temperature, getattr(quality, adaptive.signal))
        path.append(math.log(temperature))
    assert sum(path[40:]) / 60 == pytest.approx(math.log(known_answer(0.2, p)), abs=0.06)
    assert max(path[40:]) - min(path[40:]) < 0.4


def test_it_settles_where_the_share_of_zeros_is_the_target() -> None:
    # The signal is given here: how the share of zeros falls for four choices, exp(-100 tau), about as measured.
    adaptive, temperature = AdaptiveZeroShare(0.1), 1.0
    for _ in range(200):
        temperature = adaptive.adapted(temperature, math.exp(-100 * temperature))
    assert temperature == pytest.approx(math.log(10) / 100, rel=1e-6)


BY_HAND: list[tuple[Adaptive, float, float, float]] = [
    # adaptive, temperature, measured, the factor of the temperature
    (AdaptiveBias(0.2), 1.0, 0.2, 1.0),
    (AdaptiveBias(0.2), 1.0, 0.3, math.exp(-0.1)),
    (AdaptiveBias(0.2), 1.0, 0.1, math.exp(0.1)),
    (AdaptiveBias(0.2), 1.0, 0.0, math.exp(0.2)),
    (AdaptiveBias(0.2), 1.0, 50.0, math.exp(-0.2)),
    (AdaptiveBias(0.2), 1.0, math.inf, math.exp(-0.2)),
    (AdaptiveBias(0.2), 1.0, math.nan, 1.0),
    (AdaptiveBias(0.2, gain=0.5), 0.5, 0.3, math.exp(-0.25)),
    (AdaptiveZeroShare(0.1), 0.1, 0.15, math.exp(0.1)),
    (AdaptiveZeroShare(0.1), 0.1, 0.05, math.exp(-0.1)),
    (AdaptiveZeroShare(0.1), 0.1, 0.0, math.exp(-0.2)),
    (AdaptiveZeroShare(0.1), 0.1, 1.0, math.exp(0.2)),
]


@pytest.mark.parametrize(("adaptive", "temperature", "measured", "factor"), BY_HAND, ids=str)
def test_steps_by_hand(adaptive: Adaptive, temperature: float, measured: float, factor: float) -> None:
    assert adaptive.adapted(temperature, measured) == pytest.approx(temperature * factor)


@pytest.mark.parametrize("kind", ADAPTIVE.values())
@pytest.mark.parametrize(("measured", "rises"), [(0.0, True), (1.0, False)])
def test_it_stops_at_its_limits(kind: type[Adaptive], measured: float, rises: bool) -> None:
    adaptive = kind(0.2, 0.6, ceiling=0.8, floor=0.3)
    temperature = adaptive.start
    for _ in range(10):
        temperature = adaptive.adapted(temperature, measured)
    assert temperature == (0.8 if rises == kind.rises else 0.3)
    assert adaptive.clamped(7.0) == 0.8
    assert adaptive.clamped(0.1) == 0.3
    assert adaptive.adapted(7.0, math.nan) == 0.8


# Spelling.

SPELLINGS: list[tuple[Any, Adaptive]] = [
    ("adaptive-bias:0.2", AdaptiveBias(0.2, 1.0, 5.0, 0.2, floor=0.1)),
    ("adaptive-bias:0.2:0.5", AdaptiveBias(0.2, 0.5)),
    ("adaptive-bias:0.2:0.5:2:0.1", AdaptiveBias(0.2, 0.5, 2.0, 0.1)),
    ("adaptive-zero-share:0.05", AdaptiveZeroShare(0.05, 1.0, 5.0, 0.2, floor=0.01)),
    ("adaptive-zero-share:0.05:gain=0.4:floor=0.02:ceiling=3", AdaptiveZeroShare(0.05, 1.0, 3.0, 0.4, floor=0.02)),
    ({"kind": "adaptive-bias", "target": "0.1", "start": 2, "ceiling": 2}, AdaptiveBias(0.1, 2.0, 2.0)),
    (AdaptiveBias(0.3), AdaptiveBias(0.3)),
]


@pytest.mark.parametrize(("spec", "adaptive"), SPELLINGS, ids=[str(spec) for spec, _ in SPELLINGS])
def test_spelling(spec: Any, adaptive: Adaptive) -> None:
    made = make_temperature(spec)
    assert made == adaptive
    assert pickle.loads(pickle.dumps(made)) == adaptive
    assert (made.lowest, made.over(100)(50)) == (adaptive.floor, adaptive.start)


def test_every_kind_has_a_spelling() -> None:
    assert {type(adaptive) for _, adaptive in SPELLINGS} == set(ADAPTIVE.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("adaptive-bias", "lacks target"),
        ("adaptiv-bias:0.2", "did you mean 'adaptive-bias'"),
        ("adaptive-zero:0.2", "did you mean 'adaptive-zero-share'"),
        ("adaptive-bias:0", "target must be above 0 and below 1, got 0"),
        ("adaptive-bias:-0.1", "target must be above 0 and below 1, got -0.1"),
        ("adaptive-zero-share:1", "target must be above 0 and below 1, got 1"),
        ("adaptive-bias:nan", "finite"),
        ("adaptive-bias:0.2:0", "in this order, got 0.1, 0, 5"),
        ("adaptive-bias:0.2:6", "in this order, got 0.1, 6, 5"),
        ("adaptive-bias:0.2:floor=0", "in this order, got 0, 1, 5"),
        ("adaptive-bias:0.2:floor=-1", "in this order, got -1, 1, 5"),
        ("adaptive-bias:0.2:ceiling=inf", "finite"),
        ("adaptive-bias:0.2:gain=0", "gain must be above 0 and at most 1, got 0"),
        ("adaptive-bias:0.2:gain=2", "gain must be above 0 and at most 1, got 2"),
        ("adaptive-bias:0.2:end=2", "no option 'end', only .*target"),
        ("adaptive-bias:a", "'a'"),
    ],
    ids=str,
)
def test_what_is_refused_and_why(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_temperature(spec)
    assert repr(spec) in str(error.value)
    assert "adaptive-bias|adaptive-zero-share:TARGET" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["adaptive-bias:0.2", AdaptiveZeroShare(0.1)], ids=str)
def test_nothing_but_a_temperature_can_be_adaptive(spec: Any) -> None:
    with pytest.raises(ValueError, match="nothing but a temperature can"):
        make_schedule(spec)
