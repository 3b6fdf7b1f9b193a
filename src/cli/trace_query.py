"""SQL over the Parquet files of `convoy trace export --parquet`, with DuckDB: FOLDER SQL table|json"""
import json
import pathlib
import sys


def main() -> int:
    folder, sql, form = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    try:
        import duckdb
    except ImportError:
        print(f"convoy: queries need DuckDB, which {sys.executable} does not have: install it with `pip install duckdb`, "
              "or set CONVOY_PYTHON to a Python that has it", file=sys.stderr)
        return 69
    db = duckdb.connect()
    for file in sorted(folder.glob("*.parquet")):
        quoted = str(file).replace("'", "''")
        db.execute(f'CREATE VIEW "{file.stem}" AS SELECT * FROM read_parquet(\'{quoted}\')')
    if (folder / "spans.parquet").exists():
        db.execute("CREATE VIEW steps AS SELECT rank, value AS step, begin_ns, end_ns, duration_ns FROM spans WHERE name = 'step'")
    if not sql:
        sql = ("SELECT table_name AS \"table\", string_agg(column_name, ', ' ORDER BY ordinal_position) AS columns "
               "FROM information_schema.columns GROUP BY table_name ORDER BY table_name")
    try:
        if form == "json":
            done = db.execute(sql)
            names = [column[0] for column in done.description or []]
            print('{"columns": ' + json.dumps(names) + ', "rows": [', end="")
            first = True
            while rows := done.fetchmany(10000):
                print("".join(("" if first and i == 0 else ", ") + json.dumps(row, default=str) for i, row in enumerate(rows)), end="")
                first = False
            print("]}")
        else:
            relation = db.sql(sql)
            if relation is not None:
                relation.show(max_rows=1000, max_width=100, max_col_width=100)
    except duckdb.Error as error:
        print(f"convoy: {error}", file=sys.stderr)
        return 64
    return 0


try:
    sys.exit(main())
except BrokenPipeError:
    sys.stderr.close()
