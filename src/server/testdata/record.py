#!/usr/bin/env python3
"""Records the replies of a real Redis 7.0 into the golden files beside this script.

    redis-server --port 17999 --cluster-enabled yes --save '' --proto-max-bulk-len 1048576
    redis-cli -p 17999 cluster addslotsrange 0 16383
    ./record.py 17999 *.golden

A golden file has command lines (`> SET k v`, quoted like inline commands), each followed by the reply
(`< +OK\\r\\n`). `@resp3` and `@resp2` choose the protocol, `@new` opens a new connection and deletes all
keys, `#` starts a comment.
"""
import re
import socket
import sys


def words(line):
    out = []
    for word in re.findall(r'"(?:\\.|[^"\\])*"|\S+', line):
        if word.startswith('"'):
            word = word[1:-1].encode().decode("unicode_escape")
        out.append(word.encode("latin-1"))
    return out


class Redis:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def ask(self, args):
        self.socket.sendall(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in args))
        return self.reply()

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind in b"$=" and int(rest) >= 0:
            return line + self.file.read(int(rest) + 2)
        if kind in b"*~>%":
            count = max(int(rest), 0) * (2 if kind == b"%" else 1)
            return line + b"".join(self.reply() for _ in range(count))
        return line


def escaped(reply):
    return "".join(
        {10: "\\n", 13: "\\r", 92: "\\\\"}.get(b, chr(b) if 32 <= b < 127 else "\\x%02x" % b) for b in reply
    )


def record(port, path):
    redis = None
    out = []
    for line in open(path).read().splitlines():
        if line.startswith("< "):
            continue
        out.append(line)
        if line == "@new":
            redis = Redis(port)
            redis.ask([b"FLUSHALL"])
        elif line in ("@resp2", "@resp3"):
            redis.ask([b"HELLO", line[-1].encode()])
        elif line.startswith("> "):
            out.append("< " + escaped(redis.ask(words(line[2:]))))
    open(path, "w").write("\n".join(out) + "\n")


for name in sys.argv[2:]:
    record(int(sys.argv[1]), name)
