"""`holdfast sidecar`: what `holdfast-sidecar` does, under the name of the command line."""

import typer


def sidecar(context: typer.Context) -> None:
    """Serve the memories of a binding over HTTP, to the containers of one pod; --help says more."""
    from holdfast_sidecar.__main__ import main

    main(context.args)
