"""A wrong line is noticed: each change below, made in a copy, must make a test of the page's numbers or guards fail."""

import pytest

from tests.mutants import assert_noticed, parameters, run_tests
from tests.processes import checkout

pytestmark = pytest.mark.slow

# What is wrong: (file of gpucnn, old, new, the tests that must find it).
ERRORS = {
    "any host may ask": (
        "explore/server.py",
        'if len(headers.get(b"host", [])) != 1 or headers[b"host"][0] not in self._hosts:',
        'if len(headers.get(b"host", [])) != 1:',
        "test_security.py",
    ),
    "any origin may ask": (
        "explore/server.py",
        'if origin not in {b"http://" + host for host in self._hosts}:',
        'if origin == b"":',
        "test_security.py",
    ),
    "part of the token is enough": (
        "explore/server.py",
        "secrets.compare_digest(first[0], self._token)",
        "self._token.startswith(first[0])",
        "test_security.py",
    ),
    "bodies of any size are read": ("explore/server.py", "if size > MOST_BYTES:", "if size < 0:", "test_security.py"),
    "the filter is never turned round": (
        "explore/convolution.py",
        "np.ascontiguousarray(weights[:, ::-1, ::-1])",
        "np.ascontiguousarray(weights)",
        "test_convolution.py",
    ),
    "products without the filter": (
        "explore/convolution.py",
        "dtype=np.float32).reshape(-1, *weights.shape) * weights",
        "dtype=np.float32).reshape(-1, *weights.shape)",
        "test_convolution.py",
    ),
    "the gradient is another class's": (
        "explain.py",
        "dy[np.arange(len(images)), chosen] = 1",
        "dy[np.arange(len(images)), chosen - 1] = 1",
        "test_digits.py",
    ),
    "what blanking gains": (
        "explain.py",
        "outputs[-1, likeliest] - outputs[:-1, likeliest]",
        "outputs[:-1, likeliest] - outputs[-1, likeliest]",
        "test_digits.py",
    ),
    "the rule is not broken": (
        "explore/bits.py",
        "train(OneByOne(), LONG)",
        'train(get_backend("numpy"), LONG)',
        "test_bits.py",
    ),
    "another epoch's weights": ("explore/runs.py", 'f"{epoch:04}.safetensors"', '"0001.safetensors"', "test_runs.py"),
    "weights of the run before are shown": (
        "explore/runs.py",
        "self._models.pop((_snapshot(folder, epoch), 0), None)",
        "pass",
        "test_runs.py",
    ),
    "networks of any size are built": (
        "explore/shapes.py",
        "if count > PARAMETERS:",
        "if count < 0:",
        "test_shapes.py",
    ),
}
# As another here shows, in other lines of the same files.
AT_LENGTH = {
    "another epoch's weights",
    "products without the filter",
    "the filter is never turned round",
    "what blanking gains",
}


@pytest.mark.parametrize("name", parameters(ERRORS, AT_LENGTH))
def test_a_wrong_line_is_noticed(tmp_path, name):
    file, old, new, tests = ERRORS[name]
    assert_noticed(tmp_path, f"gpucnn/{file}", old, new, f"explore/{tests}")


@pytest.mark.parametrize("tests", ["test_security.py", "test_runs.py"])
def test_the_copy_itself_passes(tmp_path, tests):
    assert run_tests(checkout(tmp_path / "copy"), f"explore/{tests}").returncode == 0
