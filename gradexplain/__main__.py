"""`python -m gradexplain`."""


def main() -> None:
    """Runs the command line."""
    from gradexplain.cli.app import app

    app()


if __name__ == "__main__":
    main()
