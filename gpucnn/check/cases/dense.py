"""Dense layers."""

from collections.abc import Iterator

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results

_GRADIENTS = "dx", "dw", "db", "dx with relu", "dw with relu", "db with relu", "dw again"


def cases(numbers: Numbers) -> Iterator[Case]:
    for n, inputs, outputs, simulated in [
        (1, 1, 1, RANDOM),
        (17, 37, 10, NEVER),
        (33, 16, 25, NEVER),
        (100, 5, 3, ORDER),
    ]:

        def run(b: Backend, n=n, inputs=inputs, outputs=outputs) -> Results:
            x, dy = b.pack(numbers(n, inputs)), b.pack(numbers(n, outputs, seed=1))
            w, bias = b.array(numbers(outputs, inputs, seed=2)), b.array(numbers(outputs, seed=3))
            dw, db = b.zeros(w.shape), b.zeros(bias.shape)
            b.dense_weight_gradient(dy, x, dw)
            b.bias_gradient(dy, db)
            y, dx = b.dense(x, w, bias), b.dense_input_gradient(dy, w)
            return {"y": y.numpy(), "dx": dx.numpy(), "dw": b.host(dw), "db": b.host(db)} | together(b, x, dy, w, bias)

        def together(b: Backend, x: Batch, dy: Batch, w, bias) -> Results:
            """All gradients in one operation, through ReLU and without."""
            dw, db = b.zeros(w.shape), b.zeros(bias.shape)
            through = b.dense_gradients(dy, b.dense(x, w, bias, relu=True), x, w, dw, db, True)
            alone = b.zeros(w.shape)
            assert b.dense_gradients(dy, None, x, w, alone, None, False) is None and through is not None
            results = {"dw with relu": b.host(dw), "db with relu": b.host(db), "dw again": b.host(alone)}
            return {"dx with relu": through.numpy(), **results}

        about, small = f"{n} images, {inputs} to {outputs}", numbers.kind in simulated
        yield Case("dense", about, run, _GRADIENTS, numbers.kind, small)
