"""Hyperparameter sweeps of sparse autoencoders."""
