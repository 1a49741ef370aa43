"""`python -m acmix_nas` is the command line."""

from acmix_nas.cli.main import main

if __name__ == "__main__":
    main()
