"""The `gpucnn` command, also as `python -m gpucnn`."""

from gpucnn import interrupts


def main() -> None:
    """Entry point of the console script and of `python -m gpucnn`: Ctrl-C ends it well from its first moment on."""
    interrupts.leave_at_once()
    from gpucnn.cli import app
    from gpucnn.cli.output import leave, ready

    ready()
    leave(lambda: app(prog_name="gpucnn"))


if __name__ == "__main__":
    main()
