"""`python -m analysis`."""

from sae_sweep.modules import leave_working_folder

if __name__ == "__main__":
    leave_working_folder()

    import sys

    from analysis.cli import main
    from sae_sweep import process

    process.run(main, endless=sys.argv[1:2] == ["watch"])
