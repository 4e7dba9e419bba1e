"""`gpucnn show`: pictures of what networks are made of, see and get wrong."""

import typer

from gpucnn.cli.output import command
from gpucnn.cli.show.network import filters, maps, scores
from gpucnn.cli.show.pattern import match, pixel_use
from gpucnn.cli.show.reasons import gradcam, occlusion, saliency
from gpucnn.cli.show.results import confusion, curves, doubts, mistakes

app = typer.Typer(
    name="show",
    help="Draw pictures: filters, feature maps, where a pattern matches, training, mistakes.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)

for _function in (
    filters,
    maps,
    match,
    pixel_use,
    curves,
    confusion,
    mistakes,
    saliency,
    occlusion,
    gradcam,
    doubts,
    scores,
):
    # An image typed as numbers may begin with a minus sign; it is no option then.
    _settings = {"ignore_unknown_options": True} if _function is match else {}
    app.command(_function.__name__.replace("_", "-"), context_settings=_settings)(command(_function))
