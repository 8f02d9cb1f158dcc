//! The report as a page: one HTML file that needs nothing beside itself, no network, fonts or scripts of others.

use anyhow::Result;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use super::super::plots::Plots;
use super::super::sheets::{Column, Row, Sheet, excerpt_sheets, sheets};
use super::super::text::number;
use super::super::{Report, Samples, Side};
use super::shown::{Choice, choices, has_best};

/// Characters of all columns of a table that a sheet of paper has room for.
const WIDTH: usize = 105;

/// All of the report.
///
/// # Errors
/// Where a plot or the page cannot be written, which no report should bring about.
pub fn html(report: &Report) -> Result<String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the usual delimiters"));
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.add_filter("number", number);
    // What is filled into a template whose name ends in .html is escaped.
    env.add_template("page.html", include_str!("page.html"))?;
    let excerpt = report.excerpt();
    let plots = Plots::of(excerpt.as_ref().map_or(report, |excerpt| &excerpt.plots))?;
    let mut views: Vec<View> = Vec::new();
    for sheet in excerpt.as_ref().map_or_else(|| sheets(report), excerpt_sheets) {
        let id = unique(&sheet.id, &views);
        views.push(View::of(sheet, id));
    }
    let (decision, rest): (Vec<View>, Vec<View>) = views.into_iter().partition(|view| view.id == "decision");
    let is_overview = |view: &View| ["published", "facts"].contains(&view.id.as_str()) || view.id.starts_with("suite-");
    let (overview, details): (Vec<View>, Vec<View>) = rest.into_iter().partition(is_overview);
    let samples: Vec<SamplesView> = report.samples.iter().enumerate().map(|(i, of)| SamplesView::of(of, i)).collect();
    let page = context! {
        report => Serde(excerpt.as_ref().map_or(report, |excerpt| &excerpt.tables)),
        model => report.facts.iter().find(|fact| fact.name == "model").map(|fact| &fact.value),
        links => Serde(links(&decision, &overview, &plots, &samples, &details)),
        sparsity_note => sparsity_note(&plots) + &excerpt.as_ref().map_or(String::new(), |e| format!(" {}", e.lines)),
        scatter_note => SCATTER_NOTE,
        blocks_note => blocks_note(report),
        masks_note => MASKS_NOTE,
        decision => Serde(decision),
        overview => Serde(overview),
        details => Serde(details),
        samples => Serde(samples),
        plots => Serde(plots),
        style => include_str!("style.css").trim_end(),
        script => include_str!("script.js").trim_end(),
    };
    Ok(env.get_template("page.html")?.render(page)?)
}

/// A table as the page shows it.
#[derive(Serialize)]
struct View {
    id: String,
    title: String,
    notes: Vec<String>,
    columns: Vec<Column>,
    rows: Vec<Row>,
    /// Names and texts, not numbers to be compared.
    is_list: bool,
    /// Whether rows are settings, the dense model among them.
    has_dense: bool,
    /// Whether some value has a mark.
    has_marks: bool,
    /// The columns of each table that it is shown as, without the first, which all of them have.
    parts: Vec<Vec<usize>>,
}

impl View {
    fn of(sheet: Sheet, id: String) -> Self {
        let best = has_best(&sheet).then(|| "Bold: the best of its sparsity.".to_owned());
        Self {
            id,
            is_list: sheet.columns.len() == 2 && sheet.columns.iter().all(|column| !column.is_number),
            has_dense: sheet.columns[0].name == "setting",
            has_marks: sheet.rows.iter().flat_map(|row| &row.entries).any(|entry| !entry.mark.is_empty()),
            parts: parts(&sheet),
            title: sheet.title,
            notes: best.into_iter().chain(sheet.notes).collect(),
            columns: sheet.columns,
            rows: sheet.rows,
        }
    }
}

/// An id that none of the others has, without anything that a link cannot have.
fn unique(id: &str, others: &[View]) -> String {
    let plain: String = id.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let tries = std::iter::once(plain.clone()).chain((2..).map(|n| format!("{plain}-{n}")));
    tries.into_iter().find(|id| others.iter().all(|other| other.id != *id)).unwrap_or(plain)
}

/// The columns after the first, so that each part fits on paper; other texts than names wrap, and need no parts.
fn parts(sheet: &Sheet) -> Vec<Vec<usize>> {
    let columns = 1..sheet.columns.len();
    if columns.clone().any(|c| !sheet.columns[c].is_number) {
        return vec![columns.collect()];
    }
    let mut parts = vec![vec![]];
    let mut room = WIDTH.saturating_sub(width(sheet, 0));
    for c in columns {
        let width = width(sheet, c);
        if width > room && parts.last().is_some_and(|part: &Vec<usize>| !part.is_empty()) {
            parts.push(vec![]);
            room = WIDTH.saturating_sub(self::width(sheet, 0));
        }
        room = room.saturating_sub(width);
        parts.last_mut().expect("there is always one").push(c);
    }
    parts
}

/// Roughly the characters that a column is wide. Names of columns wrap at their hyphens, and intervals are smaller.
fn width(sheet: &Sheet, column: usize) -> usize {
    let length = |text: &str| text.chars().count();
    let name = sheet.columns[column].name.split_inclusive([' ', '-']).map(length).max().unwrap_or(0);
    let entries = sheet.rows.iter().map(|row| &row.entries[column]);
    let longest = entries.map(|e| (length(&e.text) + 2 * e.mark.len()).max(length(&e.interval) * 4 / 5)).max();
    2 + name.max(longest.unwrap_or(0).min(40))
}

/// The samples of a suite as the page shows them.
#[derive(Serialize)]
struct SamplesView<'a> {
    id: String,
    title: String,
    suite: &'a str,
    metric: &'a str,
    cells: &'a [String; 2],
    how: &'a str,
    has_choices: bool,
    samples: Vec<SampleView<'a>>,
}

#[derive(Serialize)]
struct SampleView<'a> {
    sample: u64,
    prompt: &'a str,
    reference: &'a str,
    /// Empty where texts were generated.
    choices: Vec<Choice>,
    sides: &'a [Side; 2],
}

impl<'a> SamplesView<'a> {
    fn of(of: &'a Samples, i: usize) -> Self {
        let samples = of.samples.iter().map(|s| SampleView {
            sample: s.sample,
            prompt: &s.prompt,
            reference: &s.reference,
            choices: choices(s),
            sides: &s.sides,
        });
        Self {
            id: format!("samples-{i}"),
            title: format!("Samples of {}: {} and {}", of.suite, of.cells[0], of.cells[1]),
            suite: &of.suite,
            metric: &of.metric,
            cells: &of.cells,
            how: &of.how,
            has_choices: of.samples.iter().any(|s| !s.choices.is_empty()),
            samples: samples.collect(),
        }
    }
}

/// A link to a part of the page.
#[derive(Serialize)]
struct Link {
    id: String,
    title: String,
}

/// Links to all parts, in the order in which they come.
fn links(decision: &[View], overview: &[View], plots: &Plots, samples: &[SamplesView], details: &[View]) -> Vec<Link> {
    let link = |id: &str, title: &str| Link { id: id.into(), title: title.into() };
    let of_view = |view: &View| link(&view.id, &view.title);
    let figures = [
        ("by-sparsity", "By sparsity", &plots.metrics),
        ("scatter", "Metrics of the model against scores", &plots.scatters),
        ("by-block", "Errors by block", &plots.blocks),
        ("kept-by-both", "Weights that both keep", &plots.masks),
    ];
    let figures = figures.into_iter().filter(|(.., groups)| !groups.is_empty());
    let mut links: Vec<Link> = decision.iter().chain(overview).map(of_view).collect();
    links.extend(figures.map(|(id, title, _)| link(id, title)));
    links.extend(samples.iter().map(|of| link(&of.id, &format!("Samples of {}", of.suite))));
    links.extend(details.iter().map(of_view));
    links
}

const SCATTER_NOTE: &str = "Each point is a setting. The more the points keep to one rising or falling line, the more \
    that metric, which needs no task, tells about the score.";

const MASKS_NOTE: &str = "A line a pair of calibrations: the share of the kept weights that both keep. Beside it is what two \
    seeds of one calibration share, and what two choices share that know nothing of each other.";

fn sparsity_note(plots: &Plots) -> String {
    let patterns = " Hollow points, named above them, are N:M patterns at the ratio that they prune.";
    format!(
        "Bars are 95% intervals, the grey line and band are the dense model. Points of one sparsity stand side by \
         side.{}",
        if plots.pattern_key.is_some() { patterns } else { "" }
    )
}

fn blocks_note(report: &Report) -> String {
    let measured = match &report.error_suite {
        Some(suite) => format!("on the same held-out samples of {suite} for every calibration"),
        None => "on each setting's own calibration windows".into(),
    };
    format!("A line a setting, its sparsity at its end. Relative error of the block's linears, measured {measured}.")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::super::text::{interval, within};
    use super::super::super::{BlockPoint, sample};
    use super::*;

    /// What follows each of these openings, up to the next quote.
    fn attributes<'a>(page: &'a str, opening: &str) -> Vec<&'a str> {
        page.split(opening).skip(1).map(|rest| rest.split('"').next().unwrap_or_default()).collect()
    }

    fn section<'a>(page: &'a str, id: &str) -> &'a str {
        let start = page.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("there is no {id}"));
        page[start..].split("</section>").next().unwrap_or_default()
    }

    #[test]
    fn the_decision_has_every_setting_value_and_verdict() {
        let report = sample::report();
        let page = html(&report).unwrap();
        let decision = section(&page, "decision");
        for row in &report.decision.as_ref().unwrap().rows {
            let start = decision.find(&format!("<th scope=\"row\">{}</th>", row.setting.name));
            let start = start.unwrap_or_else(|| panic!("no row of {}: {decision}", row.setting.name));
            let shown = decision[start..].split("</tr>").next().unwrap_or_default();
            let v = &row.value;
            let verdict = v.to_dense.as_ref().map_or("", |d| d.verdict.name());
            for text in [within(v.value, v.low, v.high), interval(v.value, v.low, v.high), verdict.into()] {
                assert!(shown.contains(&text), "no {text} in {shown}");
            }
        }
        assert!(decision.contains("<b class=\"best\">0.61</b> <small>[0.50, 0.73]</small>"), "{decision}");
    }

    #[test]
    fn every_entry_of_every_sheet_is_on_the_page() {
        let report = sample::report();
        let page = html(&report).unwrap();
        for sheet in sheets(&report) {
            let shown = section(&page, &sheet.id);
            for entry in sheet.rows.iter().flat_map(|row| &row.entries) {
                assert!(shown.contains(&entry.text) && shown.contains(&entry.interval), "{} lacks {entry:?}", sheet.id);
            }
        }
    }

    #[test]
    fn parts_come_in_the_order_in_which_a_reader_wants_them() {
        let page = html(&sample::report()).unwrap();
        let at = |what: &str| page.find(what).unwrap_or_else(|| panic!("there is no {what}"));
        let order = [
            "<h1>a study</h1>",
            "a model, Llama",
            "class=\"unfinished\"",
            "id=\"warnings\"",
            "id=\"answer\"",
            "id=\"decision\"",
            "id=\"published\"",
            "id=\"facts\"",
            "id=\"suite-language\"",
            "id=\"suite-task\"",
            "id=\"by-sparsity\"",
            "id=\"scatter\"",
            "id=\"by-block\"",
            "id=\"kept-by-both\"",
            "id=\"samples-0\"",
            "id=\"contrasts-method\"",
            "id=\"predictors-task-f1\"",
            "id=\"cells-task\"",
            "id=\"failed\"",
        ];
        // The model stands in the title, too.
        let body = at("<header>");
        let at = |what: &str| body + page[body..].find(what).unwrap_or_else(|| panic!("there is no {what}"));
        assert!(order.map(at).is_sorted());
    }

    #[test]
    fn ids_are_unique_and_every_link_has_its_target() {
        let mut report = sample::report();
        report.suites[0].suite = "a b".into();
        report.suites[1].suite = "a_b".into();
        for report in [report, sample::report()] {
            let page = html(&report).unwrap();
            let ids = attributes(&page, " id=\"");
            let unique: HashSet<&str> = ids.iter().copied().collect();
            assert_eq!(ids.len(), unique.len(), "{ids:?}");
            let links = attributes(&page, "<a href=\"#");
            assert!(links.len() >= sheets(&report).len() + report.samples.len(), "{links:?}");
            let lost: Vec<&&str> = links.iter().filter(|link| !unique.contains(**link)).collect();
            assert!(lost.is_empty(), "{lost:?}");
            let labels = attributes(&page, "aria-labelledby=\"");
            assert!(labels.iter().all(|label| unique.contains(label)), "{labels:?}");
        }
    }

    #[test]
    fn a_report_of_nothing_is_a_page_without_empty_parts() {
        let page = html(&Report {
            unfinished: None,
            decision: None,
            sentences: vec![],
            warnings: vec![],
            facts: vec![],
            suites: vec![],
            contrasts: vec![],
            predictors: vec![],
            blocks: vec![],
            masks: vec![],
            samples: vec![],
            cell_rows: vec![],
            failed: vec![],
            published: vec![],
            ..sample::report()
        })
        .unwrap();
        assert_eq!(attributes(&page, " id=\""), [""; 0]);
        assert!(!page.contains("<table") && !page.contains("<svg") && !page.contains("<h2"), "{page}");
    }

    #[test]
    fn there_is_no_plot_of_one_sparsity_or_one_setting() {
        let mut report = sample::report();
        report.suites.iter_mut().for_each(|suite| suite.rows.truncate(2));
        (report.blocks, report.masks) = (vec![], vec![]);
        let page = html(&report).unwrap();
        assert!(!page.contains("<svg") && !page.contains("By sparsity"), "{page}");
    }

    #[test]
    fn text_from_outside_stays_text() {
        const HOSTILE: &str = "</script><script>alert('1')</script>\"><img src=x onerror=alert(1)>&amp;";
        let mut report = sample::report();
        (report.study, report.unfinished) = (HOSTILE.into(), Some(HOSTILE.into()));
        (report.sentences[0], report.warnings[0]) = (HOSTILE.into(), HOSTILE.into());
        (report.facts[0].value, report.facts[1].name) = (HOSTILE.into(), HOSTILE.into());
        for samples in &mut report.samples {
            (samples.suite, samples.how, samples.metric) = (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
            samples.cells = [HOSTILE.into(), HOSTILE.into()];
            let sample = &mut samples.samples[0];
            (sample.prompt, sample.reference) = (HOSTILE.into(), HOSTILE.into());
            sample.choices.iter_mut().for_each(|choice| *choice = HOSTILE.into());
            sample.sides.iter_mut().for_each(|side| side.prediction = Some(HOSTILE.into()));
        }
        (report.failed[0].cell, report.failed[0].error) = (HOSTILE.into(), HOSTILE.into());
        (report.predictors[0].suite, report.predictors[0].downstream_suite) = (HOSTILE.into(), HOSTILE.into());
        report.error_suite = Some(HOSTILE.into());
        let figure = &mut report.published[0];
        (figure.setting, figure.suite, figure.place) = (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
        (figure.note, figure.other_model) = (Some(HOSTILE.into()), Some(HOSTILE.into()));
        let suite = &mut report.suites[0];
        (suite.suite, suite.unit, suite.metrics[0].name) = (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
        let decided = report.decision.as_mut().unwrap().rows.iter_mut().map(|row| &mut row.setting);
        for setting in suite.rows[1..].iter_mut().map(|row| &mut row.setting).chain(decided) {
            (setting.name, setting.method) = (HOSTILE.into(), HOSTILE.into());
            setting.calibration = Some(HOSTILE.into());
        }
        let page = html(&report).unwrap();
        assert!(page.contains("&lt;script&gt;alert") && page.contains("&amp;amp;"));
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
    fn samples_show_what_was_right_and_what_was_chosen() {
        let page = html(&sample::report()).unwrap();
        let quiz = section(&page, "samples-1");
        assert!(quiz.contains("<b>honey</b> <small>right</small>"), "{quiz}");
        let chosen = ["<b class=\"best\">-3.25</b> <small>chosen", "<b class=\"best\">-8.25</b> <small>chosen"];
        assert!(chosen.iter().all(|text| quiz.contains(text)) && quiz.matches("chosen</small>").count() == 2, "{quiz}");
        assert!(
            quiz.contains("The two answer 23 of 80 rows differently; shown are 1")
                && quiz.contains("log-likelihoods in nats"),
            "{quiz}"
        );
        let task = section(&page, "samples-0");
        assert!(task.contains("wanda-0.5-prose-s0, <b>f1 0</b>") && task.contains("The the\nthe."), "{task}");
    }

    #[test]
    fn tables_that_are_too_wide_for_paper_go_on_below() {
        let mut report = sample::report();
        let point = report.blocks[0].clone();
        report.blocks = (0..40)
            .map(|i| {
                let mut setting = point.setting.clone();
                setting.name = format!("magnitude-0.{i:02}");
                BlockPoint { setting, ..point.clone() }
            })
            .collect();
        let sheet = sheets(&report).into_iter().find(|sheet| sheet.id == "blocks").unwrap();
        let parts = parts(&sheet);
        assert!(parts.len() > 1, "{parts:?}");
        assert_eq!(parts.concat(), (1..=40).collect::<Vec<_>>());
        let wide = |part: &Vec<usize>| part.iter().map(|c| width(&sheet, *c)).sum::<usize>() + width(&sheet, 0) > WIDTH;
        assert!(!parts.iter().any(wide));
        let page = html(&report).unwrap();
        assert_eq!(
            section(&page, "blocks").matches("<th scope=\"col\" class=\"number\">block</th>").count(),
            parts.len()
        );
    }
}
