#!/usr/bin/env bash
# Which critic and which estimator for gumbel-sac, by kind of action space; and the estimators side by side through a
# critic whose exact expectation is out of reach (an MLP of 390,625 joint actions); and the details of the algorithm, one
# change at a time. What benchmarks/combinations holds already is not run again. Arguments go to every command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compare() {
    python -m agents.compare --out benchmarks/combinations "$@"
}

# The estimators, on the same critic; and beside them the critic whose exact expectation is free.
compare --envs gumbel_rl/MaskedCoordination-v0 --timesteps 10000 --seeds 10 --agents gumbel-sac:critic=mlp \
    --estimators st-gumbel-softmax straight-through gumbel-softmax score-function rloo local-expectation "$@"
compare --envs gumbel_rl/MaskedCoordination-v0 --timesteps 10000 --seeds 10 --agents gumbel-sac:critic=multilinear \
    --estimators exact st-gumbel-softmax "$@"

# Critics with the estimators that fit them, by kind of action space: Discrete, MultiBinary, MultiDiscrete with masks. With
# one factor the critics that are linear in each are one and the same, and an MLP's expectation can be enumerated.
compare --envs CartPole-v1 --timesteps 10000 --seeds 5 --agents \
    gumbel-sac:critic=multilinear,estimator=exact \
    gumbel-sac:critic=multilinear,estimator=st-gumbel-softmax \
    gumbel-sac:critic=mlp,estimator=exact \
    gumbel-sac:critic=mlp,estimator=st-gumbel-softmax "$@"
for env in gumbel_rl/BinaryCoordination-v0 gumbel_rl/MaskedCoordination-v0; do
    compare --envs "$env" --timesteps 10000 --seeds 5 --agents \
        gumbel-sac:critic=multilinear,estimator=exact \
        gumbel-sac:critic=multilinear,estimator=st-gumbel-softmax \
        gumbel-sac:critic=additive,estimator=exact \
        gumbel-sac:critic=chain,estimator=exact \
        gumbel-sac:critic=mlp,estimator=local-expectation \
        gumbel-sac:critic=mlp,estimator=st-gumbel-softmax "$@"
done
compare --envs gumbel_rl/MaskedCoordination-v0 --timesteps 10000 --seeds 5 --agents \
    gumbel-sac:critic=interpolated,estimator=st-gumbel-softmax \
    gumbel-sac:critic=ordinal,estimator=st-gumbel-softmax "$@"

# One change at a time, from the configured settings: how the critics are put together, returns, LayerNorm, updates a
# step (twice as many), the actor's delay, the newest transition in every batch, entropy in the targets, and how much.
# (Each action's smallest value would have to be enumerated: with many factors there are too many.)
details() {
    local env=$1 updates=$2 clip=$3
    compare --envs "$env" --timesteps 10000 --seeds 5 --agents gumbel-sac \
        gumbel-sac:twins=mean gumbel-sac:q_clip="$clip" gumbel-sac:n_steps=3 gumbel-sac:layer_norm=true \
        gumbel-sac:gradient_steps="$updates" gumbel-sac:actor_delay=2 gumbel-sac:include_newest=true \
        gumbel-sac:entropy_in_target=false gumbel-sac:target_entropy_ratio=0.4 "${@:4}"
}
details gumbel_rl/MaskedCoordination-v0 32 0.5 "$@"
details CartPole-v1 8 5 "$@"
compare --envs CartPole-v1 --timesteps 10000 --seeds 5 --agents gumbel-sac:twins=action-min "$@"
