"""`python -m acmix_nas` is the command line, as `acmix-nas` is."""

from acmix_nas.cli import main

if __name__ == "__main__":
    main()
