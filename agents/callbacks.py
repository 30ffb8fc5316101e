"""What the harness does while an algorithm learns: periodic evaluation, checkpoints, stopping on a signal."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.clock import Clock
from agents.config import RunConfig
from agents.errors import UserError
from agents.run_directory import RunDirectory
from agents.saving import save
from agents.scoring import play
from agents.seeds import Purpose, episode_seed
from agents.signals import Signals

# About so many rows are logged beside those of evaluations.
ROWS = 200

# The fewest episodes whose mean tells that the threshold is reached.
EPISODES_THAT_COUNT = 20


@dataclass
class Milestones:
    """What a run has come to so far; every checkpoint holds them.

    Attributes:
        next_evaluation: Step from which the next periodic evaluation is due.
        next_checkpoint: The same for a checkpoint.
        train_seconds: Seconds of training.
        best_mean: Highest mean return of a periodic evaluation.
        steps_to_threshold: Step of the first one that reached the threshold.
        seconds_to_threshold: Seconds of training until then.
    """

    next_evaluation: int
    next_checkpoint: int
    train_seconds: float = 0.0
    best_mean: float | None = None
    steps_to_threshold: int | None = None
    seconds_to_threshold: float | None = None

    @classmethod
    def read(cls, checkpoint: Path) -> Milestones:
        """Those of a checkpoint.

        Raises:
            UserError: They are missing or damaged.
        """
        try:
            return cls(**json.loads((checkpoint / "milestones.json").read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise UserError(f"the checkpoint {checkpoint} is damaged: its milestones.json cannot be read") from error


@dataclass(frozen=True)
class Session:
    """A run under way.

    `on_evaluation` is told the step and the mean return of every periodic evaluation; what it raises ends the run.
    """

    config: RunConfig
    run: RunDirectory
    milestones: Milestones
    clock: Clock
    signals: Signals
    on_evaluation: Callable[[int, float], None] | None = None

    @contextmanager
    def paused(self, model: BaseAlgorithm) -> Iterator[None]:
        """Time in here is no training time, neither for the clock nor for what the algorithm logs under `time/`."""
        began = time.time_ns()
        with self.clock.paused():
            yield
        model.start_time += time.time_ns() - began

    def checkpoint(self, model: BaseAlgorithm) -> Path:
        """Save all that going on needs; returns where."""
        self.milestones.train_seconds = self.clock.seconds

        def write(directory: Path) -> None:
            save(model, directory, replay_buffer=True)
            (directory / "milestones.json").write_text(json.dumps(asdict(self.milestones)), encoding="utf-8")

        return self.run.write_checkpoint(model.num_timesteps, write)


class BetweenUpdates(BaseCallback):
    """Base class of what is done between updates, when everything recorded is at hand and nothing is half done."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.between_updates()

    @abstractmethod
    def between_updates(self) -> None:
        """Do it, if it is due."""


class StopOnSignal(BaseCallback):
    """Ends training after the step in which a signal came."""

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self.signals = signals

    def _on_step(self) -> bool:
        return not self.signals.stop


class Checkpoints(BetweenUpdates):
    """Saves a checkpoint now and then."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def between_updates(self) -> None:
        step, every = self.model.num_timesteps, self.session.config.checkpoint_every
        if every and step >= self.session.milestones.next_checkpoint:
            with self.session.paused(self.model):
                self.session.milestones.next_checkpoint = (step // every + 1) * every
                self.session.checkpoint(self.model)


class PeriodicEvaluation(BetweenUpdates):
    """Evaluates the deterministic policy now and then, and at the end, and keeps the best one as `best_model.zip`.

    It records `eval/mean_reward` and `eval/mean_ep_length`, and notes when the threshold is first reached.
    """

    def __init__(self, session: Session, env: VecEnv) -> None:
        super().__init__()
        self.session = session
        self.env = env

    def between_updates(self) -> None:
        if self.session.config.eval_every and self.model.num_timesteps >= self.session.milestones.next_evaluation:
            with self.session.paused(self.model):
                self._evaluate()

    def _on_training_end(self) -> None:
        if self.session.config.eval_every and not self.session.signals.stop:
            with self.session.paused(self.model):
                self._evaluate()

    def _evaluate(self) -> None:
        config, milestones = self.session.config, self.session.milestones
        step, every, episodes = self.model.num_timesteps, config.eval_every, config.periodic_episodes
        # Other episodes each time, whatever came before: a resumed run is evaluated as one that never stopped.
        seed = episode_seed(Purpose.PERIODIC, config.seed, step // every)
        with self.session.signals.at_once():
            score = play(self.model, self.env, episodes, deterministic=True, seed=seed)
        milestones.next_evaluation = (step // every + 1) * every
        self.logger.record("eval/mean_reward", score.mean)
        self.logger.record("eval/train_seconds", self.session.clock.seconds, exclude="tensorboard")
        self.logger.record("eval/mean_ep_length", float(score.lengths.mean()))
        if milestones.best_mean is None or score.mean > milestones.best_mean:
            milestones.best_mean = score.mean
            save(self.model, self.session.run.path, prefix="best_")
        threshold = config.threshold if episodes >= EPISODES_THAT_COUNT else None
        if threshold is not None and milestones.steps_to_threshold is None and score.mean >= threshold:
            milestones.steps_to_threshold = step
            milestones.seconds_to_threshold = self.session.clock.seconds
        if self.session.on_evaluation is not None:
            self.session.on_evaluation(step, score.mean)


class LogRows(BetweenUpdates):
    """Writes what was recorded as a row of the log: after each evaluation, and else about `ROWS` times a run.

    Stable-Baselines3 would do it every so many iterations or episodes, with what the update before the last recorded.
    """

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.every = timesteps / ROWS
        self.next = 0.0

    def between_updates(self) -> None:
        recorded = self.logger.name_to_value
        if recorded and (self.model.num_timesteps >= self.next or "eval/mean_reward" in recorded):
            self._write()

    def _on_training_end(self) -> None:
        self._write()

    def _write(self) -> None:
        self.next = self.model.num_timesteps + self.every
        self.model.dump_logs()
