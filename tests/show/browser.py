"""Headless Chromium, by its protocol for debuggers over two pipes: messages are JSON, each ended by a null byte."""

import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
SECONDS = 90


class Connection:
    """Calls of methods, and waiting for events."""

    def __init__(self, reading, writing):
        self.reading, self.writing, self.buffer, self.count = reading, writing, b'', 0
        self.events = []

    def receive(self):
        end = time.monotonic() + SECONDS
        while b'\0' not in self.buffer:
            if not select.select([self.reading], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError('the browser does not answer')
            data = os.read(self.reading, 1 << 16)
            if not data:
                raise EOFError('the browser has ended')
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b'\0')
        return json.loads(message)

    def call(self, method, session=None, **params):
        self.count += 1
        message = dict(id=self.count, method=method, params=params) | ({'sessionId': session} if session else {})
        os.write(self.writing, json.dumps(message).encode() + b'\0')
        while (answer := self.receive()).get('id') != self.count:
            self.events.append(answer.get('method'))
        assert 'error' not in answer, answer
        return answer['result']

    def wait(self, event):
        while event not in self.events:
            self.events.append(self.receive().get('method'))


@contextmanager
def browser(folder):
    """A running browser with a profile of its own in ``folder``."""
    (their_input, ours), (our_input, theirs) = os.pipe(), os.pipe()
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe', f'--user-data-dir={folder}']
    script = f'exec "$0" "$@" 3<&{their_input} 4>&{theirs}'
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(['bash', '-c', script, BROWSER, *flags], pass_fds=(their_input, theirs), **quiet)
    for end in (their_input, theirs):
        os.close(end)
    try:
        yield Connection(our_input, ours)
    finally:
        process.kill()
        process.wait()
        for end in (our_input, ours):
            os.close(end)


def evaluated(path, folder, width, script):
    """What an expression is in the page of a file, in a window of this width."""
    with browser(folder) as connection:
        target = connection.call('Target.createTarget', url='about:blank')['targetId']
        session = connection.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        connection.call('Emulation.setDeviceMetricsOverride', session, **size)
        connection.call('Page.enable', session)
        connection.call('Page.navigate', session, url=path.as_uri())
        connection.wait('Page.loadEventFired')
        found = connection.call('Runtime.evaluate', session, expression=script, returnByValue=True)
        assert 'exceptionDetails' not in found, found['exceptionDetails']
        return found['result']['value']
