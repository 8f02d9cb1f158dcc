//! The tables as people read them: Python polars and pandas.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tiny, Workshop};

/// A virtual environment with polars, pandas and matplotlib, made once under target/.
fn python() -> PathBuf {
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = MAKING.lock().unwrap();
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = venv.join("bin/python");
    let ready = venv.join("ready-2");
    if !ready.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "polars",
            "pandas",
            "pyarrow",
            "matplotlib",
        ]));
        std::fs::write(ready, "").unwrap();
    }
    python
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const SCRIPT: &str = r#"
import sys, pandas as pd, polars as pl, pyarrow.parquet as pq

tables = [("cells", 11), ("layers", 210), ("masks", 336), ("metrics", 55), ("samples", 55), ("contrasts", 155), ("settings", 55)]
for name, rows in tables:
    path = f"{sys.argv[1]}/{name}.parquet"
    frame = pl.read_parquet(path)
    assert frame.height == rows, (name, frame.height)
    setting = ["method", "sparsity", "pattern", "calibration"]
    names = {"settings": ["study", "setting", *setting], "contrasts": ["study", "axis", "setting", *setting]}
    names["masks"] = names["contrasts"]
    names = names.get(name, ["study", "cell", *setting, "seed"])
    assert frame.columns[:len(names)] == names, frame.columns
    assert frame.schema["sparsity"] == pl.Float64 and frame.schema["study"] == pl.String
    same = pd.read_parquet(path)
    assert list(same.columns) == frame.columns
    for field in pq.read_schema(path):
        assert field.metadata and field.metadata[b"description"], (name, field.name)
    assert pq.read_schema(path).metadata[b"description"]

metrics = pl.read_parquet(f"{sys.argv[1]}/metrics.parquet")
best = (
    metrics.filter(pl.col("metric") == "perplexity", pl.col("method") != "dense")
    .group_by("method")
    .agg(pl.col("value").min())
    .sort("value")
)
samples = pd.read_parquet(f"{sys.argv[1]}/samples.parquet")
loss = samples.assign(total=samples.loss * samples.positions).groupby("cell")[["total", "positions"]].sum()
loss = loss.total / loss.positions
for row in metrics.filter(pl.col("metric") == "loss").iter_rows(named=True):
    assert abs(loss[row["cell"]] - row["value"]) < 1e-9
layers = pl.scan_parquet(f"{sys.argv[1]}/layers.parquet").filter(pl.col("method") == "sparsegpt").collect()
assert layers["damping"].null_count() == 0 and layers["relative_error"].null_count() == 0
print(best["method"].to_list())
"#;

#[test]
fn polars_and_pandas_read_every_table() {
    let shop = Workshop::new(&Tiny::default());
    shop.succeeds(&["run", "recipe.toml"]);
    let printed = run(Command::new(python()).args(["-c", SCRIPT]).arg(shop.path("results/tiny")));
    assert!(printed.contains("sparsegpt"), "{printed}");
}

#[test]
fn the_example_analyses_a_study_and_draws_its_figures() {
    let shop = Workshop::new(&Tiny::default());
    shop.succeeds(&["run", "recipe.toml"]);
    let figures = shop.path("figures");
    let mut script = Command::new(python());
    let printed = run(script.arg("examples/analysis.py").arg(shop.path("results/tiny")).arg("--out").arg(&figures));
    for section in ["# Which calibration is better", "# Where dense and pruned disagree most", "# Figures"] {
        assert!(printed.contains(section), "{printed}");
    }
    for figure in ["sparsity.png", "calibration.png", "blocks.png"] {
        assert!(std::fs::metadata(figures.join(figure)).unwrap().len() > 5000, "{figure}");
    }
    let output = Command::new(python()).args(["examples/analysis.py", "nowhere"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.lines().count() == 1, "{stderr}");
}

/// What `calipr.read` gives, and says.
const PACKAGE: &str = r#"
import copy, sys
sys.path.insert(0, "python")
import calipr, polars as pl

study = calipr.read(sys.argv[1])
assert study.tables == ["cells", "contrasts", "layers", "masks", "metrics", "samples", "settings"], study.tables
for table in study.tables:
    assert getattr(study, table).equals(pl.read_parquet(f"{sys.argv[1]}/{table}.parquet")), table
    assert getattr(study, table) is getattr(study, table) and table in dir(study)
assert study.run["recipe"]["name"] == "tiny" and "cells, contrasts" in repr(study)
assert copy.copy(study).cells.height == 11

def said(kind, what):
    try:
        what()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind}")

assert "has no table 'cels'; it has cells, " in said(AttributeError, lambda: study.cels)
assert "there is no nowhere/run.json; `calipr run` writes" in said(FileNotFoundError, lambda: calipr.read("nowhere"))
sys.modules["polars"] = None
assert "pip install 'calipr[polars]'" in said(ImportError, lambda: calipr.read(sys.argv[1]).cells)
print("read")
"#;

#[test]
fn the_package_reads_a_study_and_runs_the_program() {
    let shop = Workshop::new(&Tiny::default());
    shop.succeeds(&["run", "recipe.toml"]);
    let printed = run(Command::new(python()).args(["-c", PACKAGE]).arg(shop.path("results/tiny")));
    assert_eq!(printed, "read\n");
    // Where no wheel was installed, the program on the PATH.
    let program = Path::new(env!("CARGO_BIN_EXE_calipr"));
    let mut module = Command::new(python());
    module.args(["-m", "calipr", "--version"]).env("PYTHONPATH", "python").env("PATH", program.parent().unwrap());
    assert_eq!(run(&mut module), concat!("calipr ", env!("CARGO_PKG_VERSION"), "\n"));
    let mut module = Command::new(python());
    let output = module.args(["-m", "calipr"]).env("PYTHONPATH", "python").env("PATH", "").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: the program calipr was not installed"));
}
