"""`convoy ckpt` as an operator meets it: ckpt_test.py CONVOY MAKE_CHECKPOINT

Method: make folders (tests/ckpt/make_checkpoint.cc: several ranks, steps and layouts, incremental ones too), run every
command with right and wrong input, look at text, JSON and exit codes; flip, cut and remove files and look for the names;
kill -9 gc, import and export at many moments and look at what is left. What the commands compute is checked in
tests/ckpt/safetensors_test.cc and catalog_test.cc. Does not check full disks.
"""
import json
import os
import pathlib
import pty
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

CONVOY, MAKE = (os.path.abspath(path) for path in (sys.argv.pop(1), sys.argv.pop(1)))
PATIENCE_S = 60
WIDTH = 100


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def safetensors(tensors, metadata=None):
    """The bytes of a file with {name: (dtype, shape, bytes)}."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[8 + size:][slice(*t["data_offsets"])]) for name, t in header.items()}


class CkptTest(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="convoy-test-"))
        self.folder = self.root / "ck"

    def tearDown(self):
        shutil.rmtree(self.root, ignore_errors=True)

    # What is done.
    def make(self, *words, folder=None):
        subprocess.run([MAKE, str(folder or self.folder), *map(str, words)], check=True, timeout=PATIENCE_S)

    def ckpt(self, *words, code=0):
        done = subprocess.run([CONVOY, "ckpt", *map(str, words)], cwd=self.root, text=True, capture_output=True,
                              timeout=PATIENCE_S)
        self.assertEqual(done.returncode, code, f"{words}\n{done.stdout}{done.stderr}")
        if done.returncode in (64, 66, 69, 70):
            self.assertRegex(done.stderr, r"^convoy: [^\n]+\n$")
        for line in done.stdout.splitlines():
            sentence = line.startswith(("damaged: ", "does not count: ", "the folder belongs", "kept: ", "{", "  tensors: ", "incomplete: "))
            self.assertTrue(sentence or "--help" in words or len(line) <= WIDTH, line)
        return done.stdout + done.stderr

    def json(self, *words, code=0):
        text = self.ckpt(*words, "--json", code=code)
        self.assertEqual(text.count("\n"), 1, text)
        return json.loads(text)

    def steps(self):
        return [one["step"] for one in self.json("ls", self.folder)["steps"]]

    def data_files(self, step, ending=".chunks"):
        return sorted(p for p in (self.folder / f"data/s{step:012}").rglob("*") if p.name.endswith(ending))

    def files(self):
        return {p.relative_to(self.folder): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}

    # ls, inspect
    def test_ls(self):
        self.make("incremental=1", "freeze=1000", 100, 200)
        text = self.ckpt("ls", self.folder)
        rows = text.splitlines()
        self.assertEqual(rows[0].split(), ["STEP", "COMMITTED", "(UTC)", "JOB", "GEN", "RANKS", "MESH", "TENSORS", "SIZE",
                                           "FILES", "PARTS"])
        self.assertEqual([row.split()[0] for row in rows[1:3]], ["200", "100"])
        self.assertEqual(rows[1].split()[1:7], ["2025-11-25", "22:47:54", "demo", "1", "4", "dp=4"])
        self.assertIn("job 'demo' generation 1 (node-0:4711) since 2025-11-25 22:44:34 UTC, which has ended", text)
        out = self.json("ls", self.folder)
        new, old = out["steps"]
        self.assertEqual((new["step"], new["steps"], new["world_size"], new["parts"]), (200, [100, 200], 4, 2))
        self.assertLess(new["stored_bytes"], old["stored_bytes"])
        self.assertEqual(new["tensor_bytes"], old["tensor_bytes"])
        self.assertTrue(out["owner"]["released"])

    def test_ls_says_what_does_not_count(self):
        self.make("release=0", 10, 20)
        commits = sorted((self.folder / "commits").iterdir())
        flip(commits[1], 40)
        late = self.folder / "commits/s000000000030-c00000001"
        shutil.copy(commits[0], late)
        self.make("generation=2", "release=0", 40)
        shutil.copy(commits[0], self.folder / "commits/s000000000050-c00000001")  # by one that lost the folder
        out = self.json("ls", self.folder)
        self.assertEqual([one["step"] for one in out["steps"]], [40, 10])
        self.assertEqual(sorted(one["step"] for one in out["ignored"]), [20, 30, 50])
        text = self.ckpt("ls", self.folder)
        self.assertIn("had lost the folder", text)
        self.assertIn("somebody has renamed it", text)
        self.assertNotIn("which has ended", text)

    def test_ls_of_nothing(self):
        self.folder.mkdir()
        self.assertIn("has no committed step", self.ckpt("ls", self.folder))
        self.assertEqual(self.json("ls", self.folder)["steps"], [])
        self.assertIn("No such file", self.ckpt("ls", self.root / "none", code=66))

    def test_inspect(self):
        self.make("incremental=1", "freeze=1000", 100, 200)
        out = self.json("inspect", self.folder)
        tensors = {t["name"]: t for t in out["tensors"]}
        self.assertEqual(tensors["model.embed.weight"],
                         {"name": "model.embed.weight", "dtype": "float32", "shape": [65, 64], "bytes": 65 * 64 * 4,
                          "pieces": 4, "ranks": 4, "nodes": 2})
        self.assertEqual(tensors["optimizer.step"]["shape"], [])
        self.assertEqual(tensors["model.unused"]["pieces"], 0)
        self.assertEqual({f["step"] for f in out["files"]}, {100, 200})
        self.assertEqual(out["notes"], {"tokens": "819200"})
        text = self.ckpt("inspect", self.folder)
        for words in ("step 200 of job 'demo' generation 1: 4 ranks (dp=4)", "scalar", "[65, 64]", "tokens", "OF STEP"):
            self.assertIn(words, text)
        one = self.json("inspect", self.folder, "--step", 100, "--tensor", "model.embed.weight")["tensors"]
        self.assertEqual([(b["begin"], b["extent"]) for b in one[0]["boxes"]],
                         [([0, 0], [16, 64]), ([16, 0], [16, 64]), ([32, 0], [16, 64]), ([48, 0], [17, 64])])
        for box in one[0]["boxes"]:
            run = box["runs"][0]
            self.assertTrue((self.folder / run["file"]).stat().st_size >= run["offset"] + run["stored_bytes"])
        self.assertIn("[48:65, 0:64]", self.ckpt("inspect", self.folder, "--tensor", "model.embed.weight"))
        layers = self.json("inspect", self.folder, "--tensor", "*layers.?.mlp*")["tensors"]
        self.assertEqual(len(layers), 3)
        self.assertIn("has no tensor", self.ckpt("inspect", self.folder, "--tensor", "nothing", code=66))
        self.assertIn("has no committed step 7", self.ckpt("inspect", self.folder, "--step", 7, code=66))
        self.data_files(200, ".part")[0].unlink()
        self.assertIn("damaged: ", self.ckpt("inspect", self.folder, code=65))

    # verify
    def test_verify_names_damage(self):
        self.make(10, 20)
        self.assertIn("all right", self.ckpt("verify", self.folder))
        self.assertTrue(self.json("verify", self.folder, "--all")["ok"])
        flip(self.data_files(20)[1], 100)
        text = self.ckpt("verify", self.folder, code=65)
        self.assertIn("chunk 0 of rank 2", text)
        self.assertIn("tensors: model.embed.weight", text)
        self.assertIn("DAMAGED: 1 bad chunk, 0 bad parts", text)
        self.assertIn("all right", self.ckpt("verify", self.folder, "--step", 10))
        out = self.json("verify", self.folder, "--all", code=65)
        self.assertEqual([(s["step"], s["ok"]) for s in out["steps"]], [(20, False), (10, True)])
        bad = out["steps"][0]["bad_chunks"][0]
        self.assertEqual((bad["rank"], bad["chunk"], bad["tensors"]), (2, 0, ["model.embed.weight"]))
        self.assertEqual(self.folder / bad["file"], self.data_files(20)[1])

    def test_verify_finds_what_no_rank_gave(self):
        self.make("forgets=2", 10)
        text = self.ckpt("verify", self.folder, code=65)
        self.assertIn("incomplete: no rank gave [32:48, 0:64] of tensor model.embed.weight", text)
        self.assertIn("all right but INCOMPLETE", text)
        out = self.json("verify", self.folder, code=65)["steps"][0]
        self.assertIn({"tensor": "model.embed.weight", "box": "[32:48, 0:64]"}, out["missing"])
        self.assertFalse(out["ok"])
        # Each replica alone would do.
        self.make("forgets=2", "replicas=1", "force=1", 20)
        self.assertEqual(self.json("verify", self.folder, "--step", 20)["steps"][0]["missing"], [])

    def test_verify_of_cut_and_missing_files(self):
        self.make(10)
        one, two = self.data_files(10)
        one.write_bytes(one.read_bytes()[:-10])
        text = self.ckpt("verify", self.folder, code=65)
        self.assertIn("is truncated", text)
        two.unlink()
        text = self.ckpt("verify", self.folder, code=65)
        self.assertIn("No such file", text)
        self.data_files(10, ".part")[0].unlink()
        self.assertIn("1 bad part", self.ckpt("verify", self.folder, code=65))

    def test_verify_of_a_damaged_commit_record(self):
        self.make(10, 20)
        flip(sorted((self.folder / "commits").iterdir())[1], 50)
        text = self.ckpt("verify", self.folder, code=65)  # the newest that counts is right, a newer one is not
        self.assertIn("s000000000020-c00000001", text)
        self.assertIn("step 10: ", text)
        self.ckpt("verify", self.folder, "--step", 20, code=65)
        self.ckpt("verify", self.folder, "--step", 30, code=66)
        self.assertIn("excludes", self.ckpt("verify", self.folder, "--step", 10, "--all", code=64))

    # scrub
    def test_scrub_mends_everything_from_a_copy(self):
        self.make("incremental=1", "freeze=1000", "compress=1", 100, 200)
        self.assertEqual(self.ckpt("scrub", self.folder).count("all right\n"), 2)
        copy, whole = self.root / "copy", self.files()
        shutil.copytree(self.folder, copy)
        flip(self.data_files(100)[0], 100)  # shared with step 200
        one, two = self.data_files(200)
        cut = one.stat().st_size - 10
        one.write_bytes(one.read_bytes()[:cut])
        two.unlink()
        parts = self.data_files(200, ".part")
        flip(parts[0], 70)
        parts[1].unlink()
        flip(self.folder / "commits/s000000000200-c00000001", 50)
        flip(copy / one.relative_to(self.folder), cut)  # the copy is not whole either
        out = self.json("scrub", self.folder, code=65)
        self.assertEqual([(s["step"], s["ok"]) for s in out["steps"]], [(200, False), (100, False)])
        self.assertIn("whole nowhere else", self.ckpt("scrub", self.folder, "--step", 100, code=65))
        text = self.ckpt("scrub", self.folder, "--from", copy, code=65)
        self.assertIn("healed: the commit record of step 200", text)
        self.assertIn(f"healed: {parts[1].relative_to(self.folder)}, from {copy}", text)
        self.assertRegex(text, r"damaged: 1 of \d+ bad chunks? of .*n00000-000.chunks are whole nowhere else")
        flip(copy / one.relative_to(self.folder), cut)
        out = self.json("scrub", self.folder, "--from", copy)
        self.assertTrue(out["ok"])
        self.assertEqual(self.files(), whole)
        self.assertTrue(self.json("verify", self.folder, "--all")["ok"])
        self.assertEqual(sum(len(s["healed"]) for s in self.json("scrub", self.folder, "--from", copy)["steps"]), 0)

    def test_two_damaged_copies_make_a_whole_one(self):
        self.make("width=300", 10)
        copy, whole = self.root / "copy", self.files()
        shutil.copytree(self.folder, copy)
        mine = self.data_files(10)[0]
        flip(mine, 0)
        flip(copy / mine.relative_to(self.folder), mine.stat().st_size - 1)
        self.assertIn("all right now", self.ckpt("scrub", self.folder, "--from", copy))
        self.assertEqual(self.files(), whole)

    def test_scrub_is_as_slow_as_it_is_told(self):
        self.make("width=300", 10)
        size = self.json("ls", self.folder)["steps"][0]["tensor_bytes"]
        begin = time.monotonic()
        self.ckpt("scrub", self.folder, "--bandwidth", size)
        self.assertGreater(time.monotonic() - begin, 0.3)  # all of it in less would be three times as fast

    def test_scrub_of_wrong_words(self):
        self.make(10)
        self.ckpt("scrub", self.folder, "--step", 20, code=66)
        self.ckpt("scrub", self.folder, "--from", "nothing", code=66)
        self.assertIn("--bandwidth", self.ckpt("scrub", self.folder, "--bandwidth", "fast", code=64))
        (self.root / "empty").mkdir()
        self.ckpt("scrub", "empty", code=66)

    def test_verify_shows_a_bar_on_a_terminal(self):
        self.make("width=1500", 10)  # 0.1 s and more of work
        main, other = pty.openpty()
        process = subprocess.Popen([CONVOY, "ckpt", "verify", str(self.folder)], stdout=subprocess.PIPE, stderr=other)
        os.close(other)
        shown = b""
        try:
            while part := os.read(main, 4096):
                shown += part
        except OSError:  # the terminal is gone with the process
            pass
        process.communicate(timeout=PATIENCE_S)
        os.close(main)
        self.assertEqual(process.returncode, 0)
        if shown:  # a fast machine is done before the first picture
            self.assertIn(b"%", shown)
            self.assertTrue(shown.endswith(b"\r\x1b[K"), shown)

    # diff
    def test_diff(self):
        self.make("freeze=1000", 10, 20)
        self.assertEqual(self.json("diff", f"{self.folder}@10", f"{self.folder}@10")["differences"], [])
        out = self.json("diff", f"{self.folder}@10", self.folder, code=1)
        kinds = {d["name"]: d for d in out["differences"]}
        self.assertNotIn("model.layers.0.mlp.weight", kinds)
        embed = kinds["model.embed.weight"]
        self.assertEqual((embed["kind"], embed["elements"]), ("differs", 65 * 64))
        self.assertGreater(embed["max_abs_difference"], 0)
        self.assertIsNone(kinds["optimizer.step"]["max_abs_difference"])
        text = self.ckpt("diff", f"{self.folder}@10", self.folder, code=1)
        self.assertIn("IN A", text)
        self.assertRegex(text, r"3 tensors equal \([123] by their checksums\)")
        other = self.root / "other"
        self.make("cut=1", "ranks=3", "freeze=1000", 10, folder=other)
        out = self.json("diff", f"{self.folder}@10", other, code=1)
        self.assertEqual([(d["name"], d["kind"]) for d in out["differences"]], [("rng.3", "only in A")], out)
        self.assertGreater(out["bytes_read"], 0)
        self.ckpt("diff", f"{self.folder}@10", other, "--tensor", "model.*")

    def test_diff_of_other_forms_and_wrong_words(self):
        self.make(10)
        other = self.root / "other@7"  # a name that looks like a step
        self.make("width=32", 10, folder=other)
        text = self.ckpt("diff", self.folder, other, code=1)
        self.assertIn("other form", text)
        self.assertIn("float32 [33, 32]", text)
        self.assertIn("has no committed step 11", self.ckpt("diff", self.folder, f"{self.folder}@11", code=66))
        self.assertIn("behind the @", self.ckpt("diff", self.folder, f"{self.folder}@x", code=64))
        self.ckpt("diff", self.folder, code=64)
        copy = self.root / "copy"
        shutil.copytree(self.folder, copy)
        self.make("generation=2", 20, folder=copy)
        damaged = sorted((copy / "data/s000000000020").rglob("*.chunks"))[0]
        flip(damaged, 10)
        self.assertIn("damaged: tensor", self.ckpt("diff", self.folder, copy, code=65))

    # gc
    def test_gc(self):
        self.make("incremental=1", "freeze=1000", *range(10, 100, 10))
        before = self.files()
        out = self.json("gc", self.folder, "--keep", 2, "--every", 40, "--pin", 30, "--dry-run")
        self.assertEqual(sorted(out["steps"]), [10, 20, 50, 60, 70])
        self.assertEqual(self.files(), before)
        done = self.json("gc", self.folder, "--keep", 2, "--every", 40, "--pin", 30)
        self.assertEqual({**out, "dry_run": False}, done)
        self.assertEqual(self.steps(), [90, 80, 40, 30])
        self.assertTrue(self.json("verify", self.folder, "--all")["ok"])  # what was referred to in step 10 is there
        self.assertTrue(self.data_files(10))
        self.assertEqual(self.json("gc", self.folder, "--keep", 9)["files"], 0)
        self.make("generation=2", "release=0", 100)  # the job goes on; another generation would too
        self.assertEqual(self.steps()[0], 100)

    def test_gc_keeps_off_a_job(self):
        self.make("release=0", 10, 20, 30)
        before = self.files()
        text = self.ckpt("gc", self.folder, "--keep", 1, code=69)
        self.assertIn("belongs to job 'demo' generation 1 (node-0:4711)", text)
        self.assertIn("--force", text)
        self.assertIn("2 steps would be removed: 20, 10", self.ckpt("gc", self.folder, "--keep", 1, "--dry-run"))
        self.assertEqual(self.files(), before)
        self.assertIn("2 steps removed: 20, 10", self.ckpt("gc", self.folder, "--keep", 1, "--force"))
        self.assertEqual(self.steps(), [30])
        self.ckpt("gc", self.folder, "--keep", 1)  # gc itself has said that it ended
        self.make("generation=1", 40)  # and has not kept the job out
        self.assertEqual(self.steps(), [40, 30])

    def test_gc_of_wrong_words(self):
        self.make(10)
        for words in (["--keep", 0], ["--keep", "x"], [], ["--keep", -1], ["--keep", 1, "--every", 0]):
            self.ckpt("gc", self.folder, *words, code=64)
        self.assertIn("Did you mean --dry-run?", self.ckpt("gc", self.folder, "--keep", 1, "--dryrun", code=64))
        self.ckpt("gc", self.root / "none", "--keep", 1, code=66)

    def test_gc_leaves_damaged_and_foreign(self):
        self.make(10, 20, 30)
        (self.folder / "notes.txt").write_text("mine")
        flip(sorted((self.folder / "commits").iterdir())[0], 40)
        out = self.json("gc", self.folder, "--keep", 1)
        self.assertEqual((out["steps"], out["damaged"]), ([20], ["commits/s000000000010-c00000001"]))
        self.assertTrue(self.data_files(10))
        self.assertTrue((self.folder / "notes.txt").exists())

    def kill_at_moments(self, words, rounds, prepare, check):
        """Starts the command again and again, kills it a little later each time."""
        killed = 0
        for i in range(rounds):
            prepare()
            process = subprocess.Popen([CONVOY, "ckpt", *map(str, words)], cwd=self.root, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            time.sleep(random.Random(i).random() * 0.02 * (1 + i / rounds))
            process.send_signal(signal.SIGKILL)
            killed += process.wait(PATIENCE_S) == -signal.SIGKILL
            check()
        self.assertGreater(killed, 0)

    def test_killed_gc_harms_nothing(self):
        made = self.root / "made"
        self.make("incremental=1", "freeze=1000", "width=32", *range(1, 40), folder=made)

        def prepare():
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.copytree(made, self.folder)

        def check():
            steps = self.steps()
            self.assertEqual(steps[:2], [39, 38])
            self.assertTrue(self.json("verify", self.folder, "--all")["ok"])
            self.ckpt("gc", self.folder, "--keep", 2, "--force")
            self.assertEqual(self.steps(), [39, 38])
            # A folder that lost its last file just before the kill stays, empty.
            left = {p.relative_to(self.folder / "data").parts[0] for p in (self.folder / "data").rglob("*") if p.is_file()}
            self.assertTrue(self.json("verify", self.folder, "--all")["ok"])
            self.assertLessEqual(left, {"s000000000001", "s000000000038", "s000000000039"})

        self.kill_at_moments(["gc", self.folder, "--keep", 2], 15, prepare, check)

    # export, import
    def test_export(self):
        self.make("cut=1", 10)
        words = ["--format", "safetensors", "--tensor", "model.*", "--tensor", "optimizer.step"]
        out = self.json("export", self.folder, "-o", "out", *words)
        self.assertEqual([f["name"] for f in out["files"]], ["model.safetensors"])
        whole = read_safetensors(self.root / "out/model.safetensors")
        self.assertEqual(whole["model.embed.weight"][:2], ("F32", [65, 64]))
        self.assertEqual(len(whole), 6)
        text = self.ckpt("export", self.folder, "-o", "parts/", "--shard-size", "20KB", *words)
        self.assertIn("model-00001-of-0000", text)
        index = json.loads((self.root / "parts/model.safetensors.index.json").read_text())
        self.assertEqual(set(index["weight_map"]), set(whole))
        parts = {}
        for name in set(index["weight_map"].values()):
            one = read_safetensors(self.root / "parts" / name)
            self.assertTrue(all(index["weight_map"][tensor] == name for tensor in one))
            parts.update(one)
        self.assertEqual(parts, whole)
        self.assertEqual(index["metadata"]["total_size"], sum(len(t[2]) for t in whole.values()))
        text = self.ckpt("export", self.folder, "-o", "all", "--format", "safetensors")
        self.assertIn("left out: rng.0", text)
        narrow = self.json("export", self.folder, "-o", "narrow", "--dtype", "bfloat16", *words)
        self.assertEqual(read_safetensors(self.root / "narrow/model.safetensors")["model.norm.weight"][:2], ("BF16", [64]))
        self.assertLess(narrow["bytes"], out["bytes"])
        self.assertFalse(list(self.root.glob("*.partial")))

    def test_export_of_wrong_words_and_damage(self):
        self.make(10)
        st = ["--format", "safetensors"]
        self.assertIn("did you mean safetensors?", self.ckpt("export", self.folder, "-o", "out", "--format", "safetensor", code=64))
        self.assertIn("use one of", self.ckpt("export", self.folder, "-o", "out", *st, "--dtype", "half", code=64))
        self.assertIn("can't be converted to int8", self.ckpt("export", self.folder, "-o", "out", *st, "--dtype", "int8", code=64))
        self.assertIn("--shard-size", self.ckpt("export", self.folder, "-o", "out", *st, "--shard-size", "5 apples", code=64))
        self.assertIn("no tensor to export", self.ckpt("export", self.folder, "-o", "out", *st, "--tensor", "x", code=64))
        self.ckpt("export", self.folder, "-o", "out", *st, "--step", 11, code=66)
        self.ckpt("export", self.folder, "-o", "none/out", *st, code=66)
        (self.root / "full").mkdir()
        (self.root / "full/x").touch()
        self.assertIn("is there already", self.ckpt("export", self.folder, "-o", "full", *st, code=64))
        flip(self.data_files(10)[0], 50)
        text = self.ckpt("export", self.folder, "-o", "out", *st, code=65)
        self.assertIn("chunk 0 of rank 0", text)
        self.assertEqual(sorted(p.name for p in self.root.iterdir()), ["ck", "full"])

    def test_import(self):
        source = self.root / "m.safetensors"
        tensors = {"a": ("F32", [2, 3], bytes(range(24))), "b": ("BF16", [], b"xy"), "c": ("U8", [0, 4], b""),
                   "d": ("F8_E4M3", [5], b"hello")}
        source.write_bytes(safetensors(tensors, {"format": "pt"}))
        out = self.json("import", source, "--format", "safetensors", "-o", "new", "--step", 5, "--job", "train")
        self.assertEqual((out["tensors"], out["step"]), (4, 5))
        self.folder = self.root / "new"
        self.assertTrue(self.json("verify", self.folder)["ok"])
        self.ckpt("export", self.folder, "-o", "back", "--format", "safetensors")
        self.assertEqual(read_safetensors(self.root / "back/model.safetensors"), tensors)
        text = self.ckpt("import", source, "--format", "safetensors", "-o", "new", "--step", 5, "--job", "train", code=64)
        self.assertIn("has a step 5 already", text)
        self.ckpt("import", self.root / "back", "--format", "safetensors", "-o", "new", "--step", 6, "--job", "train")
        self.assertEqual(self.json("diff", "new@5", "new@6")["differences"], [])
        self.make("job=train", 7)  # the job goes on from there
        self.assertEqual(self.steps(), [7, 6, 5])
        text = self.ckpt("import", source, "--format", "safetensors", "-o", "new", "--step", 8, code=69)
        self.assertIn("belongs to job 'train'", text)

    def test_import_keeps_off_a_job(self):
        self.make("release=0", 10)
        source = self.root / "m.safetensors"
        source.write_bytes(safetensors({"a": ("U8", [1], b"x")}))
        words = ["import", source, "--format", "safetensors", "-o", self.folder, "--step", 20, "--job", "demo"]
        self.assertIn("has not said that it ended", self.ckpt(*words, code=69))
        self.ckpt(*words, "--force")
        self.assertEqual(self.steps(), [20, 10])

    def test_import_of_hostile_files_makes_nothing(self):
        good = safetensors({"a": ("U8", [4], b"abcd")})
        cases = {
            "empty": (b"", "too few"), "cut": (good[:-1], "lies at"), "long": (good + b"x", "end at byte 4 of 5"),
            "huge": (struct.pack("<Q", 1 << 63) + good[8:], "its header would have"),
            "no json": (struct.pack("<Q", 4) + b"1234", "a number stands"),
            "dtype": (good.replace(b'"U8"', b'"X9"'), "dtype \"X9\""),
            "size": (good.replace(b"[4]", b"[5]"), "dtype and shape make 5"),
            "text": (b"once upon a time", "its header would have"),
        }
        for name, (data, reason) in cases.items():
            path = self.root / f"{name}.safetensors"
            path.write_bytes(data)
            with self.subTest(name):
                text = self.ckpt("import", path, "--format", "safetensors", "-o", "new", code=65)
                self.assertIn(reason, text)
                self.assertIn(path.name, text)
            path.unlink()
        self.ckpt("import", self.root / "none", "--format", "safetensors", "-o", "new", code=66)
        self.ckpt("import", self.root, "--format", "safetensors", "-o", "new", code=66)
        (self.root / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
        self.assertIn("not in its folder", self.ckpt("import", self.root, "--format", "safetensors", "-o", "new", code=65))
        self.assertFalse((self.root / "new").exists())

    def test_killed_export_leaves_nothing_that_looks_whole(self):
        self.make("width=700", 10)
        target = self.root / "out"
        words = ["export", self.folder, "-o", target, "--format", "safetensors", "--shard-size", "1MB"]
        self.ckpt(*words)
        whole = {p.name: p.read_bytes() for p in target.iterdir()}

        def prepare():
            shutil.rmtree(target, ignore_errors=True)

        def check():
            if target.exists():
                self.assertEqual({p.name: p.read_bytes() for p in target.iterdir()}, whole)
            else:
                self.ckpt(*words)  # takes the dead one's folder over
                self.assertEqual({p.name: p.read_bytes() for p in target.iterdir()}, whole)
            self.assertEqual(sorted(p.name for p in self.root.iterdir()), ["ck", "out"])

        self.kill_at_moments(words, 10, prepare, check)

    def test_killed_import_is_no_step(self):
        source = self.root / "m.safetensors"
        source.write_bytes(safetensors({f"t{i}": ("U8", [1 << 20], os.urandom(1 << 20)) for i in range(16)}))
        words = ["import", source, "--format", "safetensors", "-o", self.folder]

        def prepare():
            shutil.rmtree(self.folder, ignore_errors=True)

        def check():
            steps = self.steps() if self.folder.exists() else []
            self.assertIn(steps, ([], [0]))
            if steps:
                self.assertTrue(self.json("verify", self.folder)["ok"])
            else:
                self.ckpt(*words, "--force")
                self.assertTrue(self.json("verify", self.folder)["ok"])
                self.ckpt("gc", self.folder, "--keep", 1)
                # The dead one's file may lie in the folder of the step, which is kept whole while the step is.
                self.assertLessEqual(len(list(self.folder.rglob("*.chunks"))), 2)

        self.kill_at_moments(words, 10, prepare, check)

    # all
    def test_help_has_examples_and_exit_codes(self):
        for command in ("ls", "inspect", "verify", "diff", "gc", "export", "import"):
            text = self.ckpt(command, "--help")
            self.assertIn("Examples:\n  convoy ckpt " + command, text)
            self.assertIn("Exit codes: 0", text)
            self.assertIn("--json", text)
            for line in text.splitlines():
                self.assertLessEqual(len(line), 110, line)
        self.assertIn("Did you mean verify?", self.ckpt("verfy", code=64))

    def test_names_cannot_steer_the_terminal(self):
        source = self.root / "m.safetensors"
        source.write_bytes(safetensors({"a\x1b[31m\nb": ("U8", [1], b"x"), "n" * 200: ("U8", [1], b"x")}))
        self.ckpt("import", source, "--format", "safetensors", "-o", "new")
        text = self.ckpt("inspect", "new")
        self.assertNotIn("\x1b", text)
        self.assertIn("a?[31m?b", text)


if __name__ == "__main__":
    unittest.main()
