"""Makes fixtures of rows: what Python's own programs write, and what they read of it.

    pip install pandas pyarrow
    python tests/scripts/rows.py

types.parquet has a column a type, types.json what pyarrow's to_pylist gives, printed where JSON has no such value.
files_of_rows.json has files of JSON and CSV, each with the rows that json, pandas or datasets read of it.
"""

import datetime as dt, decimal, io, json, math, pathlib, random

import pandas as pd, pyarrow as pa, pyarrow.parquet as pq

here = pathlib.Path(__file__).parent.parent / "fixtures"

# ---- Parquet
t = dt.datetime(2024, 2, 29, 12, 34, 56, 250000)
berlin = dt.timezone(dt.timedelta(hours=2))
columns = {
    "text": pa.array(["a", None, "ü\n", ""]),
    "large": pa.array(["a", None, "b", ""], pa.large_string()),
    "view": pa.array(["a", None, "a string longer than twelve bytes", ""], pa.string_view()),
    "words": pa.array(["yes", None, "no", "yes"]).dictionary_encode(),
    "no_words": pa.array([None] * 4, pa.string()).dictionary_encode(),
    "bytes": pa.array([b"a", None, "ü".encode(), b""], pa.binary()),
    "no_utf8": pa.array([b"\xff\xfe", None, b"fine", b""], pa.binary()),
    "fixed": pa.array([b"ab", None, b"cd", b"ef"], pa.binary(2)),
    "large_bytes": pa.array([b"a", None, b"b", b""], pa.large_binary()),
    "truth": pa.array([True, None, False, True]),
    **{f"int{n}": pa.array([2 ** (n - 1) - 1, None, -(2 ** (n - 1)), 0], getattr(pa, f"int{n}")()) for n in (8, 16, 32, 64)},
    **{f"uint{n}": pa.array([2**n - 1, None, 0, 1], getattr(pa, f"uint{n}")()) for n in (8, 16, 32, 64)},
    "half": pa.array([1.5, None, -2.0, 65504.0], pa.float16()),
    "float": pa.array([0.1, None, -2.0, 1e10], pa.float32()),
    "double": pa.array([0.1, None, math.nan, math.inf]),
    "minus": pa.array([-math.inf, None, 1.0, 2.5]),
    "nothing": pa.nulls(4),
    "date": pa.array([t.date(), None, dt.date(1970, 1, 1), dt.date(2000, 12, 31)]),
    "date64": pa.array([t.date(), None, dt.date(1970, 1, 1), dt.date(2000, 12, 31)], pa.date64()),
    "moment": pa.array([t, None, t.replace(microsecond=0), t.replace(microsecond=1)], pa.timestamp("us")),
    "second": pa.array([t.replace(microsecond=0), None, dt.datetime(1970, 1, 1), dt.datetime(1960, 1, 1)], pa.timestamp("s")),
    "milli": pa.array([t, None, dt.datetime(1970, 1, 1), dt.datetime(1960, 1, 1)], pa.timestamp("ms")),
    "zoned": pa.array([t.replace(tzinfo=dt.timezone.utc), None, t.replace(tzinfo=berlin), t.replace(tzinfo=berlin)], pa.timestamp("us", "UTC")),
    "hours": pa.array([t.time(), None, dt.time(0, 0), dt.time(23, 59, 59)], pa.time64("us")),
    "seconds": pa.array([dt.time(1, 2, 3), None, dt.time(0, 0), dt.time(23, 59, 59)], pa.time32("s")),
    "price": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-0.01"), decimal.Decimal("100.00")], pa.decimal128(10, 2)),
    "large_price": pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("-12345678901234567890123456789012345678901.5"), decimal.Decimal(0)], pa.decimal256(60, 1)),
    "whole": pa.array([decimal.Decimal("15"), None, decimal.Decimal("-1"), decimal.Decimal("0")], pa.decimal128(20, 0)),
    "list": pa.array([["a", None], None, [], ["b"]]),
    "lists": pa.array([[[1], []], None, [], [[2, 3], None]]),
    "large_list": pa.array([[1], None, [], [2, 3]], pa.large_list(pa.int64())),
    "pair": pa.array([[1, 2], None, [3, 4], [5, None]], pa.list_(pa.int64(), 2)),
    "struct": pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}, {"a": 2, "b": []}]),
    "turns": pa.array([[{"role": "user", "content": "hi", "calls": None}], None, [], [{"role": "a", "content": None, "calls": [{"n": 1}]}]]),
    "map": pa.array([[("a", 1), ("b", None)], None, [], [("c", 2)]], pa.map_(pa.string(), pa.int64())),
}
table = pa.table(columns)
pq.write_table(table, here / "types.parquet", row_group_size=3)


def printed(value):
    match value:
        case float() if not math.isfinite(value):
            return "no value: " + ("NaN" if value != value else "Infinity" if value > 0 else "-Infinity")
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return "no value: bytes (Parquet's BYTE_ARRAY without the STRING annotation) that are no UTF-8"
        case list() | tuple():
            return [printed(v) for v in value]
        case dict():
            return {k: printed(v) for k, v in value.items()}
        case dt.date() | dt.time() | decimal.Decimal():
            return str(value)
    return value


rows = [printed(r) for r in pq.read_table(here / "types.parquet").to_pylist()]
json.dump(rows, open(here / "types.json", "w"), ensure_ascii=False, indent=0)

# ---- JSON and CSV
draw = random.Random(3)
alphabet = ["a", "b", "ü", "日", "𝄞", '"', "\\", "\n", "\t", "/", " ", "{", "]", ",", "NaN", "-Infinity", "1", "\u2028", "'", "%"]
word = lambda: "".join(draw.choices(alphabet, k=draw.randint(0, 8)))


def value(depth=2):
    kinds = [word, word, lambda: draw.randint(-9, 9), lambda: 2**63 + draw.randint(0, 9), lambda: round(draw.uniform(-5, 5), 3), lambda: draw.choice([True, False, None]), lambda: 1e-7]
    if depth:
        kinds += [lambda: [value(depth - 1) for _ in range(draw.randint(0, 3))], lambda: {word(): value(depth - 1) for _ in range(draw.randint(0, 3))}]
    return draw.choice(kinds)()


files = []


def file(kind, content, rows):
    files.append({"name": f"f{len(files)}.{kind}", "content": content, "rows": rows})


def held(value):
    """As calipr holds what JSON does not: NaN and infinities by a mark, integers beyond 64 bits by their digits."""
    match value:
        case float() if not math.isfinite(value):
            return "\0\ufdd0" + ("NaN" if value != value else "Infinity" if value > 0 else "-Infinity")
        case bool():
            return value
        case int() if not -(2**63) <= value < 2**64:
            return str(value)
        case list():
            return [held(v) for v in value]
        case dict():
            return {k: held(v) for k, v in value.items()}
    return value


odd = lambda: draw.choice([math.nan, math.inf, -math.inf, 10**30, -(10**20), 2**64, 1.5, [math.nan, {"x": -math.inf}]])
for i in range(40):
    rows = [{"text": word() or "x", **{word() + str(j): value() for j in range(draw.randint(0, 3))}, **({"odd": odd()} if i % 3 == 0 else {})} for _ in range(draw.randint(1, 4))]
    ascii, separators = draw.random() < 0.5, draw.choice([None, (",", ":")])
    dump = lambda x, **k: json.dumps(x, ensure_ascii=ascii, separators=separators, **k)
    end, mark = draw.choice(["\n", "\r\n", "\n\n", " \n"]), draw.choice(["", "", "\ufeff"])
    expected = [held(r) for r in rows]
    kind = draw.choice(["json", "jsonl"])
    file(kind, mark + end.join(map(dump, rows)) + draw.choice(["", end]), expected)
    file(kind, mark + draw.choice(["", " ", "\n"]) + dump(rows, indent=draw.choice([None, 1, 4])) + draw.choice(["", end]), expected)
    if len(rows) > 1 or not any(isinstance(v, (list, dict)) for v in rows[0].values()):
        file(kind, mark + end.join(dump(r, indent=2) for r in rows), expected)
for i in range(15):  # pandas
    n = draw.randint(1, 12)
    frame = pd.DataFrame({"text": [word() or "x" for _ in range(n)], "n": [draw.randint(0, 99) for _ in range(n)], "label": [draw.choice(["a", "b", None]) for _ in range(n)]})
    expected = json.loads(frame.to_json(orient="records"))
    for orient in ("records", "split", "index", "columns"):
        file("json", frame.to_json(orient=orient, indent=draw.choice([0, 2]), force_ascii=draw.random() < 0.5), expected)
    file("jsonl", frame.to_json(orient="records", lines=True), expected)
    file("json", frame.to_json(orient="table", index=False), expected)
    columns = frame.to_dict(orient="list")
    file("json", json.dumps(columns), [held(dict(zip(columns, row))) for row in zip(*columns.values())])
    for kind, sep in (("csv", ","), ("tsv", "\t")):
        text = frame.to_csv(index=False, sep=sep)
        read = pd.read_csv(io.StringIO(text), sep=sep, dtype=str).astype(object)
        file(kind, text, json.loads(read.where(read.notna(), None).to_json(orient="records")))
for texts in (["one", "two"], ["{not an object}"]):
    file("json", json.dumps(texts), [{"text": t} for t in texts])
json.dump(files, open(here / "files_of_rows.json", "w"), ensure_ascii=False, indent=0)
print(len(files), "files")
