"""Training: from a configuration, or an interrupted run, to a finished run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import VecEnv

from agents.callbacks import Checkpoints, LogRows, Milestones, PeriodicEvaluation, Session, StopOnSignal
from agents.clock import Clock
from agents.config import RunConfig
from agents.device import prepare_torch
from agents.environments import (
    find_spec,
    make_evaluation_env,
    make_training_env,
    policy_for,
    share_statistics,
)
from agents.errors import Interrupted, UserError
from agents.logs import make_logger
from agents.machine import load_average, machine
from agents.progress import DisplayKind, make_display
from agents.result import Result, versions
from agents.run_directory import RunDirectory, check_free, create
from agents.saving import load, save, statistics_in
from agents.scoring import environments_for, play
from agents.seeds import Purpose, episode_seed
from agents.signals import Signals

# Iterations or episodes until the algorithm would log by itself: the harness does it.
NEVER = 10**12


def train(
    config: RunConfig,
    path: Path | None = None,
    *,
    display: DisplayKind = "none",
    on_evaluation: Callable[[int, float], None] | None = None,
) -> RunDirectory:
    """Train an agent.

    Args:
        config: The run.
        path: Its directory; `runs/<env id>/<agent>/<timestamp>-seed<seed>` if omitted.
        display: How to show progress on the terminal.
        on_evaluation: Called with the step and the mean return after every periodic evaluation; an exception it raises
            ends the run and comes out of here.

    Returns:
        The finished run's directory.

    Raises:
        UserError: The configuration cannot be run. No directory was made.
        Interrupted: A signal came; the run can be resumed.
    """
    if path is not None:
        check_free(RunDirectory(path))
    spec = find_spec(config.env)
    env = make_training_env(config, config.seed)
    config = prepare_torch(config, env)
    if config.threshold is None:
        config = replace(config, threshold=spec.reward_threshold)
    model = config.hyperparameters.build(
        policy_for(env.observation_space), env, timesteps=config.timesteps, seed=config.seed, device=config.device
    )
    # Building has seeded them with the run's own seed.
    env.seed(episode_seed(Purpose.TRAINING, config.seed))
    run = create(config, path)
    milestones = Milestones(next_evaluation=config.eval_every, next_checkpoint=config.checkpoint_every)
    return _finish(Session(config, run, milestones, Clock(), Signals(), on_evaluation), model, env, display)


def resume(
    run: RunDirectory, *, device: str | None = None, threads: int | None = None, display: DisplayKind = "none"
) -> RunDirectory:
    """Go on with an unfinished run from its last checkpoint.

    Environments begin new episodes, with new random numbers; everything else goes on where it was.

    Args:
        run: The run.
        device: Another torch device than before.
        threads: Another number of threads.
        display: As in `train`.

    Raises:
        UserError: The run is finished, has no checkpoint, or cannot be read.
        Interrupted: A signal came; the run can be resumed.
    """
    config = run.read_config()
    if run.finished:
        raise UserError(f"{run.path} is finished: there is nothing to resume")
    config = replace(config, device=device or config.device, threads=threads or config.threads)
    checkpoint = run.last_checkpoint()
    milestones = Milestones.read(checkpoint)
    env = make_training_env(config, config.seed, statistics_in(checkpoint, config))
    config = prepare_torch(config, env)
    model = load(config, checkpoint, env, config.device)
    # Not the episodes and actions of the beginning once more.
    model.set_random_seed(config.seed + model.num_timesteps)
    env.seed(episode_seed(Purpose.TRAINING, config.seed, model.num_timesteps))
    session = Session(config, run, milestones, Clock(milestones.train_seconds), Signals())
    return _finish(session, model, env, display)


def _finish(session: Session, model: BaseAlgorithm, env: VecEnv, kind: DisplayKind) -> RunDirectory:
    """Learn what remains to be learnt, evaluate, and write the result."""
    run, total = session.run, session.config.timesteps
    with session.signals.caught():
        try:
            if model.num_timesteps < total:
                _learn(session, model, env, kind)
            save(model, run.path)
            run.write_result(_evaluate(session, model, env))
        except Interrupted:
            raise Interrupted(f"interrupted after {model.num_timesteps:,} of {total:,} steps", run.path) from None
        finally:
            env.close()
    return run


def _learn(session: Session, model: BaseAlgorithm, env: VecEnv, kind: DisplayKind) -> None:
    config, start = session.config, model.num_timesteps
    n_envs = environments_for(config.periodic_episodes, config)
    evaluation_env = make_evaluation_env(config, n_envs, seed=config.seed)
    share_statistics(env, evaluation_env)
    display = make_display(session, kind)
    callbacks = CallbackList(
        [
            display,
            StopOnSignal(session.signals),
            PeriodicEvaluation(session, evaluation_env),
            LogRows(config.timesteps),
            Checkpoints(session),
        ]
    )
    logger = make_logger(session.run, config, start)
    model.set_logger(logger)
    try:
        try:
            with display.running(), session.clock.running():
                model.learn(
                    config.timesteps - start,
                    callbacks,
                    log_interval=NEVER,
                    reset_num_timesteps=start == 0,
                )
        except Interrupted:
            if not session.signals.stop:
                raise  # by the hook
            # In an evaluation, which changes nothing: the model is as good as after a step.
        session.checkpoint(model)
    finally:
        logger.close()
        evaluation_env.close()
    if session.signals.stop:
        raise Interrupted


def _evaluate(session: Session, model: BaseAlgorithm, env: VecEnv) -> Result:
    """The final evaluation, on episodes that were played neither in training nor in periodic evaluations."""
    config, milestones = session.config, session.milestones
    episodes, seed = config.eval_episodes, episode_seed(Purpose.FINAL, config.seed)
    evaluation_env = make_evaluation_env(config, environments_for(episodes, config), seed=seed)
    share_statistics(env, evaluation_env)
    with session.signals.at_once():
        greedy = play(model, evaluation_env, episodes, deterministic=True, seed=seed)
        stochastic = play(model, evaluation_env, episodes, deterministic=False, seed=seed)
    evaluation_env.close()
    return Result(
        agent=config.agent,
        env=config.env,
        estimator=config.estimator,
        seed=config.seed,
        timesteps=model.num_timesteps,
        train_seconds=session.clock.seconds,
        eval_episodes=episodes,
        eval_return_mean=greedy.mean,
        eval_return_std=greedy.std,
        eval_return_stochastic_mean=stochastic.mean,
        eval_return_stochastic_std=stochastic.std,
        eval_length_mean=float(greedy.lengths.mean()),
        best_periodic_mean=milestones.best_mean,
        threshold=config.threshold,
        steps_to_threshold=milestones.steps_to_threshold,
        seconds_to_threshold=milestones.seconds_to_threshold,
        device=str(model.device),
        threads=torch.get_num_threads(),
        versions=versions(),
        machine=machine(),
        load=load_average(),
    )
