"""`python -m metas_peft` is the command line."""

from metas_peft.cli import main

if __name__ == "__main__":
    main()
