//! Which metrics of the model tell how it will score downstream.

use super::super::Predictor;
use super::super::text::p_value;
use super::{Column, Entry, Sheet, distinct};
use crate::statistics::LEVEL;

/// A sheet for each downstream score.
pub fn sheets(predictors: &[Predictor]) -> Vec<Sheet> {
    let scores = distinct(predictors.iter().map(score));
    scores.into_iter().map(|of| sheet(of, predictors.iter().filter(|p| score(p) == of).collect())).collect()
}

/// Suite and metric.
fn score(p: &Predictor) -> (&str, &str) {
    (&p.downstream_suite, &p.downstream_metric)
}

fn sheet((suite, metric): (&str, &str), predictors: Vec<&Predictor>) -> Sheet {
    let columns = vec![
        Column::text("predictor"),
        Column::text("at sparsity"),
        Column::number("correlation"),
        Column::number("adj. p"),
        Column::text("against the best"),
        Column::number("settings"),
    ];
    let id = format!("predictors-{suite}-{metric}");
    let mut sheet = Sheet::new(&id, &format!("What predicts {metric} on {suite}"), columns);
    for within in distinct(predictors.iter().map(|p| &p.within)) {
        predictors.iter().filter(|p| p.within == *within).for_each(|p| sheet.row(entries(p)));
    }
    sheet.notes.push(
        "Spearman's rank correlation of the pruned settings, with 95% intervals that hold for all of a sparsity together; \
         turned so that 1 is a perfect prediction."
            .into(),
    );
    sheet.notes.push(
        "p is of no correlation, adjusted (Holm) for the metrics that were tried; against the best, which was found by looking, \
         for all pairs of them."
            .into(),
    );
    if let Some(settings) = sheet.take_constant("settings") {
        sheet.notes.push(format!("Over {settings} settings."));
    }
    sheet.without_empty_columns()
}

fn entries(p: &Predictor) -> [Entry; 6] {
    let against = match p.p_to_best {
        None => "the best".into(),
        Some(p) if p < LEVEL => format!("lower (p {})", p_value(p)),
        Some(p) => format!("not told apart (p {})", p_value(p)),
    };
    [
        Entry::text(format!("{} on {}", p.metric, p.suite)),
        Entry::text(p.within.as_deref().unwrap_or("all")),
        Entry::measured(p.spearman, p.low, p.high),
        Entry::p_value(p.p_adjusted),
        Entry::text(against),
        Entry::count(p.settings),
    ]
}
