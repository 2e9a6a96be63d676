"""A web server on this machine that stands for an object store, with faults on request."""

import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Store(ThreadingHTTPServer):
    """Files by path. ``faults`` are taken one for each GET: a status, 'drop' (in the middle), 'hang', or None.

    ``ranges``: whether ranges are known. ``requests``: what came, as (method, path, range). ``password``: what is asked for.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.files, self.tags, self.faults, self.requests = {}, {}, [], []
        self.ranges, self.password, self.stopped = True, None, threading.Event()
        self.url = f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, *_):
        """A client that went away is no news."""

    def gets(self, end=''):
        return [span for method, path, span in self.requests if method == 'GET' and path.endswith(end)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        store, path = self.server, self.path.partition('?')[0]
        span = self.headers.get('Range')
        store.requests.append((self.command, path, span))
        fault = store.faults.pop(0) if with_body and store.faults else None
        if store.password is not None and self.headers.get('Authorization') != store.password:
            fault = 401
        if fault == 'hang':
            store.stopped.wait(5)
            self.close_connection = True
            return
        data = store.files.get(path)
        if isinstance(fault, int) or data is None:
            self.send_response(fault or 404)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        first, last = (
            map(int, re.fullmatch(r'bytes=(\d+)-(\d+)', span).groups()) if span and store.ranges else (0, len(data))
        )
        body = data[first : last + 1]
        self.send_response(206 if span and store.ranges else 200)
        self.send_header('Content-Length', str(len(body)))
        self.send_header('ETag', store.tags.get(path, '"1"'))
        self.end_headers()
        if with_body:
            self.wfile.write(body[: len(body) // 2] if fault == 'drop' else body)
        if fault == 'drop':
            self.wfile.flush()
            self.close_connection = True
            time.sleep(0.01)


@contextmanager
def running():
    store = Store()
    thread = threading.Thread(target=store.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.stopped.set()
        store.shutdown()
        store.server_close()
        thread.join()
