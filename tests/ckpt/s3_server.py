"""Runs a program beside an S3 server that fails as told: s3_server.py PROGRAM ARGUMENT…

moto's server (the S3 protocol, objects in memory) on a free port of the loopback interface, and before it a proxy that the program
steers: it finds the proxy's address in CONVOY_TEST_S3, the server's own in CONVOY_TEST_S3_DIRECT, and a bucket "convoy" there.

  GET /__rule?id=a&match=REGEX&action=ACTION&arg=N&times=1&skip=0   the requests whose "METHOD TARGET" matches fail so:
      status  answers with HTTP status N; code=… is the error's name        cut_request   closes after N bytes of the body have come
      hang    answers nothing for N ms, then closes                         cut_response  closes after N bytes of the answer's body
      delay   forwards it after N ms                                        drop          forwards it, and closes without an answer
      ignore  forwards it without its If-None-Match
      (" if-none-match" stands behind the target of a conditional request)
  GET /__fired?id=a     how often it did             GET /__seen?match=REGEX   how many requests came
  GET /__clear          forgets rules and requests
"""
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

from moto.server import ThreadedMotoServer

HEAD_MAX = 1 << 16
ERROR = "<?xml version=\"1.0\"?><Error><Code>{}</Code><Message>the proxy says no</Message></Error>"


class Rule:
    def __init__(self, fields):
        self.id, self.match, self.action = fields["id"], re.compile(fields["match"]), fields["action"]
        self.arg, self.code = int(fields.get("arg", 0)), fields.get("code", "InternalError")
        self.times, self.skip, self.fired = int(fields.get("times", 1)), int(fields.get("skip", 0)), 0


class Proxy:
    def __init__(self, server):
        self.server = server
        self.rules, self.seen, self.lock = [], [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        upstream = http.client.HTTPConnection(self.server)
        try:
            with client, client.makefile("rb", buffering=1 << 16) as stream:
                while self.one(client, stream, upstream):
                    pass
        except OSError:
            pass
        finally:
            upstream.close()

    # Serves a request; false if the connection is to be closed.
    def one(self, client, stream, upstream):
        line = stream.readline(HEAD_MAX).decode("latin1").split()
        if len(line) < 2:
            return False
        method, target = line[0], line[1]
        headers = {}
        while (field := stream.readline(HEAD_MAX).decode("latin1").strip()):
            name, _, value = field.partition(":")
            headers[name.strip()] = value.strip()
        lower = {k.lower(): v for k, v in headers.items()}
        if target.startswith("/__"):
            answer = self.control(target).encode()
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
            return True
        rule = self.pick(f"{method} {target}" + (" if-none-match" if "if-none-match" in lower else ""))
        if lower.get("expect", "").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if rule and rule.action == "cut_request":
            stream.read(min(rule.arg, int(lower.get("content-length", 0))))
            return False
        body = self.body(stream, lower)
        if rule and rule.action == "hang":
            time.sleep(rule.arg / 1000)
            return False
        if rule and rule.action == "status":
            text = ERROR.format(rule.code).encode()
            client.sendall(b"HTTP/1.1 %d no\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % (rule.arg, len(text))
                           + (b"" if method == "HEAD" else text))
            return True
        if rule and rule.action == "delay":
            time.sleep(rule.arg / 1000)
        skipped = {"transfer-encoding", "expect"} | ({"if-none-match"} if rule and rule.action == "ignore" else set())
        upstream.request(method, target, body, {k: v for k, v in headers.items() if k.lower() not in skipped})
        answer = upstream.getresponse()
        content = answer.read()
        if rule and rule.action == "drop":
            return False
        length = answer.getheader("Content-Length", str(len(content))) if method == "HEAD" else str(len(content))
        head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n"
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                head += f"{name}: {value}\r\n"
        cut = rule.arg if rule and rule.action == "cut_response" else None
        client.sendall((head + f"Content-Length: {length}\r\n\r\n").encode("latin1") + content[:cut])
        return cut is None

    def body(self, stream, headers):
        if "chunked" not in headers.get("transfer-encoding", ""):
            return stream.read(int(headers.get("content-length", 0)))
        content = b""
        while (size := int(stream.readline(HEAD_MAX).split(b";")[0], 16)):
            content += stream.read(size)
            stream.readline()
        while stream.readline(HEAD_MAX).strip():
            pass
        return content

    def pick(self, request):
        with self.lock:
            self.seen.append(request)
            for rule in self.rules:
                if rule.times != 0 and rule.match.search(request):
                    if rule.skip > 0:
                        rule.skip -= 1
                        continue
                    rule.times -= 1
                    rule.fired += 1
                    return rule
        return None

    def control(self, target):
        path, _, query = target.partition("?")
        fields = dict(urllib.parse.parse_qsl(query))
        with self.lock:
            if path == "/__rule":
                self.rules.append(Rule(fields))
            elif path == "/__fired":
                return str(sum(r.fired for r in self.rules if r.id == fields["id"]))
            elif path == "/__seen":
                return str(sum(1 for r in self.seen if re.search(fields["match"], r)))
            elif path == "/__clear":
                self.rules, self.seen = [], []
        return ""


def main():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    direct = f"{host}:{port}"
    connection = http.client.HTTPConnection(direct)
    connection.request("PUT", "/convoy", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"})
    if connection.getresponse().status != 200:
        sys.exit("moto does not make a bucket")
    env = {**os.environ, "CONVOY_TEST_S3": Proxy(direct).address, "CONVOY_TEST_S3_DIRECT": direct, "AWS_ACCESS_KEY_ID": "test",
           "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE", "http_proxy", "HTTP_PROXY"):
        env.pop(name, None)
    code = subprocess.run(sys.argv[1:], env=env).returncode
    sys.stdout.flush()
    os._exit(code if 0 <= code < 256 else 1)  # without waiting for connections


if __name__ == "__main__":
    import logging
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    main()
