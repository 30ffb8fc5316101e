"""Discrete latent variables on handwritten digits, trained with any gradient estimator."""
