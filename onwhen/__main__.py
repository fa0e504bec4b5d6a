"""`python -m onwhen` is `onwhen`."""

from onwhen.cli import main

if __name__ == "__main__":
    main()
