"""`convoy ckpt` on folders in an object store: s3_server.py ckpt_uri_test.py CONVOY MAKE_CHECKPOINT

Method: the same job in a folder on the disk and in one in moto's S3 server; every command must say the same of both (times and
names apart), and what it changes is looked at with the other commands. Then damage, by the server's own client, and a server
that is away. What the commands compute is ckpt_test.py's.
"""
import http.client
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import boto3

CONVOY, MAKE = (os.path.abspath(path) for path in (sys.argv.pop(1), sys.argv.pop(1)))
PATIENCE_S = 120
SERVER, DIRECT = os.environ["CONVOY_TEST_S3"], os.environ["CONVOY_TEST_S3_DIRECT"]


def uri(folder, step=""):
    return f"s3://convoy/{folder}{step}?scheme=http&region=us-east-1&endpoint_override={SERVER}"


def proxy(target):
    connection = http.client.HTTPConnection(SERVER)
    connection.request("GET", target)
    answer = connection.getresponse().read()
    connection.close()
    return answer


class UriTest(unittest.TestCase):
    count = 0

    def setUp(self):
        UriTest.count += 1
        self.temp = tempfile.TemporaryDirectory(prefix="convoy-test-")
        self.root = pathlib.Path(self.temp.name)
        self.disk, self.name = self.root / "ck", f"cli-{UriTest.count}"
        self.uri = uri(self.name)
        for where in (str(self.disk), self.uri):
            subprocess.run([MAKE, where, "incremental=1", "freeze=1000", "compress=1", "100", "200", "300"], check=True,
                           timeout=PATIENCE_S)

    def tearDown(self):
        proxy("/__clear")
        self.temp.cleanup()

    def ckpt(self, *words, code=0):
        done = subprocess.run([CONVOY, "ckpt", *map(str, words)], cwd=self.root, text=True, capture_output=True,
                              timeout=PATIENCE_S)
        self.assertEqual(done.returncode, code, f"{words}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def json(self, *words, code=0):
        return json.loads(self.ckpt(*words, "--json", code=code))

    def test_reading_says_the_same(self):
        for command in (["ls"], ["inspect"], ["inspect", "--tensor", "model.*"], ["verify", "--all"], ["gc", "--keep", 1, "--dry-run"]):
            with self.subTest(command):
                name, *options = command
                there, here = (self.json(name, where, *options) for where in (self.uri, self.disk))
                for out in (there, here):
                    out.pop("folder", None)
                self.assertEqual(there, here)
                self.assertEqual(self.ckpt(name, self.uri, *options).replace(f"s3://convoy/{self.name}", "X"),
                                 self.ckpt(name, self.disk, *options).replace(str(self.disk), "X"))
        self.assertEqual(self.json("ls", self.uri)["folder"], f"s3://convoy/{self.name}")

    def test_diff(self):
        self.assertIn(" 0 different", self.ckpt("diff", self.uri, self.disk))
        self.assertIn(" 0 different", self.ckpt("diff", uri(self.name, "@100"), f"{self.disk}@100"))
        self.assertIn("differs", self.ckpt("diff", self.uri + "@100", self.disk, code=1))
        self.assertIn("has no committed step 7", self.ckpt("diff", self.uri + "@7", self.disk, code=66))

    def test_export_and_import(self):
        self.ckpt("export", self.uri, "--format", "safetensors", "-o", "there")
        self.ckpt("export", self.disk, "--format", "safetensors", "-o", "here")
        self.assertEqual(*((self.root / side / "model.safetensors").read_bytes() for side in ("there", "here")))
        into = uri(self.name + "-imported")
        self.ckpt("import", "there", "--format", "safetensors", "-o", into, "--step", 9)
        self.assertIn(" 0 different", self.ckpt("diff", into, self.disk, "--tensor", "model.*"))
        self.ckpt("import", "there", "--format", "safetensors", "-o", into, "--step", 9, code=64)

    def test_gc(self):
        self.ckpt("gc", self.uri, "--keep", 1, "--every", 200)
        self.assertEqual([s["step"] for s in self.json("ls", self.uri)["steps"]], [300, 200])
        self.ckpt("verify", self.uri, "--all")
        subprocess.run([MAKE, self.uri, "release=0", "generation=2", "400"], check=True, timeout=PATIENCE_S)
        self.assertIn("has not said that it ended", self.ckpt("gc", self.uri, "--keep", 1, code=69))
        self.ckpt("gc", self.uri, "--keep", 1, "--force")
        self.assertEqual([s["step"] for s in self.json("ls", self.uri)["steps"]], [400])

    def test_damage(self):
        file = next(f for f in self.json("inspect", self.uri)["files"] if f["step"] == 300)["path"]
        client = boto3.client("s3", endpoint_url=f"http://{DIRECT}")
        there = {"Bucket": "convoy", "Key": f"{self.name}/{file}"}
        data = bytearray(client.get_object(**there)["Body"].read())
        data[100] ^= 1
        client.put_object(**there, Body=bytes(data))
        self.assertIn("1 bad chunk", self.ckpt("verify", self.uri, code=65))
        client.delete_object(**there)
        self.assertIn("DAMAGED", self.ckpt("verify", self.uri, code=65))

    def test_scrub_mends_both_ways(self):
        file = next(f for f in self.json("inspect", self.disk)["files"] if f["step"] == 300)["path"]
        whole = (self.disk / file).read_bytes()
        (self.disk / file).write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
        self.ckpt("scrub", self.disk, "--from", self.uri)
        self.assertEqual((self.disk / file).read_bytes(), whole)
        client = boto3.client("s3", endpoint_url=f"http://{DIRECT}")
        client.put_object(Bucket="convoy", Key=f"{self.name}/{file}", Body=whole[:-1] + bytes([whole[-1] ^ 1]))
        self.ckpt("scrub", self.uri, "--from", self.disk)
        self.ckpt("verify", self.uri)

    def test_scrub_mends_from_a_remote_tier_with_files_of_its_own(self):
        disk, far = self.root / "raw", uri(f"{self.name}-compressed")
        subprocess.run([MAKE, str(disk), "100"], check=True, timeout=PATIENCE_S)
        subprocess.run([MAKE, far, "compress=1", "100"], check=True, timeout=PATIENCE_S)
        file = disk / self.json("inspect", disk)["files"][0]["path"]
        whole = file.read_bytes()
        file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        self.ckpt("scrub", disk, code=65)
        self.assertIn(f"from s3://convoy/{self.name}-compressed", self.ckpt("scrub", disk, "--from", far))
        self.assertEqual(file.read_bytes(), whole)

    def test_a_server_that_refuses_is_no_damage(self):
        proxy("/__rule?id=no&match=chunks&action=status&arg=503&times=1000")
        text = self.ckpt("verify", self.uri, code=69)
        self.assertIn("503", text)
        self.assertNotIn("DAMAGED", text)
        self.assertGreater(int(proxy("/__fired?id=no")), 0)

    def test_names_that_can_not_be(self):
        self.assertIn("there is no such bucket", self.ckpt("ls", self.uri.replace("//convoy", "//absent"), code=66))
        self.assertIn("no_such_option", self.ckpt("ls", "s3://convoy/x?no_such_option=1", code=64))
        self.assertIn("has no committed step", self.ckpt("ls", uri("nothing-there")))


if __name__ == "__main__":
    unittest.main()
