"""`gpucnn explore`: a page on this machine where convolution can be touched. Needs `pip install starlette uvicorn`.

The server computes every number with gpucnn, in the same process; the page in static/ draws and listens, and has no
arithmetic of its own. A panel of the page has a module here with the same name:

    convolution   one filter on one small image, every product shown
    digits        what a trained network makes of a drawing
    runs          curves, filters, maps, confusion and mistakes of runs, finished or in progress
    bits          the same training on each backend, and what another order of summation does to it
    shapes        a network built layer by layer

`server` has the addresses and what protects them, `engine` the one thread that computes, `body` the checks of what a
request asks for, `training` the process that trains when the page asks for a network.
"""
