//! What was run, where and with what.

use serde::Serialize;
use serde_json::Value;

use super::Fact;
use super::text::{counted, duration, grouped, list};
use crate::calibration::origin;
use crate::recipe::Recipe;
use crate::results::{CalibrationEntry, Manifest, ModelEntry, SampleUnit, SuiteEntry};
use crate::size::Size;

/// The sparsities that were asked for, as recipes spell them, each with the least and the most that a cell reached.
pub type Achieved = Vec<(String, [f64; 2])>;

/// What says when a study ran and what that took.
pub const RUN: &str = "run";

/// One line each; those of calibrations and suites in the order of the recipe.
pub fn facts(manifest: &Manifest, achieved: &Achieved) -> Vec<Fact> {
    let mut facts = vec![
        fact("model", model(&manifest.model)),
        fact("weights", weights(&manifest.model)),
        fact("tokenizer", tokenizer(&manifest.model)),
    ];
    let judged = |(name, entry): (&String, &ModelEntry)| fact(&format!("checkpoint {name}"), checkpoint(entry));
    facts.extend(manifest.checkpoints.iter().map(judged));
    facts.extend(manifest.authors.values().map(|entry| fact("writes texts", checkpoint(entry))));
    let grid = &manifest.recipe.grid;
    if !grid.method.is_empty() {
        facts.push(fact("pruning", said(&plain(&manifest.recipe.prune))));
    }
    if !achieved.is_empty() {
        facts.push(fact("zeros achieved", zeros(achieved)));
    }
    let options = plain(&manifest.recipe.method);
    let of_method = |name: &str| said(options.get(name).unwrap_or(&Value::Null));
    facts.extend(grid.method.iter().map(|m| fact(&format!("method {}", m.as_str()), of_method(m.as_str()))));
    let calibration = |(name, entry): (&String, &CalibrationEntry)| {
        fact(&format!("calibration {name}"), drawn(name, entry, &manifest.recipe))
    };
    facts.extend(manifest.calibrations.iter().map(calibration));
    let suite = |(name, entry): (&String, &SuiteEntry)| fact(&format!("suite {name}"), samples(entry));
    facts.extend(manifest.suites.iter().map(suite));
    facts.push(fact("machine", machine(manifest)));
    facts.push(fact(RUN, run(manifest)));
    facts
}

fn fact(name: &str, value: String) -> Fact {
    Fact { name: name.to_owned(), value }
}

fn model(model: &ModelEntry) -> String {
    format!(
        "{}: {}, {} parameters, {} of them in the linears that are pruned, {} tokens; {}",
        model.source,
        model.architecture,
        grouped(model.parameters),
        grouped(model.prunable_parameters),
        grouped(model.vocabulary as u64),
        digest(&model.digest)
    )
}

fn checkpoint(model: &ModelEntry) -> String {
    let formats: Vec<String> = model.stored.formats.keys().cloned().collect();
    let stored = model.stored.quantised.clone().unwrap_or_else(|| list(&formats));
    format!(
        "{}: {}, {} parameters, stored as {stored}; {}",
        model.source,
        model.architecture,
        grouped(model.parameters),
        digest(&model.digest)
    )
}

fn weights(model: &ModelEntry) -> String {
    let computed = format!("held in {}, computed in {}", model.dtype, model.computed_in);
    match &model.stored.quantised {
        Some(format) => format!("{computed}; the source is quantised ({format}), and \"dense\" is what it holds"),
        None => {
            let formats: Vec<String> = model.stored.formats.keys().cloned().collect();
            format!("{computed}; stored as {}", list(&formats))
        }
    }
}

fn tokenizer(model: &ModelEntry) -> String {
    let tokenizer = &model.tokenizer;
    format!("{}, {} tokens; {}", tokenizer.kind, grouped(tokenizer.tokens as u64), digest(&tokenizer.digest))
}

/// `0.5: 0.5000; 2:4: 0.5000 to 0.5003`, of the weights in the linears that are pruned.
fn zeros(achieved: &Achieved) -> String {
    let range = |[least, most]: [f64; 2]| match [least, most].map(|share| format!("{share:.4}")) {
        [least, most] if least == most => least,
        [least, most] => format!("{least} to {most}"),
    };
    let each: Vec<String> = achieved.iter().map(|(asked, zeros)| format!("{asked}: {}", range(*zeros))).collect();
    format!("{} of the linears that are pruned", each.join("; "))
}

fn drawn(name: &str, entry: &CalibrationEntry, recipe: &Recipe) -> String {
    let source = match &entry.data {
        Some(data) if recipe.calibration[name].generate.is_none() => data.dataset.clone(),
        _ => origin(recipe, name).what(),
    };
    let digest = entry.data.as_ref().map_or(String::new(), |data| format!("; {}", digest(&data.digest)));
    if entry.drawn.is_empty() {
        return format!("{source}: other calibrations draw from it{digest}");
    }
    let seeds: Vec<String> = entry.drawn.iter().map(|drawn| drawn.seed.to_string()).collect();
    let tokens = entry.drawn.iter().map(|drawn| drawn.tokens).max().unwrap_or(0);
    let packing = match &entry.data {
        Some(_) => format!("{} packing, ", plain(&entry.packing).as_str().unwrap_or_default()),
        None => String::new(),
    };
    format!(
        "{source}: {} of {} tokens ({packing}{} tokens a seed), {} {}{digest}",
        counted(entry.windows as u64, "windows"),
        grouped(entry.length as u64),
        grouped(tokens as u64),
        if seeds.len() == 1 { "seed" } else { "seeds" },
        list(&seeds),
    )
}

fn samples(entry: &SuiteEntry) -> String {
    let unit = if entry.unit == SampleUnit::Windows { "windows" } else { "rows" };
    let metrics: Vec<String> = entry.metrics.iter().map(|metric| metric.as_str().to_owned()).collect();
    format!(
        "{}: {}, {} tokens, by {}; {}",
        entry.data.dataset,
        counted(entry.samples as u64, unit),
        grouped(entry.tokens as u64),
        list(&metrics),
        digest(&entry.data.digest)
    )
}

fn machine(manifest: &Manifest) -> String {
    let machine = &manifest.machine;
    let mut parts = vec![format!("{} {}", machine.os, machine.architecture)];
    parts.extend(machine.cpu.clone());
    parts.push(format!("{} of {}", counted(machine.threads as u64, "threads"), counted(machine.cores as u64, "cores")));
    parts.extend(machine.memory_bytes.map(|bytes| format!("{} of memory", Size(bytes))));
    let device =
        machine.device_name.as_ref().map_or(machine.device.clone(), |name| format!("{} ({name})", machine.device));
    parts.push(format!("computed on {device}"));
    parts.join(", ")
}

fn run(manifest: &Manifest) -> String {
    let version = manifest.versions.get("calipr").map_or("", String::as_str);
    let mut parts = vec![
        format!("calipr {version}"),
        manifest.date.clone(),
        format!("{} without what the cache had", duration(manifest.seconds)),
    ];
    parts.extend(manifest.peak_bytes.map(|bytes| format!("at most {} of memory", Size(bytes))));
    parts.extend(manifest.device_peak_bytes.map(|bytes| format!("{} of the device's", Size(bytes))));
    parts.join(", ")
}

/// As run.json has it.
fn plain(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// The beginning of a digest: run.json has all of it.
fn digest(digest: &str) -> String {
    format!("digest {}", digest.chars().take(12).collect::<String>())
}

/// Options as text: `damping 0.01, block 128`.
fn said(options: &Value) -> String {
    let Some(options) = options.as_object().filter(|options| !options.is_empty()) else { return "no options".into() };
    let said = |(key, value): (&String, &Value)| match value.as_str() {
        Some(text) => format!("{key} {text}"),
        None => format!("{key} {value}"),
    };
    options.iter().map(said).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_a_range_where_cells_differ() {
        let achieved = vec![("0.5".to_owned(), [0.5, 0.50001]), ("2:4".to_owned(), [0.4996, 0.5003])];
        assert_eq!(zeros(&achieved), "0.5: 0.5000; 2:4: 0.4996 to 0.5003 of the linears that are pruned");
    }
}
