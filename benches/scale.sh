#!/usr/bin/env bash
# What studies of 1,000 and 10,000 cells cost beside their computation, each with 1,000 samples and five metrics:
# `benches/scale.sh [CELLS ...]`
#
# A fake worker draws what cells come to (benches/scale.rs); tables, run.json and the report are real. Takes some minutes and
# 4 GB in target/scale, which FOLDER moves elsewhere. Prints a table.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${FOLDER:-target/scale}
cargo build --release --locked --bin calipr
echo '| cells | ms a cell | slowest cell | last writing | peak memory | tables | report, terminal | report, HTML | HTML |'
echo '| --- | --- | --- | --- | --- | --- | --- | --- | --- |'
for cells in "${@:-1000 10000}"; do
    for n in $cells; do
        measured=$(cargo bench --locked --quiet --bench scale -- "$n" "$folder/$n" | tail -1)
        python3 - "$measured" "$folder/$n/results" target/release/calipr <<'PYTHON'
import json, pathlib, subprocess, sys, time

measured, results, calipr = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]


def report(*arguments):
    started = time.monotonic()
    subprocess.run([calipr, "report", str(results), *arguments], check=True, stdout=subprocess.DEVNULL)
    return f"{time.monotonic() - started:.1f} s"


page = results.parent / "report.html"
terminal, html = report(), report("--to", str(page))
tables = sum(path.stat().st_size for path in results.glob("*.parquet"))
print("|", " | ".join([
    f"{measured['cells']:,}", f"{measured['milliseconds a cell']:.1f}", f"{measured['slowest cell, s']:.1f} s",
    f"{measured['last writing, s']:.1f} s", f"{measured['peak GB']:.2f} GB", f"{tables / 1e6:.0f} MB", terminal, html,
    f"{page.stat().st_size / 1e6:.1f} MB",
]), "|")
PYTHON
    done
done
