"""RELAX as a policy gradient, by its published CartPole protocol, next to the score function with a value baseline.

python -m examples.relax_cartpole
"""
