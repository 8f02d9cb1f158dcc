//! The README.md of an exported model, with the front matter that the Hugging Face Hub reads.

use std::fmt::Write;

use indexmap::IndexSet;

use super::text::{counted, interval, signed, within};
use super::{Report, Setting, SettingRow, SuiteReport};
use crate::calibration::origin;
use crate::recipe::{Cell, ModelFormat};
use crate::results::Manifest;

/// What is to be said of a model that was exported, beside its study.
pub struct Card<'a> {
    pub manifest: &'a Manifest,
    pub report: &'a Report,
    pub cell: &'a Cell,
    /// The precision that its files have.
    pub precision: &'a str,
    pub format: ModelFormat,
    /// What the model's own files name.
    pub licence: Option<String>,
}

impl Card<'_> {
    /// The README.md.
    pub fn markdown(&self) -> String {
        let Self { manifest, report, cell, .. } = *self;
        let setting = cell.setting().id();
        let mut text = self.front_matter();
        let _ = write!(text, "\n# {} of {}\n\n", cell.id(), manifest.model.source);
        let _ = writeln!(text, "{}\n", self.made());
        for suite in &report.suites {
            if let Some(row) = suite.rows.iter().find(|row| row.setting.name == setting) {
                text += &values(suite, row);
            }
        }
        text += &self.recipe();
        text
    }

    fn front_matter(&self) -> String {
        let Self { manifest, cell, .. } = *self;
        let mut text = String::from("---\n");
        let hub =
            manifest.model.source.strip_prefix("hf:").map(|source| source.split(['@', ':']).next().unwrap_or(source));
        if let Some(id) = hub.map(|id| id.split('/').take(2).collect::<Vec<_>>().join("/")) {
            let _ = writeln!(text, "base_model: {id}\nbase_model_relation: finetune");
        }
        if let Some(licence) = &self.licence {
            let _ = writeln!(text, "license: {licence}");
        }
        text += "library_name: transformers\npipeline_tag: text-generation\ntags:\n- calipr\n";
        if let Some(pruning) = cell.pruning() {
            let _ = writeln!(text, "- pruned\n- sparse\n- {}", pruning.method.as_str());
        }
        if self.format == ModelFormat::Gguf {
            text += "- gguf\n";
        }
        let own = manifest.recipe.of_cell(cell);
        let sources = own.calibration.keys().filter_map(|name| manifest.calibrations.get(name)?.data.as_ref());
        let of_hub = sources.filter_map(|data| data.source.strip_prefix("hf:datasets/"));
        let ids: IndexSet<String> = of_hub
            .map(|id| id.split(['@', ':']).next().unwrap_or(id))
            .map(|id| id.split('/').take(2).collect::<Vec<_>>().join("/"))
            .collect();
        if !ids.is_empty() {
            text += "datasets:\n";
        }
        for id in ids {
            let _ = writeln!(text, "- {id}");
        }
        text + "---\n"
    }

    /// How it came about.
    fn made(&self) -> String {
        let Self { manifest, cell, precision, .. } = *self;
        let version = manifest.versions.get("calipr").map_or(String::new(), |version| format!(" {version}"));
        let source = &manifest.model.source;
        let mut text = match cell.pruning() {
            None => format!("{source} as it was, written by calipr{version}."),
            Some(pruning) => {
                let method = pruning.method.as_str();
                let left = match cell.setting().pattern().split_once(':') {
                    None => format!("{} of the weights of its linears were to become 0", pruning.sparsity.ratio()),
                    Some((n, m)) => format!("{n} of every {m} weights of its linears are left"),
                };
                format!("{source}, pruned by {method} with calipr{version}: {left}.")
            }
        };
        if let Some(drawn) = cell.drawn()
            && let Some(entry) = manifest.calibrations.get(&drawn.name)
        {
            let _ = write!(
                text,
                " It was calibrated on {} windows of {} tokens of `{}` ({}, seed {}).",
                entry.windows,
                entry.length,
                drawn.name,
                match &entry.data {
                    Some(data) => data.source.clone(),
                    None => origin(&manifest.recipe, &drawn.name).what(),
                },
                drawn.seed
            );
        }
        let _ = write!(
            text,
            " The weights are in {precision}, in ordinary dense tensors: what is pruned is 0. Embeddings, the head and norms \
             are the model's own."
        );
        text
    }

    /// What makes it again.
    fn recipe(&self) -> String {
        let Self { manifest, .. } = *self;
        let mut text = String::from("## How it was made\n\n```toml\n");
        text += toml::to_string(&manifest.recipe).unwrap_or_default().trim_end();
        text += "\n```\n\n";
        let _ = writeln!(text, "The model's files had these BLAKE3 digests:\n");
        for (name, digest) in &manifest.model.files {
            let _ = writeln!(text, "- `{name}`: `{digest}`");
        }
        for (name, data) in manifest.calibrations.iter().filter_map(|(name, entry)| Some((name, entry.data.as_ref()?)))
        {
            let _ = writeln!(text, "- calibration `{name}`, {}: `{}`", data.source, data.digest);
        }
        for (name, entry) in &manifest.suites {
            let _ = writeln!(text, "- suite `{name}`, {}: `{}`", entry.data.source, entry.data.digest);
        }
        text
    }
}

/// A suite's values of a setting beside the dense model's.
fn values(suite: &SuiteReport, row: &SettingRow) -> String {
    let dense = suite.rows.iter().find(|row| Setting::is_dense(&row.setting));
    let mut text = format!("## {} ({})\n\n", suite.suite, counted(suite.samples, &suite.unit));
    text += "| metric | dense | this model | difference | verdict |\n| --- | --- | --- | --- | --- |\n";
    for (i, column) in suite.metrics.iter().enumerate() {
        let value = &row.values[i];
        let shown =
            |v: &super::Value| format!("{} {}", within(v.value, v.low, v.high), interval(v.value, v.low, v.high));
        let arrow = if column.higher_is_better { "↑" } else { "↓" };
        let dense = dense.filter(|_| !column.of_dense).map_or(String::new(), |dense| shown(&dense.values[i]));
        let (difference, verdict) = match &value.to_dense {
            Some(d) if !column.of_dense => {
                let said = format!("{} {}", signed(d.delta, d.low, d.high), interval(d.delta, d.low, d.high));
                (said, d.verdict.name())
            }
            _ => (String::new(), ""),
        };
        let cells = [&format!("{} {arrow}", column.name), &dense, &shown(value), &difference, verdict]
            .map(|c: &str| c.trim().to_owned());
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    let seeds = row.values.iter().map(|value| value.seeds).max().unwrap_or(1);
    let over = if seeds > 1 {
        format!(" Means over {seeds} calibration seeds, of which this model is one.")
    } else {
        String::new()
    };
    text + &format!("\n95% intervals.{over}\n\n")
}
