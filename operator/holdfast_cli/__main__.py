"""The console script; its packages are an extra, and their absence is one sentence."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from holdfast_cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("holdfast: the command line is an extra: pip install 'holdfast[cli]'")
    app()


if __name__ == "__main__":
    main()
