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
        field("study", TEXT, false, "", "name of the study"),
        field("cell", TEXT, false, "", "name of the cell, unique in its study"),
        field("method", TEXT, false, "", "pruning method, or dense"),
        field("sparsity", REAL, false, "", "fraction of weights asked to be zero"),
        field("pattern", TEXT, false, "", "dense, unstructured, or N:M"),
        field("calibration", TEXT, true, "", "calibration set; null where the method needs none"),
        field(
            "seed",
            COUNT,
            true,
            "",
            "seed that the calibration windows were drawn by; null where the method needs none",
        ),
    ]
}

fn schema(description: &str, own: Vec<Field>) -> SchemaRef {
    let fields: Vec<Field> = cell_columns().into_iter().chain(own).collect();
    let metadata = HashMap::from([("description".to_owned(), description.to_owned())]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// `metrics.parquet`
pub fn metrics() -> SchemaRef {
    schema("one row a cell, suite and metric", value_columns("dense", "the metric of the dense model"))
}

/// `contrasts.parquet`
pub fn contrasts() -> SchemaRef {
    let mut own = vec![field("other", TEXT, false, "", "the calibration set that it is compared with")];
    own.extend(value_columns("other_value", "the metric of the same pruning, calibrated on the other set"));
    schema("one row a pair of cells that differ only in their calibration set, suite and metric", own)
}

/// The columns of a metric beside another model's, whose value stands in the column `other`.
fn value_columns(other: &str, of_other: &str) -> Vec<Field> {
    vec![
        field("suite", TEXT, false, "", "evaluation suite"),
        field("metric", TEXT, false, "", "loss and divergences in nats, perplexity; all others are fractions"),
        field("value", REAL, false, "", "the metric over all samples of the suite"),
        field("ci_low", REAL, true, "", "lower end of the 95% bootstrap interval over samples; null with one sample"),
        field("ci_high", REAL, true, "", "upper end of that interval"),
        field("n", COUNT, false, "samples", "windows or rows of the suite"),
        field(other, REAL, false, "", of_other),
        field("delta", REAL, false, "", &format!("value - {other}")),
        field(
            "delta_low",
            REAL,
            true,
            "",
            "lower end of the 95% interval of delta, both models on the same drawn samples",
        ),
        field("delta_high", REAL, true, "", "upper end of that interval"),
        field("p_value", REAL, true, "", "two-sided paired bootstrap p-value of no difference"),
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
                DataType::Boolean,
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
        "one row a pruned weight matrix",
        vec![
            field("block", COUNT, false, "", "decoder block, from 0"),
            field("linear", TEXT, false, "", "q, k, v, o, gate, up or down"),
            field("rows", COUNT, false, "", "outputs"),
            field("columns", COUNT, false, "", "inputs"),
            field("achieved_sparsity", REAL, false, "", "fraction of zeros"),
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
            field("seconds", REAL, false, "s", "the method itself"),
        ],
    )
}

/// The metrics that a sample has by itself, in the order of their columns: all but perplexity, which its loss
/// says as well.
pub fn sample_metrics() -> impl Iterator<Item = Metric> {
    Metric::ALL.into_iter().filter(|&m| m != Metric::Perplexity)
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
        field("answer", COUNT, true, "", "the right one of `choices`, from 0; null where there are none"),
        field(
            "log_likelihoods",
            list(REAL),
            true,
            "nats",
            "of each of `choices`, summed over its tokens; null where the suite does not compare them",
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
        let nats = [Metric::Loss, Metric::JsDivergence, Metric::KlDivergence].contains(&metric);
        field(metric.as_str(), REAL, true, if nats { "nats" } else { "" }, &description)
    }));
    schema("one row a cell, suite and sample", own)
}
