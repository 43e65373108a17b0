"""`holdfast dev`: the manifests of a cluster, in force on a laptop."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer


def dev(
    file: Annotated[
        list[Path],
        typer.Option(
            "--file",
            "-f",
            help="A manifest, or a directory of them. May be given several times.",
        ),
    ],
    backend: Annotated[
        str | None,
        typer.Option(help="Your own server instead of the embedded one: redis://host:port/0"),
    ] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Leave nothing behind, neither data nor a folder.")
    ] = False,
    directory: Annotated[Path, typer.Option(help="Where the data are kept between runs.")] = Path(
        ".holdfast"
    ),
    exec_: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="Run a program with HOLDFAST_URL set, and end with it and with its exit code.",
        ),
    ] = None,
) -> None:
    """Carry out memory manifests here, on an embedded server, and follow every edit.

    Ctrl-C ends it. Files that cannot be used are listed with line, field and reason.
    """
    from holdfast_cli.local.serving import Options, serve

    options = Options(tuple(file), backend, ephemeral, directory, exec_)
    raise typer.Exit(asyncio.run(serve(options)))
