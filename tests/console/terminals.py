"""A terminal of a given width, and what a person sees on it."""

import fcntl
import os
import pty
import struct
import termios
import threading


class Terminal:
    """``stream`` is its side for programs, ``path`` its name; ``text`` is all that came, ``rows()`` what is left to be seen.

    A plain model of a terminal: carriage return, line feed and wrapping at the right edge, and no escape sequences.
    """

    def __init__(self, columns):
        self.columns, self.data = columns, b''
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
        self.path = os.ttyname(slave)
        self.stream = os.fdopen(slave, 'w', encoding='utf-8')
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            while data := os.read(self.master, 65536):
                self.data += data
        except OSError:  # the last program has closed its side
            pass

    def close(self):
        self.stream.close()
        self.reader.join(10)
        assert not self.reader.is_alive(), 'a program still holds the terminal'
        os.close(self.master)

    @property
    def text(self):
        return self.data.decode()

    def rows(self, text=None):
        rows, column = [''], 0
        for character in self.text if text is None else text:
            if character == '\r':
                column = 0
            elif character == '\n':
                rows.append('')
            else:
                assert character.isprintable(), repr(character)
                if column == self.columns:
                    rows.append('')
                    column = 0
                row = rows[-1].ljust(column)
                rows[-1] = row[:column] + character + row[column + 1 :]
                column += 1
        return [row.rstrip() for row in rows]
