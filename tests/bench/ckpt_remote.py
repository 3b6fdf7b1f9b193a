"""Upload to and download from an object store, next to pyarrow.fs alone on the same server: ckpt_remote.py --build BUILD

moto's S3 server in a process of its own (started by tests/ckpt/s3_server.py, without the proxy) is the bottleneck, in Python; so the
limit is what pyarrow.fs alone gets from it: a stream of the same bytes up, and as many threads that read the same ranges down. Peer and
Convoy take turns; the median of --runs. JSON lines, as all benchmarks.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

BATCH = 4 << 20


def pyarrow_run(what, server, mib, threads):
    from pyarrow import fs
    s3 = fs.S3FileSystem(access_key="test", secret_key="test-secret", region="us-east-1", scheme="http", endpoint_override=server,
                         request_timeout=60, connect_timeout=60)
    size, path = mib << 20, "convoy/peer/file"
    if what == "up":
        data = os.urandom(size)
        begin = time.perf_counter()
        with s3.open_output_stream(path) as out:
            for at in range(0, size, BATCH):
                out.write(data[at:at + BATCH])
        return time.perf_counter() - begin
    begin = time.perf_counter()

    def read(at):
        with s3.open_input_file(path) as source:
            return len(source.read_at(BATCH, at))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        assert sum(pool.map(read, range(0, size, BATCH))) == size
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    server = os.environ.get("CONVOY_TEST_S3_DIRECT")
    if server is None:
        harness = pathlib.Path(__file__).resolve().parent.parent / "ckpt/s3_server.py"
        return subprocess.run([sys.executable, harness, sys.executable, *sys.argv]).returncode
    program = pathlib.Path(args.build) / "tests/bench/ckpt_remote"
    uri = f"s3://convoy/ours?scheme=http&region=us-east-1&endpoint_override={server}"
    for what in ("up", "down"):
        ours, peer = [], []
        for _ in range(args.runs):
            done = subprocess.run([program, what, uri, str(args.mib), str(args.threads)], check=True, capture_output=True, text=True)
            ours.append(args.mib / float(done.stdout))
            peer.append(args.mib / pyarrow_run(what, server, args.mib, args.threads))
        value, other = statistics.median(ours), statistics.median(peer)
        print(json.dumps({"bench": "ckpt.remote", "case": f"{what}load {args.mib} MiB", "metric": "rate", "value": value, "unit": "MiB/s",
                          "peer": "pyarrow.fs", "peer_value": other, "ratio": value / other, "limit": other,
                          "limit_name": "pyarrow.fs on the same server", "share_of_limit": value / other}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
