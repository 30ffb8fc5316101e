#!/usr/bin/env bash
# The published comparisons: all agents on four tasks, and some on three with factored actions. What their folders hold
# already is not run again, so a new agent adds its rows by being named here; remove the folders to repeat everything
# (some ten hours on two cores).
# Arguments go to every command: `make bench ARGS="--jobs 8"`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compare() {
    python -m agents.compare --out benchmarks/comparison "$@"
}

on_policy=(
    --agents gumbel-ac reinforce:baseline=value reinforce:baseline=none ppo a2c
    --estimators st-gumbel-softmax exact score-function rloo
)
compare --envs CartPole-v1 --timesteps 50000 --seeds 20 "${on_policy[@]}" "$@"
compare --envs Acrobot-v1 --timesteps 100000 --seeds 20 "${on_policy[@]}" "$@"
compare --envs MountainCar-v0 --timesteps 300000 --seeds 10 "${on_policy[@]}" "$@"
compare --envs LunarLander-v3 --timesteps 500000 --seeds 5 "${on_policy[@]}" "$@"

# Off-policy: as many steps as their settings were tuned for, on Acrobot-v1 as many as gumbel-sac.
compare --envs CartPole-v1 --agents dqn qrdqn --seeds 20 "$@"
compare --envs Acrobot-v1 --timesteps 50000 --agents dqn qrdqn --seeds 20 "$@"
compare --envs MountainCar-v0 --agents dqn qrdqn --seeds 10 "$@"
compare --envs LunarLander-v3 --agents dqn qrdqn --seeds 5 "$@"

# As many steps as configured.
compare --envs CartPole-v1 --agents gumbel-sac --seeds 20 "$@"
compare --envs Acrobot-v1 MountainCar-v0 --agents gumbel-sac --seeds 10 "$@"
compare --envs LunarLander-v3 --agents gumbel-sac --seeds 5 "$@"

# Factored actions with a known optimum, one task with masks and one with many factors: a comparison of their own, since
# agents are put together over all tasks of one.
compare_factored() {
    python -m agents.compare --out benchmarks/factored "$@"
}
compare_factored --envs gumbel_rl/MaskedCoordination-v0 --agents gumbel-sac maskable-ppo ppo --seeds 10 "$@"
compare_factored --envs gumbel_rl/LargeCoordination-v0 --agents gumbel-sac ppo --seeds 10 "$@"
compare_factored --envs HalfCheetah-v5 --timesteps 100000 --agents gumbel-sac ppo --seeds 3 "$@"

# HalfCheetah with its actions as they are.
python benchmarks/continuous_peer.py
