//! A data set: where its rows are, how they divide into splits, how a row becomes text.
//!
//! A recipe names one by its file in `datasets/`, here or as it comes with calipr, by a path to such a TOML, by a data
//! file itself, or by its name on the Hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Format, Part, Templates};
use crate::digest::Digest;
use crate::source::Source;
use crate::words;

/// A data set, one TOML in `datasets/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// What it is, for people.
    #[serde(default)]
    pub description: String,
    /// Where the rows are, where every split is in one file, or in what the Hub has of a data set's name.
    pub source: Option<Source>,
    /// Which subset of a data set on the Hub that is named without its files (hf:datasets/OWNER/NAME); needed where it has
    /// several, and none is called default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// How the file holds its rows; by default its name tells.
    pub format: Option<Format>,
    /// The field that holds the rows, where the file is one JSON object.
    pub field: Option<String>,
    /// How a row becomes a prompt and a target; the usual shapes need none.
    pub template: Option<Templates>,
    /// What stands between two rows when windows are cut from many.
    #[serde(default = "blank_line")]
    pub separator: String,
    /// Which rows a suite shows as solved examples.
    #[serde(default, skip_serializing_if = "Shown::is_usual")]
    pub shots: Shown,
    /// The splits, by name.
    #[serde(default, rename = "split")]
    pub splits: BTreeMap<String, Split>,
    /// Where relative paths start.
    #[serde(skip)]
    folders: Vec<PathBuf>,
    /// Whether it comes with calipr, and its files with it.
    #[serde(skip)]
    bundled: bool,
}

/// Which rows a suite shows as solved examples.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The split that they are of, where the suite names none; by default `train`, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Only rows that have the same in this field as the row that is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alike: Option<String>,
    /// The first of them in the order of the file, instead of a draw for each row.
    #[serde(default)]
    pub first: bool,
}

impl Shown {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// One split of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Where its rows are, where it has a file of its own.
    pub source: Option<Source>,
    /// What the Hub calls it, in a data set that is named without its files; by default the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Only the rows whose fields have these values.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub rows: BTreeMap<String, Value>,
}

fn blank_line() -> String {
    "\n\n".into()
}

impl Dataset {
    /// From its TOML.
    pub fn open(path: &Path) -> Result<Self> {
        ensure!(path.is_file(), "{} is no file", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let folders = vec![path.parent().unwrap_or(Path::new("")).to_owned(), PathBuf::new()];
        Self::of_text(&text, path, folders)
    }

    /// From the text of its TOML, which errors call `path`; its relative paths start in `folders`.
    ///
    /// # Errors
    /// Where the TOML is wrong.
    pub fn of_text(text: &str, path: &Path, folders: Vec<PathBuf>) -> Result<Self> {
        Ok(Self::read(text, path)?.in_folders(folders))
    }

    /// From the text of its TOML, which errors call `path`.
    pub fn read(text: &str, path: &Path) -> Result<Self> {
        let dataset: Self = toml::from_str(text).map_err(|e| explained(&e, text, path))?;
        dataset.template.as_ref().map_or(Ok(()), Templates::check).with_context(|| path.display().to_string())?;
        let everywhere = dataset.source.is_some();
        ensure!(
            everywhere || (!dataset.splits.is_empty() && dataset.splits.values().all(|s| s.source.is_some())),
            "{}: neither the data set nor each of its splits names a `source`",
            path.display()
        );
        dataset.check_names().with_context(|| path.display().to_string())?;
        Ok(dataset)
    }

    /// Checks that `config` and `split` are said of what has such: a data set on the Hub by its name.
    fn check_names(&self) -> Result<()> {
        let by_name = |source: Option<&Source>| source.is_some_and(Source::is_by_name);
        let sources = || self.splits.values().filter_map(|split| split.source.as_ref()).chain(&self.source);
        let says = "is for a data set on the Hub that is named without its files, hf:datasets/OWNER/NAME";
        ensure!(self.config.is_none() || sources().any(Source::is_by_name), "`config` {says}");
        let astray = self
            .splits
            .iter()
            .find(|(_, split)| split.split.is_some() && !by_name(split.source.as_ref().or(self.source.as_ref())));
        ensure!(astray.is_none(), "`split` of [split.{}] {says}", astray.map_or("", |(name, _)| name.as_str()));
        Ok(())
    }

    /// Where relative paths in it start, the first that has the file; none where it comes with calipr.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The same, with relative paths that start elsewhere.
    pub fn in_folders(self, folders: Vec<PathBuf>) -> Self {
        Self { folders, ..self }
    }

    /// The same, whose files are those that come with calipr, where its folders do not have them.
    pub fn with_calipr(self) -> Self {
        Self { bundled: true, ..self }
    }

    /// What tells what it makes of rows from what another makes of them: all but what it says to people, and where its
    /// files lie.
    pub fn digest(&self) -> Digest {
        Digest::of(&Self { description: String::new(), ..self.clone() })
    }

    /// A data file by itself.
    pub fn of_file(source: Source, folders: Vec<PathBuf>) -> Self {
        Self {
            description: String::new(),
            source: Some(source),
            config: None,
            format: None,
            field: None,
            template: None,
            separator: blank_line(),
            shots: Shown::default(),
            splits: BTreeMap::new(),
            folders,
            bundled: false,
        }
    }

    /// Where a suite on `split` draws solved examples from: the split of the name `shots`; without one, `train`
    /// where there is one, else the suite's own rows.
    ///
    /// # Errors
    /// Where the data set has no such split.
    pub fn shots(&self, split: Option<&str>, shots: Option<&str>) -> Result<Part> {
        match shots.or(self.shots.split.as_deref()) {
            Some(named) => self.part(Some(named), "train"),
            None if self.splits.contains_key("train") => self.part(None, "train"),
            None => self.part(split, "test"),
        }
    }

    /// The split of that name; without one, `preferred`, or all rows where the data set has no splits.
    ///
    /// # Errors
    /// Where the data set has no such split.
    pub fn part(&self, split: Option<&str>, preferred: &str) -> Result<Part> {
        let wanted = split.unwrap_or(preferred);
        let is_by_name = self.source.as_ref().is_some_and(Source::is_by_name);
        let known = self.splits.keys().map(String::as_str);
        let found = self.splits.get(wanted);
        if found.is_none() && self.splits.is_empty() && split.is_some() && !is_by_name {
            bail!("there is no split \"{wanted}\": the data set is one file without splits");
        }
        if found.is_none() && !self.splits.is_empty() {
            let hint =
                words::nearest(wanted, known.clone()).map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
            let known: Vec<String> = known.map(|k| format!("\"{k}\"")).collect();
            bail!("there is no split \"{wanted}\"; name one with `split`: the data set has {}{hint}", known.join(", "));
        }
        let source = found.and_then(|s| s.source.as_ref()).or(self.source.as_ref());
        Ok(Part {
            config: self.config.clone().filter(|_| source.is_some_and(Source::is_by_name)),
            split: source
                .filter(|source| source.is_by_name())
                .map(|_| found.and_then(|split| split.split.clone()).unwrap_or_else(|| wanted.to_owned())),
            source: source.context("the data set names no `source`")?.clone(),
            format: self.format,
            field: self.field.clone(),
            rows: found.map(|s| s.rows.clone()).unwrap_or_default(),
            templates: self.template.clone(),
            separator: self.separator.clone(),
            folders: self.folders.clone(),
            bundled: self.bundled,
            called: None,
            shown: self.shots.clone(),
        })
    }
}

/// What is wrong with the TOML of a data set, and where.
fn explained(error: &toml::de::Error, text: &str, path: &Path) -> anyhow::Error {
    let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let remedy = match error.message() {
        "missing field `prompt`" => "; expected what the model reads: prompt = \"{{ question }}\"",
        _ => "",
    };
    anyhow::anyhow!("{}, line {line}: {}{remedy}", path.display(), error.message())
}

#[cfg(test)]
mod tests {
    use super::super::Content;
    use super::*;
    use crate::data::Library;
    use crate::source::Fetcher;

    fn library(files: &[(&str, &str)]) -> (tempfile::TempDir, Library) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("datasets")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("datasets").join(name), text).unwrap();
        }
        let library = Library::of_recipe(&dir.path().join("recipe.toml"));
        (dir, library)
    }

    #[test]
    fn a_split_takes_the_rows_that_match() {
        let toml = "source = 'path:a.jsonl'\n[split.train]\nrows = { part = 'train' }\n[split.test]\nrows = { part = 'test' }\n";
        let rows = "{\"text\": \"x\", \"part\": \"train\"}\n{\"text\": \"y\", \"part\": \"test\"}\n";
        let (_dir, library) = library(&[("a.toml", toml), ("a.jsonl", rows)]);
        let fetcher = Fetcher { cache: PathBuf::new(), offline: true };
        let part = library.get("a").unwrap().part(None, "test").unwrap();
        let read = part.read(&part.files(&fetcher).unwrap()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read.row(0).unwrap()["text"], "y");
        let error = library.get("a").unwrap().part(Some("dev"), "test").unwrap_err().to_string();
        assert!(error.contains("\"dev\"") && error.contains("\"train\""), "{error}");
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_one() {
        let (_dir, library) = library(&[("instruct.toml", "source = 'path:x.jsonl'")]);
        let error = library.get("instuct").unwrap_err().to_string();
        assert!(error.contains("did you mean \"instruct\""), "{error}");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let (_other, without) = library(&[("a.toml", "source = 'path:x.jsonl'\n\n[template]\ntarget = 'x'\n")]);
        let (_dir, library) = library(&[("a.toml", "source = 'path:x.jsonl'\nformt = 'csv'\n")]);
        let error = without.get("a").unwrap_err().to_string();
        assert!(error.contains("a.toml, line 3: missing field `prompt`; expected what"), "{error}");
        let error = library.get("a").unwrap_err().to_string();
        assert!(error.contains("formt") && error.contains("line 2") && error.contains("a.toml"), "{error}");
    }

    #[test]
    fn splits_compare_numbers_and_texts_as_people_do_and_rows_keep_their_numbers() {
        let toml = |rows: &str| format!("source = 'path:a.csv'\n[split.test]\nrows = {{ {rows} }}\n");
        let read = |rows: &str| {
            let (_dir, library) =
                library(&[("a.toml", &toml(rows)), ("a.csv", "text,fold,held\nx,1,True\ny,2,False\nz,,\n")]);
            let part = library.get("a").unwrap().part(None, "test").unwrap();
            let fetcher = Fetcher { cache: PathBuf::new(), offline: true };
            part.read(&part.files(&fetcher).unwrap())
        };
        for rows in ["fold = 2", "fold = '2'", "fold = 2.0", "held = false", "held = 'False', fold = 2"] {
            let rows = read(rows).unwrap();
            assert_eq!((rows.len(), rows.number(0), rows.row(0).unwrap()["text"].as_str()), (1, 2, Some("y")));
        }
        for (rows, says) in [
            ("fold = 3", "`fold` = 3, but it is \"1\", \"2\", null"),
            ("flod = 1", "`flod`, which no row has"),
            ("fold = 1, held = false", "no row has them all"),
            ("fold = 2024-01-31", "`fold` = 2024-01-31, but it is"),
        ] {
            let error = read(rows).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn hellaswags_endings_are_cleaned_as_the_harness_cleans_them() {
        let texts: Vec<(String, String)> =
            serde_json::from_str(include_str!("../../tests/fixtures/hellaswag.json")).unwrap();
        let dataset: Dataset = toml::from_str(include_str!("../../datasets/hellaswag.toml")).unwrap();
        let row = |texts: &[(String, String)]| {
            let endings: Vec<&String> = texts.iter().map(|(text, _)| text).collect();
            let row =
                serde_json::json!({"activity_label": "A", "ctx_a": "b", "ctx_b": "c", "endings": endings, "label": 0});
            row.as_object().unwrap().clone()
        };
        for texts in texts.chunks(4) {
            let Content::Choice { choices, .. } = Content::of(&row(texts), dataset.template.as_ref()).unwrap() else {
                panic!()
            };
            assert_eq!(choices, texts.iter().map(|(_, cleaned)| cleaned.as_str()).collect::<Vec<_>>());
        }
    }

    /// lib/data.py of abx393/llm-pruning-calibration-data: the prompts of get_esnli, get_mawps and get_race, with the answer.
    #[test]
    fn rows_of_bandari_et_al_are_asked_in_the_words_of_their_code() {
        let esnli = serde_json::json!({
            "premise": "A woman smiles.", "hypothesis": "A woman is present.", "label": 0,
            "explanation_1": "a", "explanation_2": "b", "explanation_3": "c",
        });
        let mawps = serde_json::json!({
            "id": "mawps__1", "question": "Ann has 3 ships, and Bea 4. How many have they?", "chain": "", "result": "7",
            "result_float": 7.0, "equation": "x = 3 + 4", "expression": "3 + 4",
        });
        let race = serde_json::json!({
            "example_id": "high1.txt", "article": "It rains.", "answer": "C", "question": "What falls?",
            "options": ["snow", "hail", "rain", "nothing"],
        });
        for (text, row, says) in [
            (
                include_str!("../../datasets/e_snli.toml"),
                esnli,
                "Premise: A woman smiles.\nHypothesis: A woman is present.\nLabel: entailment",
            ),
            (
                include_str!("../../datasets/mawps.toml"),
                mawps,
                "Question: Ann has 3 ships, and Bea 4. How many have they?\nAnswer: 7",
            ),
            (
                include_str!("../../datasets/race.toml"),
                race,
                "Article: It rains.\nQuestion: What falls?\nOptions:\nA. snow\nB. hail\nC. rain\nD. nothing\n\nAnswer: C",
            ),
        ] {
            let dataset: Dataset = toml::from_str(text).unwrap();
            let content = Content::of(row.as_object().unwrap(), dataset.template.as_ref()).unwrap();
            let (prompt, target) = content.parts().unwrap();
            assert_eq!(prompt + &target, says);
        }
    }

    #[test]
    fn an_empty_cell_is_explained_where_it_is_asked_for() {
        let (_dir, library) = library(&[("a.toml", "source = 'path:a.csv'"), ("a.csv", "text\nNone\n")]);
        let part = library.get("a").unwrap().part(None, "test").unwrap();
        let fetcher = Fetcher { cache: PathBuf::new(), offline: true };
        let rows = part.read(&part.files(&fetcher).unwrap()).unwrap();
        let error = part.contents(&rows.all()).remove(0).unwrap_err().to_string();
        assert!(error.contains("`text` is null where a text is expected (in CSV an empty cell is null"), "{error}");
    }

    #[test]
    fn rows_under_a_field_are_named_by_it_and_lacking_fields_are_null_to_templates() {
        let toml = "source = 'path:a.json'\nfield = 'data'\n[template]\nprompt = '{% if b %}{{ b }}{% endif %}'\n";
        let json = "{\"version\": 1, \"data\": [{\"a\": \"x\"}, {\"b\": \"y\"}]}";
        let (_dir, library) = library(&[("a.toml", toml), ("a.json", json)]);
        let part = library.get("a").unwrap().part(None, "test").unwrap();
        let fetcher = Fetcher { cache: PathBuf::new(), offline: true };
        let rows = part.read(&part.files(&fetcher).unwrap()).unwrap();
        assert_eq!(
            serde_json::to_value(rows.all()).unwrap(),
            serde_json::json!([{"a": "x", "b": null}, {"a": null, "b": "y"}])
        );
    }
}
