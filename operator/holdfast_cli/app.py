"""The command line's commands."""

from typing import Annotated

import typer

from holdfast import __version__
from holdfast_cli.dev import dev
from holdfast_cli.sidecar import sidecar

app = typer.Typer(
    name="holdfast",
    help="Conversation memory for LLM agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(dev)
app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(sidecar)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Conversation memory for LLM agents: policies, turns and exact token budgets."""
