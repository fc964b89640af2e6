"""Effects of the hyperparameters."""
