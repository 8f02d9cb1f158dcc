//! The schemas of all tables, in one place: names, types, units and descriptions.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::metrics::Metric;

/// A column: its name, type, whether it may be null, unit ("" where it has none) and description.
fn field(name: &str, kind: DataType, nullable: bool, unit: &str, description: &str) -> Field {
    let mut metadata = HashMap::from([("description".to_owned(), description.to_owned())]);
    if !unit.is_empty() {
        metadata.insert("unit".to_owned(), unit.to_owned());
    }
    Field::new(name, kind, nullable).with_metadata(metadata)
}

const TEXT: DataType = DataType::Utf8;
const REAL: DataType = DataType::Float64;
const COUNT: DataType = DataType::UInt64;
const FLAG: DataType = DataType::Boolean;

/// What a list of values of this type has in each place: never null.
pub fn element(kind: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", kind, false))
}

/// A list of values of this type.
fn list(kind: DataType) -> DataType {
    DataType::List(element(kind))
}

/// The columns that say which cell a row belongs to, the same in every table.
fn cell_columns() -> Vec<Field> {
    vec![
        study(),
        field("cell", TEXT, false, "", "name of the cell, unique in its study"),
        field("method", TEXT, false, "", "pruning method, dense, or checkpoint"),
        field("sparsity", REAL, true, "", "fraction of weights asked to be zero; null of a checkpoint"),
        field("pattern", TEXT, false, "", "dense, checkpoint, unstructured, or N:M"),
        field("calibration", TEXT, true, "", "calibration set; null where there is none"),
        field(
            "seed",
            COUNT,
            true,
            "",
            "seed that the calibration windows were drawn by; null where the method needs none",
        ),
    ]
}

/// A table of cells.
fn schema(description: &str, own: Vec<Field>) -> SchemaRef {
    described(description, cell_columns().into_iter().chain(own).collect())
}

fn described(description: &str, fields: Vec<Field>) -> SchemaRef {
    let metadata = HashMap::from([("description".to_owned(), description.to_owned())]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// `metrics.parquet`
pub fn metrics() -> SchemaRef {
    let mut own = measured_columns();
    own.extend([
        field(
            "ci_low",
            REAL,
            true,
            "",
            "lower end of the 95% interval of value over samples; null where they carry none",
        ),
        field("ci_high", REAL, true, "", "upper end of that interval"),
        field(
            "n",
            COUNT,
            false,
            "samples",
            "windows or rows of the suite; of a judge, those whose answers were judged",
        ),
        field("dense", REAL, false, "", "the metric of the dense model"),
    ]);
    own.extend(difference_columns("value - dense"));
    schema("one row a cell, suite and metric", own)
}

/// `settings.parquet`
pub fn settings() -> SchemaRef {
    let mut fields = vec![study()];
    fields.extend(setting_columns(""));
    fields.extend(measured_columns());
    fields.extend([
        field("spread", REAL, true, "", "standard deviation of value over seeds; null with one seed"),
        field(
            "ci_low",
            REAL,
            true,
            "",
            "lower end of the 95% interval of value, over samples and, where there are several, over seeds; null where \
             they carry none",
        ),
        field("ci_high", REAL, true, "", "upper end of that interval"),
        field(
            "n",
            COUNT,
            false,
            "samples",
            "windows or rows of the suite; of a judge, those whose answers were judged",
        ),
        field(
            "seeds",
            COUNT,
            true,
            "cells",
            "seeds that value is the mean of; null where the method draws no calibration",
        ),
    ]);
    described(
        "one row a setting (cells that differ only in the seed), suite and metric; value is the mean over seeds",
        fields,
    )
}

/// `published.parquet`
pub fn published() -> SchemaRef {
    let mut fields = vec![study()];
    fields.extend(setting_columns(""));
    fields.extend([
        field(
            "seed",
            COUNT,
            true,
            "",
            "seed of the cell, where the figure is of a single one; null where it is of a setting",
        ),
        field("suite", TEXT, false, "", "evaluation suite"),
    ]);
    fields.extend(metric_columns());
    fields.extend([
        field("model", TEXT, false, "", "model that the published figure is of"),
        field("published", REAL, false, "", "the published figure"),
        field("published_spread", REAL, true, "", "what the paper gives behind ±; null where it gives nothing"),
        field("value", REAL, true, "", "the metric as this study found it; null where the cell is not done"),
        field(
            "ci_low",
            REAL,
            true,
            "",
            "lower end of the 95% interval of value, over samples and, of settings with several, over seeds; null where \
             they carry none",
        ),
        field("ci_high", REAL, true, "", "upper end of that interval"),
        field("delta", REAL, true, "", "value - published"),
        field("within", FLAG, true, "", "whether published lies between ci_low and ci_high; null where there are none"),
        field("where", TEXT, false, "", "where the figure stands"),
        field("note", TEXT, true, "", "what else is said of it"),
    ]);
    described("one row a published figure, in the order of the recipe", fields)
}

/// `contrasts.parquet`
pub fn contrasts() -> SchemaRef {
    let mut fields = vec![
        study(),
        field(
            "axis",
            TEXT,
            false,
            "",
            "in what the two differ: dense (one is the dense model), method, calibration, sparsity, checkpoint (one is a \
             checkpoint)",
        ),
    ];
    fields.extend(setting_columns(""));
    fields.extend(setting_columns("other_"));
    fields.push(field("suite", TEXT, false, "", "evaluation suite"));
    fields.extend(metric_columns());
    fields.extend([
        field(
            "n",
            COUNT,
            false,
            "samples",
            "windows or rows of the suite, the same of both; of a judge, those where both were judged",
        ),
        field("seeds", COUNT, true, "cells", "seeds of setting; null where the method draws no calibration"),
        field("other_seeds", COUNT, true, "cells", "seeds of other"),
        field("value", REAL, false, "", "the metric of setting, mean over seeds"),
        field("other_value", REAL, false, "", "the metric of other, mean over seeds"),
    ]);
    fields.extend(difference_columns("value - other_value"));
    fields.extend([
        field("p_adjusted", REAL, true, "", "p_value by Holm's correction within the family"),
        field(
            "margin",
            REAL,
            false,
            "",
            "differences smaller than this count as none, as the recipe has it; of perplexity a difference of logarithms",
        ),
        field("p_margin", REAL, true, "", "p-value of a difference at least as large as the margin (two one-sided tests)"),
        field("p_margin_adjusted", REAL, true, "", "p_margin by Holm's correction within the family"),
        field(
            "verdict",
            TEXT,
            false,
            "",
            "of setting beside other: better, worse, within the margin, or not told apart; by the adjusted p-values at 0.05",
        ),
        field("needed", COUNT, true, "samples", "where n is too few to tell any difference: how many could; else null"),
        field("family", TEXT, false, "", "the comparisons that the p-values are adjusted for, and how many these are"),
    ]);
    described("one row a pair of settings that differ in one thing, suite and metric; paired on samples", fields)
}

fn study() -> Field {
    field("study", TEXT, false, "", "name of the study")
}

/// The columns that say what a setting is; the first is called `setting`, or `other` where the others begin with that.
fn setting_columns(prefix: &str) -> Vec<Field> {
    let name = if prefix.is_empty() { "setting" } else { prefix.trim_end_matches('_') };
    let column = |of: &str| format!("{prefix}{of}");
    vec![
        field(name, TEXT, false, "", "name of the setting, unique in its study"),
        field(&column("method"), TEXT, false, "", "pruning method, dense, or checkpoint"),
        field(&column("sparsity"), REAL, true, "", "fraction of weights asked to be zero; null of a checkpoint"),
        field(&column("pattern"), TEXT, false, "", "dense, checkpoint, unstructured, or N:M"),
        field(&column("calibration"), TEXT, true, "", "calibration set; null where there is none"),
    ]
}

/// The columns that say what a metric is.
fn metric_columns() -> Vec<Field> {
    vec![
        field(
            "metric",
            TEXT,
            false,
            "",
            "loss and divergences in nats, perplexity, judge_score from 1 to 10; all others are fractions",
        ),
        field("metric_family", TEXT, false, "", "what the metric is made of: language, text, choice or judge"),
        field("higher_is_better", FLAG, false, "", "whether more of the metric is better"),
    ]
}

/// What was measured.
fn measured_columns() -> Vec<Field> {
    let mut fields = vec![field("suite", TEXT, false, "", "evaluation suite")];
    fields.extend(metric_columns());
    fields.push(field("value", REAL, false, "", "the metric over all samples of the suite"));
    fields
}

/// A difference, and how sure it is.
fn difference_columns(delta: &str) -> Vec<Field> {
    vec![
        field("delta", REAL, false, "", delta),
        field(
            "delta_low",
            REAL,
            true,
            "",
            "lower end of the 95% interval of delta, paired on samples; null where they carry none",
        ),
        field("delta_high", REAL, true, "", "upper end of that interval"),
        field("p_value", REAL, true, "", "two-sided p-value of no difference, by itself"),
    ]
}

/// `cells.parquet`
pub fn cells() -> SchemaRef {
    schema(
        "one row a cell",
        vec![
            field("status", TEXT, false, "", "done or failed"),
            field("error", TEXT, true, "", "what failed"),
            field("achieved_sparsity", REAL, true, "", "fraction of zeros among the weights of all linears"),
            field(
                "from_cache",
                FLAG,
                false,
                "",
                "whether an earlier run computed all of it: then what follows, which tells of the last run, is null",
            ),
            field(
                "seconds_calibrate",
                REAL,
                true,
                "s",
                "reading weights, statistics, calibration windows through the blocks",
            ),
            field("seconds_prune", REAL, true, "s", "the method itself"),
            field("seconds_forward", REAL, true, "s", "suites through the blocks, and output errors"),
            field("seconds_score", REAL, true, "s", "logits and scores"),
            field("seconds_generate", REAL, true, "s", "generating answers"),
            field("seconds", REAL, true, "s", "all of these"),
            field("tokens_per_second", REAL, true, "tokens/s", "generated tokens; null where nothing was generated"),
            field(
                "peak_bytes",
                COUNT,
                true,
                "bytes",
                "most memory the process had held when the cell ended; null where the system does not tell",
            ),
            field("device", TEXT, true, "", "where it was computed"),
            field(
                "device_peak_bytes",
                COUNT,
                true,
                "bytes",
                "most memory of the device that the cell held at once; null on the CPU",
            ),
            field(
                "batch_tokens",
                COUNT,
                true,
                "tokens",
                "most tokens that went through a block at once; fewer than usual where a device's memory did not suffice",
            ),
        ],
    )
}

/// `layers.parquet`
pub fn layers() -> SchemaRef {
    schema(
        "one row a weight matrix that pruning may touch",
        vec![
            field("block", COUNT, false, "", "decoder block, from 0"),
            field(
                "linear",
                TEXT,
                false,
                "",
                "q, k, v, o, gate, up or down; qkv and gate_up where these are one matrix; experts.N.up, shared.up and so on",
            ),
            field("rows", COUNT, false, "", "outputs"),
            field("columns", COUNT, false, "", "inputs"),
            field("achieved_sparsity", REAL, false, "", "fraction of zeros"),
            field("skipped", FLAG, false, "", "whether the recipe's prune.skip leaves it dense"),
            field(
                "relative_error",
                REAL,
                true,
                "",
                "|X(W-W')^T|^2 / |XW^T|^2 on what W' reads in the pruned model, X, of up to 256 tokens \
                 of error_suite, the same in every cell; null where there are none",
            ),
            field("error_suite", TEXT, true, "", "suite that the error was measured on; null where none is scored"),
            field(
                "damping",
                REAL,
                true,
                "",
                "fraction of the mean diagonal that was added to the Gram matrix; null where the method has none",
            ),
            field(
                "routed_tokens",
                COUNT,
                true,
                "tokens",
                "calibration tokens that were routed to the expert, which below 32 is pruned from the statistic of all; null \
                 where it is no expert's, or the method looks at no inputs",
            ),
            field("seconds", REAL, false, "s", "the method itself"),
        ],
    )
}

/// `masks.parquet`
pub fn masks() -> SchemaRef {
    let mut fields = vec![
        study(),
        field(
            "axis",
            TEXT,
            false,
            "",
            "in what the two differ: calibration, seed (setting and other are the same), method (on the same windows, where \
             both look at any)",
        ),
    ];
    fields.extend(setting_columns(""));
    fields.extend(setting_columns("other_"));
    fields.extend([
        field(
            "pairs",
            COUNT,
            false,
            "pairs of cells",
            "pairs that overlap and chance are over: every seed of one with every seed of the other; by method, equal seeds; by \
             seed, every two",
        ),
        field("block", COUNT, false, "", "decoder block, from 0"),
        field("linear", TEXT, false, "", "weight matrix, as layers.parquet calls it; none that prune.skip leaves dense"),
        field("weights", COUNT, false, "weights", "weights of the matrix"),
        field(
            "compared",
            COUNT,
            false,
            "weights",
            "how many of these are compared, the same in every cell: all, or a sample of 65536 from all parts of the matrix \
             (fewer where a block has more than 64 matrices)",
        ),
        field(
            "overlap",
            REAL,
            true,
            "",
            "share of kept weights that both keep: |A and B| / ((|A| + |B|) / 2) of the weights A and B that are not zero; null \
             where nothing is kept",
        ),
        field(
            "chance",
            REAL,
            true,
            "",
            "overlap that is expected where neither choice knows of the other: (|A| |B| / compared) / ((|A| + |B|) / 2), the share \
             of weights that is kept",
        ),
    ]);
    described(
        "one row a pair of settings that share method and sparsity (or sparsity and calibration), or a setting with several \
         seeds, and weight matrix that both prune: how many of the weights that they keep are the same",
        fields,
    )
}

/// The metrics that a sample has by itself, in the order of their columns: all but those that another says as well, as
/// loss does perplexity.
pub fn sample_metrics() -> impl Iterator<Item = Metric> {
    Metric::all().filter(|metric| metric.finding() == *metric)
}

/// `samples.parquet`
pub fn samples() -> SchemaRef {
    let mut own = vec![
        field("suite", TEXT, false, "", "evaluation suite"),
        field("sample", COUNT, false, "", "window or row of the suite, from 0"),
        field("prompt", TEXT, true, "", "what the model read; null for windows"),
        field("reference", TEXT, true, "", "what it should answer, the first of several; null for windows"),
        field("prediction", TEXT, true, "", "what it answered; null where nothing was generated"),
        field("choices", list(TEXT), true, "", "the answers to choose from; null where the row has none"),
        field(
            "answer",
            COUNT,
            true,
            "",
            "the right one of `choices`, from 0, the first of several; null where there are none",
        ),
        field(
            "log_likelihoods",
            list(REAL),
            true,
            "nats",
            "of each of `choices`, of a row without them of its target, summed over its tokens; null where no metric of the \
             suite is of them",
        ),
        field(
            "chosen",
            COUNT,
            true,
            "",
            "the one of `choices`, from 0, with the largest of `log_likelihoods`, not divided by any length: what acc \
             counts; of equal ones the first; null where they are not compared",
        ),
        field("positions", COUNT, true, "tokens", "tokens that loss, divergences and agreement are the mean of"),
    ];
    own.extend(sample_metrics().map(|metric| {
        let description = format!("{} of the sample; null where the suite does not need it", metric.as_str());
        field(metric.as_str(), REAL, true, metric.unit(), &description)
    }));
    schema("one row a cell, suite and sample", own)
}
