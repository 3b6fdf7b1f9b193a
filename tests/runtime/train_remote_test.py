#!/usr/bin/env python3
"""train_llama's checkpoints in an object store: train_remote_test.py CONVOY TRAIN_LLAMA, under tests/ckpt/s3_server.py

Method: a run with folder and store is killed half-way and loses its folder; what goes on from the store, in another mesh, has the
numbers of a run that nobody disturbed. Then the same without any folder; how many steps stay in each place; and a store that does
not exist or can't be reached. The tier itself (failing stores, kills) has tests/ckpt/remote_tier_test.cc.
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile

from train_resume_test import CONVOY, STEPS, job, killed_run, result, run, same, steps_in


def store(folder: str, bucket: str = "convoy", server: str = "") -> str:
    return f"s3://{bucket}/{folder}?scheme=http&endpoint_override={server or os.environ['CONVOY_TEST_S3']}"


def steps_in_store(uri: str) -> list[int]:
    listed = run([CONVOY, "ckpt", "ls", uri, "--json"])
    return [step["step"] for step in json.loads(listed.stdout)["steps"]]


def goes_on_from_the_store(folder: pathlib.Path) -> None:
    reference = result(run(job(folder, "dp=1")))
    checkpoints, uri = folder / "checkpoints-store", store("whole")
    options = ["--checkpoint-remote", uri, "--checkpoint-remote-keep", "9"]
    killed_run(folder, "tp=2", checkpoints, *options)
    newest = steps_in(checkpoints)[0]
    assert steps_in_store(uri)[0] == newest, "the job's end waits for the store"
    shutil.rmtree(checkpoints)
    resumed = run(job(folder, "dp=2", "--zero", "--checkpoint", str(checkpoints), *options, "--take-over"))
    assert f"resumed from step {newest} in s3://convoy/whole" in resumed.stderr, resumed.stderr
    same("tp=2 -> dp=2 from the store", reference, result(resumed))
    assert steps_in(checkpoints)[0] == STEPS


def needs_no_folder(folder: pathlib.Path) -> None:
    uri = store("only")
    first = result(run(job(folder, "dp=2", "--checkpoint-remote", uri)))
    assert steps_in_store(uri) == [STEPS], "the last step is in the store before the program ends"
    again = run(job(folder, "tp=2", "--checkpoint-remote", uri))
    assert f"resumed from step {STEPS} in s3://convoy/only" in again.stderr, again.stderr
    assert abs(result(again)["validation_loss"] - first["validation_loss"]) < 1e-7


def each_place_has_its_own_rules(folder: pathlib.Path) -> None:
    """How often, and how many stay. So few go to the store that none is overtaken."""
    checkpoints, uri = folder / "checkpoints-rules", store("rules")
    run(job(folder, "dp=1", "--checkpoint", str(checkpoints), "--checkpoint-every", "2", "--checkpoint-disk-every", "2",
            "--checkpoint-keep", "1", "--checkpoint-keep-every", "6", "--checkpoint-remote", uri, "--checkpoint-remote-every", "6"))
    # Steps 2, 6 and 10 come there in turn, and the last one.
    assert steps_in(checkpoints) == [STEPS, 6], steps_in(checkpoints)
    assert steps_in_store(uri) == [STEPS, 2], steps_in_store(uri)


def a_store_that_is_not_there(folder: pathlib.Path) -> None:
    checkpoints = folder / "checkpoints-nowhere"
    missing = run(job(folder, "dp=1", "--checkpoint-remote", store("x", bucket="nowhere")), code=66)
    assert "--checkpoint-remote" in missing.stderr and "nowhere" in missing.stderr, missing.stderr
    # To begin anew would be worse than to fail; with a step in the folder it is no reason to.
    silent = ["--checkpoint", str(checkpoints), "--checkpoint-remote", store("x", server="127.0.0.1:1")]
    refused = run(job(folder, "dp=1", *silent, steps=1), code=69)
    assert "s3://convoy/x" in refused.stderr, refused.stderr
    run(job(folder, "dp=1", "--checkpoint", str(checkpoints), steps=1))
    done = run(job(folder, "dp=1", *silent, steps=1))
    assert "nothing is saved to the store until it can be reached" in done.stderr, done.stderr
    assert f"resumed from step 1 in {checkpoints}" in done.stderr, done.stderr


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "text.txt").write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(900)))
        run([CONVOY, "data", "prepare", str(folder / "text.txt"), "-o", str(folder / "text.tokens")])
        for test in (goes_on_from_the_store, needs_no_folder, each_place_has_its_own_rules, a_store_that_is_not_there):
            print(test.__name__, flush=True)
            test(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
