"""The exports of a small job, read by what they are for:

  export_check.py perfetto|chrome|kineto|parquet|query|diff|docs CONVOY MAKE_STREAM [PAGE]

The tables are checked against what the job is known to hold; the other formats against the tables. Perfetto's trace processor is
not to be had as a package, so its rules are applied here to the packets that its own descriptors read: incremental state, delta
clocks, defaults, strict nesting. Exit code 77: a package is missing.
"""
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zlib

KIND, CONVOY, MAKE_STREAM = sys.argv[1:4]
STEPS, MICRO, RANKS = 6, 4, 8


def need(name: str):
    try:
        return __import__(name)
    except ImportError as error:
        print(f"skipped: {error}; .ci/setup.sh installs it")
        sys.exit(77)


def convoy(*words, code: int = 0) -> str:
    done = subprocess.run([CONVOY, "trace", *map(str, words)], text=True, capture_output=True, timeout=120,
                          env={**os.environ, "CONVOY_PYTHON": sys.executable})
    assert done.returncode == code, f"convoy trace {words}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
    return done.stdout if code in (0, 1) else done.stderr


def make(path: pathlib.Path, **keys) -> pathlib.Path:
    subprocess.run([MAKE_STREAM, path, *(f"{k}={v}" for k, v in {"steps": STEPS, **keys}.items())], check=True, timeout=60)
    return path


def tables(folder: pathlib.Path, stream: pathlib.Path):
    duckdb = need("duckdb")
    convoy("export", stream, "--parquet", folder / "tables")
    db = duckdb.connect()
    for name in ("operations", "spans", "counters", "ranks", "verdicts"):
        db.execute(f"CREATE VIEW {name} AS SELECT * FROM '{folder}/tables/{name}.parquet'")
    return db


def check_parquet(folder: pathlib.Path) -> None:
    stream = make(folder / "run.trace", hangs=0)
    db = tables(folder, stream)
    one = lambda sql: db.execute(sql).fetchone()
    per_step = MICRO * 2 * 2 + MICRO
    assert one("SELECT count(*), count(DISTINCT rank) FROM operations") == (RANKS * STEPS * per_step, RANKS)
    assert one("SELECT count(*) FROM spans WHERE name = 'step'") == (RANKS * STEPS,)
    assert one("SELECT count(*), sum(host = 'node1'), max(tp + 2 * pp + 4 * dp - rank), min(clock_error_ns) > 0 FROM ranks") == (
        RANKS, RANKS // 2, 0, True)
    # One time base: both hosts begin within a millisecond, though their clocks are 3 s apart.
    low, high = one("SELECT min(t), max(t) FROM (SELECT rank, min(begin_ns) AS t FROM spans GROUP BY rank)")
    assert high - low < 1_000_000, high - low
    assert one("SELECT max(value) FROM counters WHERE name = 'tokens'") == (2048 * STEPS,)
    # Both sides of every collective are there.
    assert one("SELECT count(*) FROM (SELECT \"group\", sequence, count(*) AS n, any_value(group_size) AS size FROM operations "
               "WHERE peer IS NULL GROUP BY ALL) WHERE n != size") == (0,)
    # The same from JSON lines, and for a part.
    convoy("export", make(folder / "run.jsonl", json=1), "--parquet", folder / "json")
    assert one(f"SELECT count(*) FROM (SELECT * FROM operations EXCEPT SELECT * FROM '{folder}/json/operations.parquet')") == (0,)
    convoy("export", stream, "--parquet", folder / "part", "--ranks", "2-3", "--steps", "2-3")
    assert db.execute(f"SELECT DISTINCT rank FROM '{folder}/part/spans.parquet' ORDER BY 1").fetchall() == [(2,), (3,)]
    assert db.execute(f"SELECT DISTINCT value FROM '{folder}/part/spans.parquet' WHERE name = 'step' ORDER BY 1").fetchall() == [(2,), (3,)]
    # What hangs is there, without an end.
    convoy("export", make(folder / "hang.trace", hangs=1), "--parquet", folder / "hang")
    assert db.execute(f"SELECT count(*) FROM '{folder}/hang/operations.parquet' WHERE completed_ns IS NULL").fetchone() == (RANKS,)
    assert "no range" in convoy("export", stream, "--parquet", folder / "no", "--steps", "3-1", code=64)
    assert "say what to write" in convoy("export", stream, code=64)
    assert "nothing of these" in convoy("export", stream, "--parquet", folder / "no", "--ranks", "99", code=64)
    convoy("export", folder / "nothing", "--parquet", folder / "no", code=66)


def packets_of(path: pathlib.Path):
    need("perfetto")
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
    trace = Trace.FromString(path.read_bytes())
    for packet in trace.packet:
        if packet.HasField("compressed_packets"):
            yield from Trace.FromString(zlib.decompress(packet.compressed_packets)).packet
        else:
            yield packet


def perfetto_slices(path: pathlib.Path):
    """(track name, process, name, begin, end, flows, notes) as a trace processor derives them; end None: open."""
    tracks, state, slices, counters, base = {}, {}, [], collections.Counter(), None
    for packet in packets_of(path):
        sequence = packet.trusted_packet_sequence_id
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        if packet.HasField("clock_snapshot") and packet.clock_snapshot.HasField("primary_trace_clock"):
            base = next(c.timestamp for c in packet.clock_snapshot.clocks if c.clock_id == 1)
        if packet.sequence_flags & 1:
            state[sequence] = {"names": {}, "notes": {}, "open": [], "now": None}
        own = state.get(sequence)
        for c in packet.clock_snapshot.clocks:
            if c.clock_id == 64:
                assert c.is_incremental
                own["now"], own["unit"] = c.timestamp * c.unit_multiplier_ns, c.unit_multiplier_ns
        if packet.HasField("trace_packet_defaults"):
            own["clock"] = packet.trace_packet_defaults.timestamp_clock_id
            own["track"] = packet.trace_packet_defaults.track_event_defaults.track_uuid
        for n in packet.interned_data.event_names:
            own["names"][n.iid] = n.name
        for n in packet.interned_data.debug_annotation_names:
            own["notes"][n.iid] = n.name
        if not packet.HasField("track_event"):
            continue
        assert packet.sequence_flags & 2 and own["clock"] == 64, "an event without its state"
        own["now"] += packet.timestamp * own["unit"]
        event = packet.track_event
        if event.type == event.TYPE_COUNTER:
            counters[tracks[own["track"]].name] += 1
        elif event.type in (event.TYPE_SLICE_BEGIN, event.TYPE_INSTANT):
            name = event.name or own["names"][event.name_iid]
            notes = {own["notes"].get(a.name_iid, a.name): a.uint_value or a.string_value for a in event.debug_annotations}
            slices.append([own["track"], name, base + own["now"], None, list(event.flow_ids), notes])
            if event.type == event.TYPE_SLICE_BEGIN:
                own["open"].append(slices[-1])
            else:
                slices[-1][3] = slices[-1][2]
        elif event.type == event.TYPE_SLICE_END:
            own["open"].pop()[3] = base + own["now"]
    process = lambda uuid: tracks[tracks[uuid].parent_uuid].process.process_name if tracks[uuid].parent_uuid else ""
    return [(tracks[t].name, process(t), *rest) for t, *rest in slices], counters


def check_perfetto(folder: pathlib.Path) -> None:
    need("perfetto")
    stream = make(folder / "run.trace")
    db = tables(folder, stream)
    said = json.loads(convoy("export", stream, "--perfetto", folder / "a.pftrace", "--json"))["exports"][0]
    convoy("export", stream, "--perfetto", folder / "plain.pftrace", "--plain")
    slices, counters = perfetto_slices(folder / "a.pftrace")
    assert (slices, counters) == perfetto_slices(folder / "plain.pftrace"), "compressed and plain differ"
    assert said["bytes"] == (folder / "a.pftrace").stat().st_size and said["plain_bytes"] == (folder / "plain.pftrace").stat().st_size
    rank_of = lambda process: int(process.split(" ")[1])
    got = collections.Counter()
    for track, process, name, begin, end, flows, notes in slices:
        if track == "verdicts":
            continue
        got[(rank_of(process), "step" if name.startswith("step ") else name, begin, end)] += 1
    spans = db.execute("SELECT rank, name, begin_ns, end_ns FROM spans").fetchall()
    short = lambda ns: ns // 100 * 100
    assert collections.Counter((r, n, short(b), short(e)) for r, n, b, e in spans) == collections.Counter(
        {k: v for k, v in got.items() if k[1] in {n for _, n, _, _ in spans}}), "spans differ"
    times = db.execute("SELECT rank, started_ns, completed_ns FROM operations").fetchall()
    operations = collections.Counter((r, b, e) for (r, n, b, e), count in got.items() if n not in {x for _, x, _, _ in spans}
                                     for _ in range(count))
    assert collections.Counter((r, short(b), short(e)) for r, b, e in times) == operations, "operations differ"
    # Flows join all ranks of one collective, both sides of one message, and nothing else.
    joined = collections.defaultdict(list)
    for track, process, name, begin, end, flows, notes in slices:
        for flow in flows:
            joined[flow].append((track.split(" ")[0], notes["sequence"], rank_of(process)))
    instances = db.execute("SELECT count(*) FROM (SELECT DISTINCT \"group\", sequence, CASE operation WHEN 'recv' THEN peer "
                           "WHEN 'send' THEN rank END AS sender FROM operations)").fetchone()[0]
    assert len(joined) == instances, (len(joined), instances)
    for members in joined.values():
        assert len(members) == 2 and len({m[:2] for m in members}) == 1 and len({m[2] for m in members}) == 2, members
    assert counters["tokens"] == RANKS * STEPS and counters["link sent bytes to 2"] == STEPS
    assert said["bytes"] / (said["operations"] + said["spans"]) <= 32
    # What hangs stays open.
    said = json.loads(convoy("export", make(folder / "hang.trace", hangs=1), "--perfetto", folder / "h.pftrace", "--json"))["exports"][0]
    slices, _ = perfetto_slices(folder / "h.pftrace")
    assert sum(end is None for _, _, _, _, end, _, _ in slices) == said["unfinished"] == 3 * RANKS
    told = [notes for track, _, _, _, _, _, notes in slices if track == "verdicts"]
    assert len(told) == said["verdicts"] > 0 and all(notes["summary"] and notes["action"] for notes in told)


def check_chrome(folder: pathlib.Path) -> None:
    stream = make(folder / "run.trace")
    convoy("export", stream, "--chrome", folder / "run.json")
    trace = json.loads((folder / "run.json").read_text())
    events = trace["traceEvents"]
    rows = collections.defaultdict(list)
    for e in events:
        assert e["ph"] in "MXC" and isinstance(e["name"], str) and isinstance(e["ts"], (int, float))
        if e["ph"] == "X":
            assert e["dur"] >= 0
            rows[(e["pid"], e["tid"])].append((round(e["ts"] * 1000), -round((e["ts"] + e["dur"]) * 1000)))
    for row in rows.values():  # slices of one row nest
        ends = []
        for begin, end in sorted(row):
            while ends and ends[-1] <= begin:
                ends.pop()
            assert not ends or -end <= ends[-1]
            ends.append(-end)
    db = tables(folder, stream)
    count = lambda category: sum(e.get("cat") == category for e in events)
    assert count("operation") == db.execute("SELECT count(*) FROM operations").fetchone()[0]
    assert count("span") == db.execute("SELECT count(*) FROM spans").fetchone()[0]
    ids = collections.Counter(e["bind_id"] for e in events if "bind_id" in e)
    assert set(ids.values()) == {2}, "both sides of an operation have one bind_id"
    # A file that is cut short is exported up to there, and so is a damaged one, which the exit code tells.
    whole = make(folder / "long.trace", steps=400).read_bytes()
    (folder / "cut.trace").write_bytes(whole[:len(whole) * 2 // 3])
    assert json.loads(convoy("export", folder / "cut.trace", "--chrome", folder / "cut.json", "--json"))["truncated"]
    (folder / "bad.trace").write_bytes(whole[:len(whole) * 2 // 3] + b"XXXXXXXX" + whole[len(whole) * 2 // 3 + 8:])
    assert "checksum" in convoy("export", folder / "bad.trace", "--chrome", folder / "bad.json", code=65)
    for name in ("cut", "bad"):
        assert len(json.loads((folder / f"{name}.json").read_text())["traceEvents"]) > 1000


def union(intervals):
    total, end = 0, None
    merged = []
    for b, e in sorted(intervals):
        if end is None or b > end:
            merged.append([b, e])
            end = e
        else:
            merged[-1][1] = end = max(end, e)
    return merged


def overlap(a, b) -> int:
    return sum(max(0, min(x[1], y[1]) - max(x[0], y[0])) for x in a for y in b)


def check_kineto(folder: pathlib.Path) -> None:
    need("hta")
    import logging
    import warnings
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    from hta.trace_analysis import TraceAnalysis
    stream = make(folder / "run.trace", kernels=1)
    db = tables(folder, stream)
    (folder / "kineto").mkdir()
    (folder / "kineto" / "rank_77.json").write_text("{}")  # of an earlier export
    convoy("export", stream, "--kineto", folder / "kineto")
    assert len(list((folder / "kineto").iterdir())) == RANKS
    analysis = TraceAnalysis(trace_dir=str(folder / "kineto"))
    breakdown = analysis.get_temporal_breakdown(visualize=False).set_index("rank")
    overlaps = analysis.get_comm_comp_overlap(visualize=False).set_index("rank")
    assert sorted(breakdown.index) == list(range(RANKS))
    for rank in range(RANKS):
        rows = lambda sql: db.execute(sql, [rank]).fetchall()
        compute = union(rows("SELECT begin_ns, end_ns FROM spans WHERE name = 'kernel' AND rank = ?"))
        communication = union(rows("SELECT started_ns, completed_ns FROM operations WHERE rank = ?"))
        busy = union(compute + communication)
        length = lambda merged: sum(e - b for b, e in merged)
        total = busy[-1][1] - busy[0][0]
        ours = {"idle_time_pctg": 100 * (1 - length(busy) / total), "compute_time_pctg": 100 * length(compute) / total}
        for name, value in ours.items():
            assert abs(breakdown.loc[rank, name] - value) < 0.5, (rank, name, breakdown.loc[rank, name], value)
        share = 100 * overlap(compute, communication) / length(communication)
        theirs = overlaps.loc[rank, "comp_comm_overlap_pctg"]
        assert abs(theirs - share) < 0.5, (rank, theirs, share)
    idle = analysis.get_idle_time_breakdown(ranks=[0], visualize=False)[0]
    assert not idle.empty
    _, found = analysis.critical_path_analysis(rank=0, annotation="ProfilerStep", instance_id=2)
    assert found, "no critical path"
    # A job on CPUs, without kernels, and one that hangs, open as well.
    for name, keys in {"cpu": {}, "hang": {"hangs": 1}}.items():
        convoy("export", make(folder / f"{name}.trace", **keys), "--kineto", folder / name)
        opened = TraceAnalysis(trace_dir=str(folder / name)).get_temporal_breakdown(visualize=False)
        assert len(opened) == RANKS and (opened["compute_time_pctg"] > 10).all()


def check_query(folder: pathlib.Path) -> None:
    need("duckdb")
    stream = make(folder / "run.trace")
    sql = "SELECT count(*) AS n, sum(duration_ns) AS ns FROM steps"
    asked = json.loads(convoy("query", stream, "--json", sql))
    assert asked["columns"] == ["n", "ns"] and asked["rows"][0][0] == RANKS * STEPS, asked
    convoy("export", stream, "--parquet", folder / "tables")
    assert json.loads(convoy("query", folder / "tables", "--json", sql)) == asked
    assert "operations" in convoy("query", folder / "tables") and "48" in convoy("query", folder / "tables", sql)
    assert "convoy: " in convoy("query", folder / "tables", "SELECT nothing FROM nowhere", code=64)
    assert "holds no tables" in convoy("query", folder, sql, code=66)
    assert "damaged" not in convoy("query", folder / "none", sql, code=66)
    done = subprocess.run([CONVOY, "trace", "query", folder / "tables", sql], text=True, capture_output=True,
                          env={**os.environ, "CONVOY_PYTHON": str(folder / "no-python")})
    assert done.returncode == 69 and "CONVOY_PYTHON" in done.stderr


def check_diff(folder: pathlib.Path) -> None:
    a = make(folder / "a.trace", steps=30)
    again = make(folder / "again.trace", steps=30, seed=5)
    slow = make(folder / "slow.trace", steps=30, seed=6, slow=1.1)
    assert "0 of" in convoy("diff", a, again)
    text = convoy("diff", a, slow, code=1)
    assert "slower" in text and "backward" in text
    found = json.loads(convoy("diff", a, slow, "--json", code=1))["differences"]
    beyond = {(d["what"], d["name"]) for d in found if d["beyond_noise"]}
    assert ("phase", "backward") in beyond and ("phase", "forward") not in beyond, beyond
    assert "too few steps" in convoy("diff", a, slow, "--steps", "1-4")
    assert "holds no steps" in convoy("diff", a, slow, "--steps", "100-200", code=64)
    convoy("diff", a, folder / "none", code=66)


def check_docs(folder: pathlib.Path) -> None:
    """All commands of the page work."""
    need("duckdb")
    for name in ("run", "before", "after"):
        make(folder / f"{name}.trace", steps=10)
    blocks = pathlib.Path(sys.argv[4]).read_text().split("```\n")[1::2]
    assert len(blocks) >= 3
    for block in blocks:
        script = f'set -e\nconvoy() {{ "{os.path.abspath(CONVOY)}" "$@"; }}\n' + block
        done = subprocess.run(["bash", "-c", script], cwd=folder, text=True, capture_output=True, timeout=120,
                              env={**os.environ, "CONVOY_PYTHON": sys.executable})
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"


with tempfile.TemporaryDirectory() as where:
    globals()[f"check_{KIND}"](pathlib.Path(where))
print(f"{KIND}: ok")
