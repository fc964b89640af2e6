"""What each hyperparameter changes."""
