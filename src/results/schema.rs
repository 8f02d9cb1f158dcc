//! The schemas of all tables, in one place: names, types, units and descriptions.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

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
    schema(
        "one row a cell, suite and metric",
        vec![
            field("suite", TEXT, false, "", "evaluation suite"),
            field("metric", TEXT, false, "", "loss and divergences in nats, perplexity, top1_agreement as a fraction"),
            field("value", REAL, false, "", "the metric over all windows of the suite"),
            field(
                "ci_low",
                REAL,
                true,
                "",
                "lower end of the 95% bootstrap interval over windows; null with one window",
            ),
            field("ci_high", REAL, true, "", "upper end of that interval"),
            field("n", COUNT, false, "windows", "windows of the suite"),
            field("dense", REAL, false, "", "the metric of the dense model"),
            field("delta", REAL, false, "", "value - dense"),
            field(
                "delta_low",
                REAL,
                true,
                "",
                "lower end of the 95% interval of delta, both models on the same drawn windows",
            ),
            field("delta_high", REAL, true, "", "upper end of that interval"),
        ],
    )
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
                "seconds_calibrate",
                REAL,
                true,
                "s",
                "reading weights, statistics, calibration windows through the blocks",
            ),
            field("seconds_prune", REAL, true, "s", "the method itself"),
            field("seconds_forward", REAL, true, "s", "suites through the blocks"),
            field("seconds_score", REAL, true, "s", "logits and scores"),
            field("seconds", REAL, true, "s", "all of these"),
            field(
                "peak_bytes",
                COUNT,
                true,
                "bytes",
                "most memory the process had held when the cell ended; null where the system does not tell",
            ),
            field("device", TEXT, true, "", "where it was computed"),
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
                "|X(W-W')^T|^2 / |XW^T|^2 on up to 512 tokens of the calibration inputs X; null where there are none",
            ),
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

/// `samples.parquet`
pub fn samples() -> SchemaRef {
    schema(
        "one row a cell, suite and window",
        vec![
            field("suite", TEXT, false, "", "evaluation suite"),
            field("sample", COUNT, false, "", "window of the suite, from 0"),
            field("positions", COUNT, false, "tokens", "tokens that were predicted"),
            field("loss", REAL, false, "nats", "mean negative log-likelihood of a token"),
            field("js_divergence", REAL, false, "nats", "mean Jensen-Shannon divergence from the dense model"),
            field("kl_divergence", REAL, false, "nats", "mean KL(dense || pruned)"),
            field(
                "top1_agreement",
                REAL,
                false,
                "",
                "fraction of positions where the most likely token is the dense model's",
            ),
        ],
    )
}
