"""Who is let in: token, host, origin, sizes, methods; and that nothing in a request reaches the file system."""

import http.client
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gpucnn.explore import server as server_module
from gpucnn.explore.body import MOST_BYTES
from tests.explore.conftest import PORT, TOKEN

STATIC = Path(server_module.__file__).with_name("static")


def test_the_page_and_its_files_come_with_strict_headers(page):
    for name in ("", *(file.name for file in STATIC.iterdir())):
        response = page.client.get(f"/{TOKEN}/{name}")
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert response.headers["referrer-policy"] == "no-referrer"  # the token stays here
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"[::1]:{PORT}", ""]
)
def test_another_host_is_refused(page, host):
    """A page elsewhere whose name resolves to 127.0.0.1 cannot ask."""
    assert page.client.get(f"/{TOKEN}/", headers={"Host": host}).status_code == 421


def test_localhost_is_the_same_host(page):
    assert page.client.get(f"/{TOKEN}/", headers={"Host": f"localhost:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": f"https://127.0.0.1:{PORT}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_another_origin_is_refused(page, headers):
    assert page.client.post(f"/{TOKEN}/api/status", headers=headers).status_code == 403


def test_the_pages_own_origin_is_taken(page):
    headers = {"Origin": f"http://127.0.0.1:{PORT}", "Sec-Fetch-Site": "same-origin"}
    assert page.client.post(f"/{TOKEN}/api/status", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "", "/api/status", "/wrong/", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"//{TOKEN}/", "/%00/", "/é/"]
)
def test_without_the_token_there_is_nothing(page, path):
    assert page.client.get(path).status_code == 404
    assert page.client.post(path).status_code == 404


def test_the_token_is_compared_in_constant_time(page, monkeypatch):
    compared = []
    original = server_module.secrets.compare_digest
    monkeypatch.setattr(server_module.secrets, "compare_digest", lambda a, b: compared.append((a, b)) or original(a, b))
    page.client.get("/guess/")
    assert compared == [(b"guess", TOKEN.encode())]


@pytest.mark.parametrize(
    "path",
    ["../server.py", "..%2fserver.py", "%2e%2e/server.py", "/etc/passwd", "%2fetc%2fpasswd", "style.css/..", "", "a/b"],
)
def test_no_path_leads_out(page, path):
    response = page.client.get(f"/{TOKEN}/{path}")
    assert response.status_code in (200, 404)
    assert b"import" not in response.content[:200] and b"root:" not in response.content


def test_files_are_read_once(page, monkeypatch):
    """Whatever is asked, nothing is opened: the page's files are in memory since the start."""
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} was read"))
    assert page.client.get(f"/{TOKEN}/main.js").status_code == 200
    assert page.client.get(f"/{TOKEN}/missing.js").status_code == 404


def test_bodies_are_limited(page):
    at_most = page.client.post(f"/{TOKEN}/api/status", content=b" " * MOST_BYTES)
    assert at_most.status_code == 400  # taken, and no JSON
    assert page.client.post(f"/{TOKEN}/api/status", content=b" " * (MOST_BYTES + 1)).status_code == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_do_nothing(page, method):
    assert page.client.request(method, f"/{TOKEN}/api/train").status_code in (404, 405)
    assert page.explorer.runs.folders and page.explorer.process.folder is None


def test_reading_starts_no_training(page):
    """An <img> or a link could only GET."""
    assert page.client.get(f"/{TOKEN}/api/train").status_code in (404, 405)
    assert page.explorer.process.folder is None


def test_it_listens_on_the_loopback_address_alone(listening):
    port = urlsplit(listening.address).port
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.2", port), timeout=5),
    ):  # loopback too, but another
        pass


def test_each_start_has_a_token_of_its_own(listening):
    token = urlsplit(listening.address).path.strip("/")
    assert re.fullmatch(r"[\w-]{32}", token)  # 24 random bytes
    connection = http.client.HTTPConnection(urlsplit(listening.address).netloc, timeout=30)
    connection.request("GET", f"/{token[:-1]}!/")
    assert connection.getresponse().status == 404


def test_a_port_in_use_is_told_in_a_sentence(listening, tmp_path):
    from gpucnn.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="cannot listen on port"):
        server_module.Server([], lambda: tmp_path, port=urlsplit(listening.address).port)


@pytest.mark.parametrize("file", sorted(STATIC.iterdir()), ids=lambda file: file.name)
def test_the_page_names_nothing_outside_and_writes_no_markup(file):
    text = file.read_text(encoding="utf-8")
    addresses = set(re.findall(r"[a-z]+://[^\s\"'`]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, not a place
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert danger not in text
