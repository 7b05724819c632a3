"""`python -m gradexplain`."""


def main() -> None:
    """Runs the command line, on a console of any encoding."""
    from gradexplain.cli.app import app
    from gradexplain.cli.output import write_to_any_console

    write_to_any_console()
    app()


if __name__ == "__main__":
    main()
