"""`python -m dp_diffusers`: the command line.

Guarantees the same behaviour as the installed `dp-diffusers`. May import the command line alone.
There is no source beyond it.
"""

from dp_diffusers.cli.main import run

if __name__ == "__main__":
    run()
