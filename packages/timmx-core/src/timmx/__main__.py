"""`python -m timmx`."""

from timmx.cli.main import main

if __name__ == "__main__":
    main()
