//! The report as one HTML file.

use std::collections::HashSet;

use anyhow::Result;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, context};

use super::plots::Plots;
use super::{Report, setting};

/// Samples that are shown at once; more are folded away.
const SAMPLES: usize = 6;
/// Characters of a prompt that are shown at once.
const PROMPT: usize = 280;

/// The page. It needs nothing beside itself: no network, fonts or scripts of others.
///
/// # Errors
/// Where a plot or the page cannot be written, which no report should bring about.
pub fn html(report: &Report) -> Result<String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the usual delimiters"));
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.add_filter("number", number);
    env.add_filter("signed", signed);
    env.add_filter("p_value", p_value);
    env.add_filter("opening", opening);
    env.add_function("setting", |pattern: &str, sparsity: f64| setting(pattern, sparsity));
    env.add_function("interval", interval);
    env.add_function("counted", super::counted);
    // What is filled into a template whose name ends in .html is escaped.
    env.add_template("report.html", include_str!("report.html"))?;
    let plots = Plots::of(report)?;
    let page = context! {
        sections => sections(report, &plots),
        seeds => several_seeds(report),
        shown_samples => SAMPLES,
        report => Serde(report),
        plots => Serde(plots),
    };
    Ok(env.get_template("report.html")?.render(page)?)
}

/// Ids and titles of the sections that there are.
fn sections(report: &Report, plots: &Plots) -> Vec<(&'static str, &'static str)> {
    let all = [
        ("results", "Results", report.suites.is_empty()),
        ("failed", "Failed cells", report.failed.is_empty()),
        ("sparsity", "By sparsity", plots.metrics.is_empty()),
        ("prediction", "What predicts the score", plots.scatters.is_empty()),
        ("blocks", "Block by block", plots.blocks.is_empty()),
        ("samples", "Samples", report.samples.is_empty()),
        ("contrasts", "Calibrations compared", report.contrasts.is_empty()),
        ("predictors", "Predictors", report.predictors.is_empty()),
    ];
    all.into_iter().filter(|(.., empty)| !empty).map(|(id, title, _)| (id, title)).collect()
}

/// Whether seeds tell cells apart.
fn several_seeds(report: &Report) -> bool {
    let seeds: HashSet<u64> = report.suites.iter().flat_map(|suite| &suite.rows).filter_map(|row| row.seed).collect();
    seeds.len() > 1
}

/// Four significant digits, with a proper minus sign.
pub fn number(x: f64) -> String {
    super::number(x).replace("inf", "∞").replace('-', "−")
}

/// The same, with its sign, as a difference has it.
fn signed(x: f64) -> String {
    if x > 0.0 { format!("+{}", number(x)) } else { number(x) }
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }
}

/// The first words of a text that is too long to show at once.
fn opening(text: &str) -> Option<String> {
    text.chars().nth(PROMPT)?;
    let start: String = text.chars().take(PROMPT / 2).collect();
    let whole_words = start.rsplit_once(char::is_whitespace).map_or(start.as_str(), |(words, _)| words);
    Some(whole_words.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A fraction without needless zeros.
pub fn ratio(x: f64) -> String {
    setting("unstructured", x)
}

/// An interval in brackets, after a space; nothing where there is none.
pub fn interval(low: Option<f64>, high: Option<f64>) -> String {
    super::interval(low, high).replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::super::plots::sample;
    use super::*;

    const SECTIONS: [&str; 9] =
        ["answer", "results", "failed", "sparsity", "prediction", "blocks", "samples", "contrasts", "predictors"];

    /// Which sections are missing, after a change to a report that has all.
    fn missing_after(change: impl FnOnce(&mut Report)) -> Vec<&'static str> {
        let mut report = sample::report();
        change(&mut report);
        let page = html(&report).unwrap();
        SECTIONS.into_iter().filter(|id| !page.contains(&format!("id=\"{id}\""))).collect()
    }

    #[test]
    fn sections_without_data_vanish() {
        assert_eq!(missing_after(|_| ()), [""; 0]);
        assert_eq!(missing_after(|r| r.answer.clear()), ["answer"]);
        assert_eq!(missing_after(|r| r.suites.clear()), ["results", "sparsity", "prediction"]);
        assert_eq!(missing_after(|r| r.failed.clear()), ["failed"]);
        assert_eq!(missing_after(|r| r.blocks.clear()), ["blocks"]);
        assert_eq!(missing_after(|r| r.samples.clear()), ["samples"]);
        assert_eq!(missing_after(|r| r.contrasts.clear()), ["contrasts"]);
        assert_eq!(missing_after(|r| r.predictors.clear()), ["predictors"]);
    }

    #[test]
    fn contents_link_to_the_sections_that_there_are() {
        let page = html(&sample::report()).unwrap();
        for id in &SECTIONS[1..] {
            assert!(page.contains(&format!("<a href=\"#{id}\">")), "{id}");
        }
        let page = html(&Report { failed: vec![], ..sample::report() }).unwrap();
        assert!(!page.contains("#failed"));
    }

    #[test]
    fn a_study_without_downstream_metrics_renders() {
        let no_task = |r: &mut Report| r.suites.truncate(1);
        assert_eq!(missing_after(no_task), ["prediction"]);
    }

    #[test]
    fn a_study_of_the_dense_model_alone_renders() {
        let only_dense = |r: &mut Report| {
            r.suites.iter_mut().for_each(|suite| suite.rows.truncate(1));
            r.blocks.clear();
        };
        assert_eq!(missing_after(only_dense), ["sparsity", "prediction", "blocks"]);
    }

    #[test]
    fn hostile_strings_are_escaped() {
        const HOSTILE: &str = "</script><script>alert('1')</script>\"><img src=x onerror=alert(1)>";
        let mut report = sample::report();
        (report.study, report.model, report.answer[0]) = (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
        let said = &mut report.samples[0];
        for text in [&mut said.prompt, &mut said.reference, &mut said.dense, &mut said.pruned, &mut said.cell] {
            *text = HOSTILE.repeat(9);
        }
        (report.failed[0].cell, report.failed[0].error) = (HOSTILE.into(), HOSTILE.into());
        let suite = &mut report.suites[0];
        (suite.suite, suite.unit, suite.metrics[0].name) = (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
        for row in &mut suite.rows[1..] {
            (row.cell, row.method, row.pattern) = (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
            row.calibration = Some(HOSTILE.into());
        }
        let page = html(&report).unwrap();
        assert!(page.contains("&lt;script&gt;alert"));
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
        assert_eq!(page.matches("<img").count(), 0);
    }

    #[test]
    fn the_page_fetches_nothing() {
        let page = html(&sample::report()).unwrap().replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for word in ["http:", "https:", "//www", " src=", "url(", "@import", "<link"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn long_prompts_are_folded_and_short_ones_are_not() {
        assert_eq!(opening("What do plants take from the air?"), None);
        let start = opening(&"many words\n".repeat(99)).unwrap();
        assert!(start.ends_with("many words many") || start.ends_with("many words"), "{start}");
        assert!(start.len() < PROMPT);
    }

    #[test]
    fn numbers_have_four_significant_digits() {
        let shown = [27.264991, 1207.84, -0.00410233, 0.0, 1234567.0, 0.00001, f64::INFINITY, f64::NAN].map(number);
        assert_eq!(shown, ["27.26", "1208", "−0.004102", "0", "1.235e6", "1.000e−5", "∞", "n/a"]);
        assert_eq!((signed(0.5), signed(-0.5), p_value(0.0), p_value(0.0312)), {
            ("+0.5000".into(), "−0.5000".into(), "<0.001".into(), "0.031".into())
        });
    }
}
