//! What a repository has, and what of it is wanted: a model's files, those of a pattern, a split of the Hub's conversion.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::client::{Client, escaped, shown};
use super::failure::Failure;
use crate::words;

/// The names of a repository's files at a commit: all, or those right in a folder.
pub fn names(client: &Client, api: &str, commit: &str, within: Within) -> Result<Vec<String>, Failure> {
    let (folder, recursive) = match within {
        Within::All(folder) => (folder, true),
        Within::Folder(folder) => (folder, false),
    };
    let folder = if folder.is_empty() { String::new() } else { format!("/{}", escaped(folder, true)) };
    let mut next = Some(format!("{api}/tree/{}{folder}?recursive={recursive}&expand=false", escaped(commit, false)));
    let mut names = Vec::new();
    while let Some(url) = next {
        let (page, following) = client.json(&url)?;
        let Value::Array(entries) = page else {
            return Err(Failure::Strange(format!("{} lists no files; HF_ENDPOINT names the Hub", shown(api))));
        };
        for entry in &entries {
            // A name becomes one in the cache; nothing may lead out of it.
            match entry["path"].as_str().filter(|path| entry["type"] == "file" && is_plain(path)) {
                Some(path) => names.push(path.to_owned()),
                None => tracing::debug!("passed over: {entry}"),
            }
        }
        next = following.filter(|_| !entries.is_empty());
    }
    names.sort();
    Ok(names)
}

/// Of which names a list is.
#[derive(Debug, PartialEq)]
pub enum Within<'a> {
    /// All below a folder.
    All(&'a str),
    /// Right in a folder.
    Folder(&'a str),
}

/// Whether a name stays in the folder that it is looked up in.
pub fn is_plain(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(part) && !path.contains(|c: char| c == '\\' || c.is_control())
}

/// Endings of the files beside a model's weights that it may be read by, here and by transformers.
const ABOUT: [&str; 5] = [".json", ".jinja", ".model", ".tiktoken", ".txt"];

/// The index of weights in several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// The files of a model: what lies beside the weights, and the weights, where the index does not name them.
#[derive(Debug, PartialEq)]
pub struct ModelNames {
    pub about: Vec<String>,
    /// None where the index tells.
    pub weights: Option<String>,
}

impl ModelNames {
    /// Of all of a repository.
    ///
    /// # Errors
    /// What to do where it has no model that is read.
    pub fn of(names: &[String], repo: &str) -> Result<Self, String> {
        let has = |name: &str| names.iter().any(|own| own == name);
        if !has("config.json") {
            let files: Vec<String> =
                names.iter().filter(|name| name.ends_with(".gguf")).map(|name| format!("hf:{repo}/{name}")).collect();
            return Err(match files.is_empty() {
                true => "has no config.json; a model is a config.json with safetensors, or a GGUF file".into(),
                false => format!("holds GGUF files; name the one that you mean: {}", files.join(", ")),
            });
        }
        let weights = match names.iter().filter(|name| is_weights(name)).collect::<Vec<_>>().as_slice() {
            _ if has("model.safetensors") => Some("model.safetensors".into()),
            _ if has(INDEX) => None,
            [one] => Some((*one).clone()),
            several => return Err(without_weights(names.iter().map(String::as_str), several.len())),
        };
        let index_of_others = |name: &str| name.ends_with(".index.json") && name != INDEX;
        let is_about = |name: &str| match name.split_once('/') {
            None => {
                (ABOUT.iter().any(|ending| name.ends_with(ending)) && !index_of_others(name))
                    || ["LICENSE", "NOTICE"].iter().any(|start| name.starts_with(start))
            }
            Some((folder, rest)) => {
                folder == "additional_chat_templates" && rest.ends_with(".jinja") && !rest.contains('/')
            }
        };
        Ok(Self { about: names.iter().filter(|name| is_about(name)).cloned().collect(), weights })
    }
}

/// Whether a name is one of a folder's weights where no other tells which count.
fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains('/') && name != "adapter_model.safetensors"
}

/// What to say of a folder with these names, which has neither `model.safetensors` nor its index, and of others so many.
pub fn without_weights<'a>(names: impl Iterator<Item = &'a str> + Clone, several: usize) -> String {
    let ends = |endings: &[&str]| names.clone().any(|name| endings.iter().any(|ending| name.ends_with(ending)));
    if several > 0 {
        return format!(
            "has {several} *.safetensors but neither a model.safetensors nor a model.safetensors.index.json that joins them"
        );
    }
    if names.clone().any(|name| name == "adapter_model.safetensors") {
        return "holds an adapter (adapter_model.safetensors), not a model; merge it into its base with peft's \
                merge_and_unload and save that"
            .into();
    }
    if ends(&[".bin", ".pt", ".pth"]) {
        return "has its weights as a PyTorch pickle only; save them as safetensors (model.save_pretrained with \
                transformers 5)"
            .into();
    }
    "has no *.safetensors; calipr reads safetensors and GGUF".into()
}

/// The files that an index of weights names, in order.
///
/// # Errors
/// Where it is none, or names what the repository lacks.
pub fn shards(index: &str, names: &[String]) -> Result<Vec<String>, String> {
    let index: Value = serde_json::from_str(index).map_err(|e| format!("has a {INDEX} that is no index: {e}"))?;
    let map = index["weight_map"].as_object().into_iter().flat_map(|map| map.values());
    let shards: BTreeSet<&str> = map.filter_map(|shard| shard.as_str()).collect();
    match shards.iter().find(|shard| !names.iter().any(|name| name == *shard)) {
        None => Ok(shards.into_iter().map(str::to_owned).collect()),
        Some(shard) => Err(format!("has no {shard}, but {INDEX} names it")),
    }
}

/// All parts of a GGUF file that `llama-gguf-split` has split, of which one is named; or that one.
pub fn parts(file: &str) -> Vec<String> {
    let split = || {
        let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let read = |digits: &str| Some(digits).filter(|digits| digits.len() == 5)?.parse::<usize>().ok();
        let (_, count) = (read(number)?, read(count)?);
        Some((1..=count).map(|n| format!("{stem}-{n:05}-of-{count:05}.gguf")).collect())
    };
    split().unwrap_or_else(|| vec![file.to_owned()])
}

/// Whether a name is a pattern: it has `*`, `?` or `[…]`.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// Where the files of a pattern lie.
pub fn within(pattern: &str) -> Within<'_> {
    let folder = |end: Option<usize>| end.map_or("", |end| &pattern[..end]);
    let first = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let before = folder(pattern[..first].rfind('/'));
    match pattern[first..].contains('/') {
        true => Within::All(before),
        false => Within::Folder(before),
    }
}

/// Whether a path is one of a pattern's: `*` and `?` stand for what is within a name, `[…]` for one of these characters,
/// `**` for folders.
pub fn matches(pattern: &str, path: &str) -> bool {
    fn folders(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => (0..=path.len()).any(|skipped| folders(rest, &path[skipped..])),
            (Some((first, rest)), Some((name, below))) => {
                let (first, name): (Vec<char>, Vec<char>) = (first.chars().collect(), name.chars().collect());
                within_a_name(&first, &name) && folders(rest, below)
            }
            _ => false,
        }
    }
    folders(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
}

fn within_a_name(pattern: &[char], name: &[char]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        (['*', rest @ ..], _) => (0..=name.len()).any(|skipped| within_a_name(rest, &name[skipped..])),
        (['?', rest @ ..], [_, after @ ..]) => within_a_name(rest, after),
        (['[', rest @ ..], [c, after @ ..]) if rest.contains(&']') => {
            // A bracket that comes first is one of the characters.
            let end = rest.iter().skip(1).position(|&c| c == ']').map_or(0, |end| end + 1);
            let (set, rest) = (&rest[..end], &rest[(end + 1).min(rest.len())..]);
            let (not, set) = match set {
                ['!' | '^', set @ ..] => (true, set),
                set => (false, set),
            };
            let mut found = set.contains(c);
            found |= set.windows(3).any(|range| range[1] == '-' && (range[0]..=range[2]).contains(c));
            found != not && within_a_name(rest, after)
        }
        ([first, rest @ ..], [c, after @ ..]) => first == c && within_a_name(rest, after),
        _ => false,
    }
}

/// A split of a data set that is named without its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfSplit<'a> {
    /// The subset, as the Hub calls it; None where there is one, or one that is called `default`.
    pub config: Option<&'a str>,
    pub split: &'a str,
}

/// What the Hub has made of a data set: Parquet files by subset and split.
pub struct Conversion(BTreeMap<String, BTreeMap<String, Vec<String>>>);

/// The revision that holds it.
pub const CONVERSION: &str = "refs/convert/parquet";

impl Conversion {
    /// Of the names of all files: `CONFIG/SPLIT/0000.parquet`.
    pub fn of(names: &[String]) -> Self {
        let mut all: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for name in names.iter().filter(|name| name.ends_with(".parquet")) {
            if let [config, split, _] = name.split('/').collect::<Vec<_>>()[..] {
                let files = all.entry(config.to_owned()).or_default().entry(split.to_owned()).or_default();
                files.push(name.clone());
            }
        }
        Self(all)
    }

    /// The files of a split.
    ///
    /// # Errors
    /// What there is instead.
    pub fn files(&self, wanted: OfSplit) -> Result<Vec<String>, String> {
        let list = |names: Vec<&str>| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let configs: Vec<&str> = self.0.keys().map(String::as_str).collect();
        let near = |name: &str, known: &[&str]| {
            words::nearest(name, known.iter().copied()).map_or(String::new(), |n| format!("; did you mean \"{n}\"?"))
        };
        let config = match (wanted.config, configs.as_slice()) {
            (_, []) => return Err("has no rows that the Hub could convert to Parquet; name its files".into()),
            (Some(config), known) if known.contains(&config) => config,
            (Some(config), known) => {
                return Err(format!("has no subset \"{config}\", but {}{}", list(known.to_vec()), near(config, known)));
            }
            (None, [one]) => one,
            (None, known) if known.contains(&"default") => "default",
            (None, known) => {
                return Err(format!(
                    "has several subsets; name one with `config` in a TOML of the data set: {}",
                    list(known.to_vec())
                ));
            }
        };
        let splits = &self.0[config];
        if let Some(files) = splits.get(wanted.split) {
            return Ok(files.clone());
        }
        if splits.contains_key(&format!("partial-{}", wanted.split)) {
            return Err(format!(
                "is so large that the Hub has converted only the beginning of \"{}\"; name its files",
                wanted.split
            ));
        }
        let known: Vec<&str> = splits.keys().map(|name| name.strip_prefix("partial-").unwrap_or(name)).collect();
        let of = if configs.len() > 1 { format!(" of \"{config}\"") } else { String::new() };
        let hint = near(wanted.split, &known);
        Err(format!("has no split \"{}\"{of}; name one with `split`: {}{hint}", wanted.split, list(known)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_models_files_are_its_safetensors_and_what_it_is_read_by() {
        let all = names(&[
            ".gitattributes",
            "README.md",
            "LICENSE.txt",
            "additional_chat_templates/tool_use.jinja",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "onnx/config.json",
            "original/consolidated.00.pth",
            "pytorch_model-00001-of-00001.bin",
            "pytorch_model.bin.index.json",
            "tokenizer.json",
            "tokenizer.model",
        ]);
        let found = ModelNames::of(&all, "a/b").unwrap();
        let about = [
            "LICENSE.txt",
            "additional_chat_templates/tool_use.jinja",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer.model",
        ];
        assert_eq!(found, ModelNames { about: names(&about), weights: None });
        let index =
            r#"{"weight_map": {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}}"#;
        assert_eq!(shards(index, &all).unwrap(), all[7..9]);
        assert!(shards(r#"{"weight_map": {"a": "x.safetensors"}}"#, &all).unwrap_err().contains("no x.safetensors"));
        for (all, weights) in [
            (&["config.json", "model.safetensors", "other.safetensors"][..], "model.safetensors"),
            (&["adapter_model.safetensors", "config.json", "one.safetensors"], "one.safetensors"),
        ] {
            assert_eq!(ModelNames::of(&names(all), "a/b").unwrap().weights.as_deref(), Some(weights));
        }
    }

    #[test]
    fn a_repository_without_safetensors_says_what_to_do() {
        for (all, says) in [
            (&["a.gguf", "b/c.gguf"][..], "name the one that you mean: hf:a/b/a.gguf, hf:a/b/b/c.gguf"),
            (&["README.md"], "has no config.json"),
            (&["config.json", "pytorch_model.bin"], "PyTorch pickle only"),
            (&["adapter_model.safetensors", "config.json"], "merge_and_unload"),
            (&["config.json", "x.safetensors", "y.safetensors"], "has 2 *.safetensors but neither"),
            (&["config.json", "flax_model.msgpack"], "has no *.safetensors"),
        ] {
            let said = ModelNames::of(&names(all), "a/b").unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn a_split_gguf_file_is_all_of_its_parts() {
        let all = ["q/m-00001-of-00003.gguf", "q/m-00002-of-00003.gguf", "q/m-00003-of-00003.gguf"];
        assert_eq!(parts(all[1]), all);
        for one in ["m.Q4_0.gguf", "m-1-of-3.gguf", "a-00001-of-00002.parquet"] {
            assert_eq!(parts(one), [one]);
        }
    }

    #[test]
    fn a_pattern_names_files_as_the_shell_does() {
        let pattern = "en/c4-train.0000*-of-01024.json.gz";
        assert!(matches(pattern, "en/c4-train.00003-of-01024.json.gz"));
        assert!(!matches(pattern, "en/c4-train.00013-of-01024.json.gz"));
        assert!(!matches(pattern, "en/x/c4-train.00003-of-01024.json.gz"));
        assert!(matches("data/**/*.parquet", "data/a/b/c.parquet") && matches("data/**/*.parquet", "data/c.parquet"));
        assert!(
            matches("a[0-3!].?sv", "a2.csv") && matches("a[!0-3].csv", "a7.csv") && !matches("a[!0-3].csv", "a1.csv")
        );
        assert!(!matches("*.csv", "a/b.csv") && !matches("a[", "a") && matches("a[", "a["));
        assert_eq!(within(pattern), Within::Folder("en"));
        assert_eq!(within("*.csv"), Within::Folder(""));
        assert_eq!(within("a/b*/c.csv"), Within::All("a"));
        assert!(is_pattern(pattern) && !is_pattern("en/c4.json.gz"));
    }

    #[test]
    fn a_split_by_name_is_what_the_hub_has_converted() {
        let one = Conversion::of(&names(&[
            "default/train/0000.parquet",
            "default/train/0001.parquet",
            "default/partial-test/0000.parquet",
        ]));
        let of = |config, split| OfSplit { config, split };
        assert_eq!(one.files(of(None, "train")).unwrap(), ["default/train/0000.parquet", "default/train/0001.parquet"]);
        assert!(one.files(of(None, "test")).unwrap_err().contains("only the beginning"));
        assert!(one.files(of(None, "trian")).unwrap_err().ends_with("\"test\", \"train\"; did you mean \"train\"?"));
        let two = Conversion::of(&names(&["raw/train/0000.parquet", "v1/train/0000.parquet"]));
        assert!(
            two.files(of(None, "train")).unwrap_err().contains("`config` in a TOML of the data set: \"raw\", \"v1\"")
        );
        assert!(two.files(of(Some("v2"), "train")).unwrap_err().contains("no subset \"v2\""));
        assert_eq!(two.files(of(Some("v1"), "train")).unwrap(), ["v1/train/0000.parquet"]);
        assert!(Conversion::of(&[]).files(of(None, "train")).unwrap_err().contains("name its files"));
    }
}
