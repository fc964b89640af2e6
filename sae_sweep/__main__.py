"""`python -m sae_sweep`."""

from sae_sweep.modules import leave_working_folder

if __name__ == "__main__":
    leave_working_folder()

    from sae_sweep.cli.start import start

    start()
