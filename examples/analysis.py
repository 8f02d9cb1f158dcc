"""What a study says, in polars, pandas and matplotlib: a file to copy from.

    pip install polars pandas pyarrow matplotlib      # without matplotlib, figures are skipped
    python3 examples/analysis.py results/quickstart [--out FOLDER]

Tested with polars 2.1, pandas 3.1, pyarrow 26.0, matplotlib 3.11, and with 1.43, 2.2, 17.0, 3.8.
The figures are those of Khanal & Capone 2024 (arXiv 2409.11233) and Ji et al. 2024 (arXiv 2410.17711).
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow.parquet as pq

try:
    from matplotlib import pyplot as plt, ticker
except ImportError:
    plt = None

LOWER_IS_BETTER = ["loss", "perplexity", "js_divergence", "kl_divergence"]
PRUNED = pl.col("pattern") != "dense"
DOWNSTREAM = ~pl.col("metric").is_in([*LOWER_IS_BETTER, "top1_agreement"])  # judges answers, not distributions
# As recipes spell it, 0.5 or 2:4: the column `sparsity` is 0.5 for both.
ASKED = pl.when(pl.col("pattern") == "unstructured").then(pl.col("sparsity").cast(pl.String)).otherwise("pattern")


def read(folder: Path, table: str) -> pl.DataFrame:
    path = folder / f"{table}.parquet"
    if not path.is_file():
        sys.exit(f"error: there is no {path}; `calipr run` writes a study's tables into results/NAME")
    try:
        return pl.read_parquet(path).with_columns(asked=ASKED)
    except (OSError, pl.exceptions.PolarsError) as error:
        sys.exit(f"error: {path}: {str(error).splitlines()[0]}")


def print_columns(path: Path) -> None:
    """Every table says itself what its columns mean."""
    for field in pq.read_schema(path):
        unit = field.metadata.get(b"unit", b"").decode()
        print(f"{field.name:12} {field.metadata[b'description'].decode()}{unit and f' ({unit})'}")


def in_polars(metrics: pl.DataFrame) -> pl.DataFrame:
    """A row a cell, a column a metric of a suite."""
    return metrics.with_columns(on=pl.format("{} {}", "suite", "metric")).pivot("on", index="cell", values="value")


def in_pandas(path: Path) -> pd.DataFrame:
    """The same with 95% intervals; a suite of one sample has none."""
    metrics = pd.read_parquet(path)
    interval = [f" [{m.ci_low:.3g}, {m.ci_high:.3g}]" if pd.notna(m.ci_low) else "" for m in metrics.itertuples()]
    metrics["text"] = metrics["value"].map("{:.3g}".format) + interval
    order = list(metrics["cell"].unique())  # of the grid; pivot sorts by name
    wide = metrics.pivot(index=["suite", "cell"], columns="metric", values="text").fillna("")
    return wide.sort_index(key=lambda names: names.map(order.index) if names.name == "cell" else names)


def calibration_verdicts(contrasts: pl.DataFrame) -> pl.DataFrame:
    """How often one calibration set beats another on the same samples, everything else being the same.

    The verdicts are of p-values that are corrected for all such pairs of a suite and a metric.
    """
    by = ["suite", "metric", "calibration", "other_calibration"]
    verdicts = ["better", "worse", "within the margin", "not told apart"]
    count = {verdict: (pl.col("verdict") == verdict).sum() for verdict in verdicts}
    return contrasts.filter(axis="calibration").group_by(by, maintain_order=True).agg(pairs=pl.len(), **count)


def predictors(metrics: pl.DataFrame, fewest: int = 4) -> pl.DataFrame:
    """Spearman's ρ over the pruned cells: 1 where the metric ranks them just as the downstream score does."""
    redundant = (pl.col("metric") == "loss") & (pl.col("metric") == "perplexity").any().over("suite")
    x = metrics.filter(PRUNED, ~DOWNSTREAM, ~redundant)
    y = metrics.filter(PRUNED, DOWNSTREAM).select("cell", score_suite="suite", score="metric", score_value="value")
    sign = pl.when(pl.col("metric").first().is_in(LOWER_IS_BETTER)).then(-1).otherwise(1)
    return (
        x.join(y, on="cell")
        .group_by("score_suite", "score", "suite", "metric")
        .agg(cells=pl.len(), spearman=sign * pl.corr("value", "score_value", method="spearman"))
        .filter(pl.col("cells") >= fewest, pl.col("spearman").is_not_nan())  # NaN: all cells score the same
        .sort("score_suite", "score", -pl.col("spearman"), "suite", "metric")
    )


def print_disagreements(samples: pl.DataFrame, metrics: pl.DataFrame, most: int = 2) -> None:
    """Where the pruned cell that is nearest to dense, the one to ship, differs from it most."""
    for (suite,), rows in samples.group_by("suite", maintain_order=True):
        scores = ["js_divergence", *metrics.filter(suite=suite)["metric"].unique(maintain_order=True), "loss"]
        by = next(score for score in scores if score in rows.columns and rows[score].count() > 0)
        dense = rows.filter(~PRUNED).select("sample", in_dense=by, dense="prediction")
        pairs = rows.filter(PRUNED).join(dense, on="sample").rename({"prediction": "pruned"})
        pairs = pairs.with_columns(apart=(pl.col(by) - pl.col("in_dense")).abs()).sort(-pl.col("apart"), "sample")
        for cell in pairs.group_by("cell").agg(pl.mean("apart")).sort("apart", "cell")["cell"].head(1):
            print(f"\n{suite}: {by} of dense and of {cell}")
            for row in pairs.filter(cell=cell).head(most).iter_rows(named=True):
                print(f"  sample {row['sample']}: {row['in_dense']:.3f} and {row[by]:.3f}")
                for text in ("prompt", "reference", "dense", "pruned"):
                    if row[text] is not None:  # windows have no texts, multiple choice no answers
                        print(f"    {text:9} {' '.join(row[text].split())[-100:]}")


# Figures

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]  # Okabe and Ito, for the colour-blind too
NAMES = {"js_divergence": "JS divergence", "f1": "F1", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
NAMES |= {"acc": "accuracy", "acc_norm": "accuracy (norm)", "acc_bytes": "accuracy (bytes)"}
SERIES = ["method", "calibration"]


def name(suite: str, metric: str) -> str:
    return f"{NAMES.get(metric, metric.replace('_', ' '))} on {suite}"


def in_order(frame: pl.DataFrame) -> list[str]:
    """Sparsities, N:M last. Patterns have no place on a scale of ratios, so every sparsity is a tick of its own."""
    by = [pl.col("pattern") != "unstructured", "sparsity", "asked"]
    return frame.filter(PRUNED).sort(by)["asked"].unique(maintain_order=True).to_list()


def style(frame: pl.DataFrame, method: str, calibration: str | None) -> dict:
    """A colour a method; a marker and a dash a calibration set."""
    if method == "dense":
        return {"color": "0.3", "marker": "X", "label": "dense"}
    methods, sets = (frame.filter(PRUNED)[key].drop_nulls().unique(maintain_order=True).to_list() for key in SERIES)
    i, j = methods.index(method), sets.index(calibration) if calibration else 0  # magnitude looks at no data
    look = {"color": COLOURS[i % 6], "marker": "osD^vP"[j % 6], "linestyle": ["-", "--", ":", "-."][j % 4]}
    return look | {"label": f"{method}, {calibration}" if calibration else method}


def whiskers(frame: pl.DataFrame, suffix: str = "") -> list:
    value, low, high = (frame[key + suffix] for key in ("value", "ci_low", "ci_high"))
    return [(value - low).clip(0).to_numpy(), (high - value).clip(0).to_numpy()]


def log_scale(axis) -> None:
    """For perplexities that lie far apart, with plain numbers: 200, not 2 × 10²."""
    low, high = axis.get_data_interval()
    if high > 3 * low:
        steps = [1, 2, 3, 5, 7] if high < 10 * low else [1, 2, 5] if high < 100 * low else [1]
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_major_locator(ticker.LogLocator(subs=steps))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(ticker.NullLocator())


def subplots(count: int, columns: int = 4, width: float = 2.9):
    rows, columns = -(-count // columns), min(columns, count)
    figure = plt.figure(figsize=(max(4.5, width * columns), 2.4 * rows + 0.5), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def metric_panels(metrics: pl.DataFrame, intrinsic: str, *shape):
    """Axes with the dense model's line, and the rows to draw there: of one intrinsic metric and of downstream scores.

    A row is the mean over seeds, with an interval from the lowest to the highest end of theirs.
    """
    ends = [pl.col(end).fill_null(pl.col("value")) for end in ("ci_low", "ci_high")]
    rows = metrics.group_by(*SERIES, "asked", "pattern", "suite", "metric", maintain_order=True).agg(
        pl.mean("value"), ends[0].min(), ends[1].max()
    )
    pairs = rows.select("suite", "metric").unique(maintain_order=True)
    some = pairs.filter(DOWNSTREAM | (pl.col("metric") == intrinsic)).sort(DOWNSTREAM, maintain_order=True)
    pairs = (pairs if some.is_empty() else some).rows()
    figure, grid = subplots(len(pairs), *shape)
    panels = [(axes, rows.filter(suite=suite, metric=metric)) for axes, (suite, metric) in zip(grid, pairs)]
    for (axes, panel), pair in zip(panels, pairs):
        axes.set_title(name(*pair))
        for dense in panel.filter(~PRUNED).iter_rows(named=True):
            axes.axhspan(dense["ci_low"], dense["ci_high"], color="0.93", zorder=-1)
            axes.axhline(dense["value"], color="0.3", lw=1, ls=(0, (4, 2)), label="dense", zorder=0)
    return figure, [(axes, panel.filter(PRUNED)) for axes, panel in panels]


def draw_sparsity(metrics: pl.DataFrame):
    """Perplexity and every downstream score against sparsity."""
    asked = in_order(metrics)
    if not asked:
        return None
    figure, panels = metric_panels(metrics, "perplexity")
    for axes, panel in panels:
        lines = panel.partition_by(SERIES, maintain_order=True)
        for i, line in enumerate(lines):
            aside = 0.7 * ((i + 0.5) / len(lines) - 0.5)  # side by side, so that no interval hides another
            line = line.with_columns(x=pl.col("asked").replace_strict(asked, range(len(asked))) + aside).sort("x")
            look = style(metrics, *line.select(SERIES).row(0)) | {"lw": 1}
            ratios = line.filter(pattern="unstructured")
            axes.plot(ratios["x"], ratios["value"], **look | {"marker": "", "label": None, "alpha": 0.5})
            axes.errorbar(line["x"], line["value"], whiskers(line), **look | {"linestyle": "", "ms": 3.5})
        axes.set(xlabel="sparsity", xlim=(-0.5, len(asked) - 0.5))
        axes.set_xticks(range(len(asked)), asked)
        if "perplexity" in panel["metric"]:
            log_scale(axes.yaxis)
    return figure


def draw_divergence(metrics: pl.DataFrame):
    """Downstream scores against perplexity and JS divergence, a point a cell: which is the tighter curve?"""
    drawn = predictors(metrics).filter(pl.col("metric").is_in(["perplexity", "loss", "js_divergence"]))
    drawn = drawn.sort("score_suite", "score", "suite", pl.col("metric") == "js_divergence")
    if drawn.is_empty():
        return None
    figure, grid = subplots(drawn.height, drawn.select("suite", "metric").n_unique(), 2.6)
    for axes, of in zip(grid, drawn.iter_rows(named=True)):
        x = metrics.filter(suite=of["suite"], metric=of["metric"])
        y = metrics.filter(suite=of["score_suite"], metric=of["score"])
        points = x.join(y, on="cell", suffix="_y", maintain_order="left")
        for series, cells in points.group_by(SERIES, maintain_order=True):
            look = style(metrics, *series) | {"linestyle": "", "ms": 5, "mec": "white", "mew": 0.4, "lw": 0.6}
            axes.errorbar(cells["value"], cells["value_y"], whiskers(cells, "_y"), whiskers(cells), capsize=0, **look)
        axes.set_xlabel(name(of["suite"], of["metric"]))
        axes.set_ylabel(name(of["score_suite"], of["score"]).replace(" on ", "\non "))
        axes.set_title(f"rank agreement ρ = {of['spearman']:.2f}", fontsize=8)
        if of["metric"] == "perplexity":
            log_scale(axes.xaxis)
    return figure


def draw_calibration(metrics: pl.DataFrame):
    """What calibration data does: a group of bars a method and sparsity."""
    methods, sets = (metrics.drop_nulls("calibration")[key].unique(maintain_order=True).to_list() for key in SERIES)
    if len(sets) < 2:
        return None
    groups = [(method, asked) for asked in in_order(metrics) for method in methods]
    width = max(2.9, 0.7 * len(groups))
    figure, panels = metric_panels(metrics, "js_divergence", max(1, int(12 / width)), width)
    for axes, panel in panels:
        for i, calibration in enumerate(sets):
            bars = panel.filter(calibration=calibration)
            x = [groups.index(group) + 0.8 * ((i + 0.5) / len(sets) - 0.5) for group in bars["method", "asked"].rows()]
            look = {"color": COLOURS[-1 - i % 6], "edgecolor": "black", "lw": 0.5, "label": calibration}
            axes.bar(x, bars["value"], 0.8 / len(sets), yerr=whiskers(bars), error_kw={"lw": 0.8}, **look)
        axes.set_xticks(range(len(groups)), ["\n".join(group) for group in groups])
    return figure


def draw_blocks(layers: pl.DataFrame):
    """What pruning does to the outputs of every block's linears, and the zeros it leaves there."""
    if layers.is_empty():
        return None
    weights = pl.col("rows") * pl.col("columns")
    blocks = layers.group_by(*SERIES, "asked", "block", maintain_order=True).agg(
        pl.mean("relative_error"), achieved_sparsity=(pl.col("achieved_sparsity") * weights).sum() / weights.sum()
    )
    drawn = [key for key in ("relative_error", "achieved_sparsity") if blocks[key].count() > 0]
    pairs = [(key, asked) for key in drawn for asked in in_order(layers)]
    figure, grid = subplots(len(pairs), max(2, len(pairs) // len(drawn)))
    for axes, (key, asked) in zip(grid, pairs):
        lines = blocks.filter(asked=asked).drop_nulls(key).partition_by(SERIES, maintain_order=True)
        for i, line in enumerate(lines):
            look = style(layers, *line.select(SERIES).row(0)) | {"marker": "", "lw": 1}
            axes.plot([], [], **look)  # for the legend
            wide = 1 if key == "relative_error" else len(lines) - i  # methods that prune evenly lie on each other
            axes.plot(line["block"], line[key], **look | {"label": None, "lw": wide})
        axes.set(title=f"sparsity {asked}", xlabel="block", ylabel=key.replace("_", " "))
        axes.set_ylim(0, 1 if key == "achieved_sparsity" else None)
    return figure


def draw(out: Path, metrics: pl.DataFrame, layers: pl.DataFrame) -> None:
    plt.switch_backend("Agg")  # files only, no window
    look = {"font.size": 8, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}
    plt.rcParams.update(look | {"errorbar.capsize": 2, "savefig.dpi": 200})
    out.mkdir(parents=True, exist_ok=True)
    for file, figure, needs in [
        ("sparsity.png", draw_sparsity(metrics), "a pruned cell"),
        ("divergence.png", draw_divergence(metrics), "scores that are not all alike of four pruned cells, beside perplexity or divergence"),
        ("calibration.png", draw_calibration(metrics), "two calibration sets"),
        ("blocks.png", draw_blocks(layers), "a pruned cell"),
    ]:
        if not figure:
            print(f"{file} is skipped: it needs {needs}")
            continue
        found = [axes.get_legend_handles_labels() for axes in figure.axes]
        legend = {label: handle for handles, labels in found for handle, label in zip(handles, labels)}
        columns = max(1, int(figure.get_figwidth() / (0.6 + 0.07 * max(map(len, legend)))))  # inches of a label
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=columns, frameon=False)
        figure.savefig(out / file)
        print(out / file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables and figures of a study.")
    parser.add_argument("results", type=Path, help="folder of the study's tables, such as results/quickstart")
    parser.add_argument("--out", type=Path, help="folder for the figures; by default RESULTS/figures")
    args = parser.parse_args()
    names = ["metrics", "contrasts", "cells", "layers", "samples"]
    metrics, contrasts, cells, layers, samples = (read(args.results, table) for table in names)
    for cell, error in cells.filter(status="failed")["cell", "error"].rows():
        print(f"{cell} failed: {error}")
    if metrics.is_empty():
        sys.exit(f"error: no cell of {args.results} is done")

    pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=1000, float_precision=4)
    pl.Config(tbl_formatting="ASCII_MARKDOWN", tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True)
    print("# Columns of metrics.parquet\n")
    print_columns(args.results / "metrics.parquet")
    print("\n# Cells and metrics, polars\n", in_polars(metrics), sep="\n")
    print("\n# Cells and metrics, pandas\n", in_pandas(args.results / "metrics.parquet").to_string(), sep="\n")
    print("\n# Which calibration is better\n", calibration_verdicts(contrasts), sep="\n")
    print("\n# Which metrics predict downstream scores\n", predictors(metrics), sep="\n")
    print("\n# Where dense and pruned disagree most")
    print_disagreements(samples, metrics)
    print("\n# Figures\n")
    if plt is None:
        print("skipped: they need matplotlib (pip install matplotlib)")
        return
    try:
        draw(args.out or args.results / "figures", metrics, layers)
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
