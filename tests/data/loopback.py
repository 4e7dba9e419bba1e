"""A web server on the loopback interface that behaves as a test asks: with or without Range, cutting, hanging,
refusing.
"""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves `files` (path: bytes) at `url`. `requests` are the (path, Range) that came.

    `ranges`: whether Range is obeyed. `cut`: after how many bytes of each answer the connection is closed, one number
    an answer, None for a whole one; used up, answers are whole. `status`: answer everything with this. `hang`: an Event
    that an answer waits for after its headers. `lie`: a Content-Range that is sent instead of the right one.
    """

    def __init__(self, files: dict[str, bytes]):
        self.files, self.requests = files, []
        self.ranges, self.cut, self.status, self.hang, self.lie = True, [], None, None, None

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        if self.status or handler.path not in self.files:
            handler.send_error(self.status or 404)
            return
        content, start = self.files[handler.path], 0
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.send_error(416)
                return
        handler.send_response(206 if asked and self.ranges else 200)
        if asked and self.ranges:
            right = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", self.lie or right)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.flush()
        if self.hang:
            self.hang.wait(30)
        end = self.cut.pop(0) if self.cut else None
        handler.wfile.write(content[start:] if end is None else content[start : start + end])


@contextlib.contextmanager
def serving(files: dict[str, bytes]):
    """A Server in a thread, with its `url`."""
    server = Server(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.answer(self)

        def log_message(self, *about):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{web.server_port}/"
    try:
        yield server
    finally:
        if server.hang:
            server.hang.set()
        web.shutdown()
        web.server_close()
        thread.join()
