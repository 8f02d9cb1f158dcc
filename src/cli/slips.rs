//! What a person probably meant by a command line that is wrong.

use std::error::Error;
use std::num::{IntErrorKind, ParseIntError};

use clap::CommandFactory;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;
use crate::bundled;
use crate::recipe::keys::{self, Key};
use crate::recipe::{self};

/// Adds to clap's error what the command line probably should have been.
pub fn explained(mut error: clap::Error, arguments: &[String]) -> clap::Error {
    let invalid = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => {
            let has_similar = error.get(ContextKind::SuggestedArg).is_some();
            invalid(ContextKind::InvalidArg).and_then(|argument| of_argument(&argument, has_similar, arguments))
        }
        ErrorKind::InvalidSubcommand => invalid(ContextKind::InvalidSubcommand).and_then(|word| of_command(&word)),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let variable = invalid(ContextKind::InvalidArg).and_then(|argument| of_variable(&argument, arguments));
            variable.or_else(|| of_zero(&error))
        }
        _ => None,
    };
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::SuggestedSubcommand);
        error.remove(ContextKind::TrailingArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

/// `--sparsity 0.5` for `--set grid.sparsity=[0.5]`, and `grid.sparsity=[0.5]` without its `--set`.
fn of_argument(argument: &str, has_similar: bool, arguments: &[String]) -> Option<String> {
    let said = |set: String| Some(format!("a key of the recipe is set with {set}"));
    let Some(name) = argument.strip_prefix("--") else {
        let is_setting = argument.split_once('=').is_some_and(|(key, _)| !key.is_empty() && !key.starts_with('-'));
        return is_setting.then(|| said(format!("--set {}", quoted(argument))))?;
    };
    let name = name.split('=').next().unwrap_or_default();
    let keys = if has_similar { keys::named(name) } else { keys::like(name) };
    let set: Vec<String> = keys.iter().map(|key| setting(key, value_of(name, arguments))).collect();
    if set.is_empty() { None } else { said(set.join(" or ")) }
}

/// The variable that an option's value comes from, where the command line does not have it.
fn of_variable(option: &str, arguments: &[String]) -> Option<String> {
    let name = option.split(' ').next()?.strip_prefix("--")?;
    let variable = format!("CALIPR_{}", name.to_uppercase());
    let is_given = arguments.iter().any(|a| a.strip_prefix("--").and_then(|a| a.split('=').next()) == Some(name));
    (!is_given && std::env::var_os(&variable).is_some()).then(|| format!("the variable {variable} says so"))
}

/// What is counted begins at 1.
fn of_zero(error: &clap::Error) -> Option<String> {
    let why = error.source()?.downcast_ref::<ParseIntError>()?;
    (*why.kind() == IntErrorKind::Zero).then(|| "the least is 1".into())
}

/// What the command line gives the option.
fn value_of<'a>(name: &str, arguments: &'a [String]) -> Option<&'a str> {
    let option = format!("--{name}");
    let at = arguments.iter().position(|a| *a == option || a.starts_with(&format!("{option}=")))?;
    match arguments[at].split_once('=') {
        Some((_, value)) => Some(value),
        None => arguments.get(at + 1).map(String::as_str).filter(|next| !next.starts_with('-')),
    }
}

/// `--set KEY=VALUE`, as a shell takes it.
fn setting(key: &Key, value: Option<&str>) -> String {
    let is_number = |text: &str| text.parse::<f64>().is_ok_and(f64::is_finite);
    let in_list = |text: &str| match text.trim() {
        text if is_number(text) => text.to_owned(),
        text => format!("\"{}\"", text.trim_matches(['"', '\''])),
    };
    let value = match value {
        None if key.is_list => "[VALUE]".to_owned(),
        None => "VALUE".to_owned(),
        Some(list) if key.is_list && list.trim_start().starts_with('[') => list.to_owned(),
        Some(list) if key.is_list => format!("[{}]", list.split(',').map(in_list).collect::<Vec<_>>().join(", ")),
        Some(value) => value.to_owned(),
    };
    format!("--set {}", quoted(&format!("{}={value}", key.dotted())))
}

/// In quotes where a shell would take it apart.
fn quoted(text: &str) -> String {
    let is_plain = text.chars().all(|c| c.is_alphanumeric() || "._-=:/+,@%".contains(c));
    let Some((key, value)) = text.split_once('=').filter(|_| !is_plain) else { return text.to_owned() };
    format!("{key}='{}'", value.replace('\'', "'\\''"))
}

/// A slip of the fingers, or a recipe in the place of a command.
fn of_command(word: &str) -> Option<String> {
    // Of words as short as these, letters that changed places leave too little alike for other measures.
    let is_slip = |name: &&str| strsim::damerau_levenshtein(&word.to_lowercase(), name) <= 1;
    if let Some(name) = Cli::command().get_subcommands().map(|c| c.get_name()).find(is_slip) {
        return Some(format!("did you mean `calipr {name}`?"));
    }
    let found = recipe::found(word.into());
    if !(word.ends_with(".toml") || found.is_file() || bundled::recipe(&found).is_some()) {
        return None;
    }
    let meant = word;
    Some(format!("a study is run with `calipr run {meant}`, and looked at beforehand with `calipr plan {meant}`"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn said(line: &str) -> String {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        match Cli::try_parse_from(&arguments) {
            Ok(_) => "right".into(),
            Err(error) => explained(error, &arguments).render().to_string(),
        }
    }

    #[test]
    fn a_key_of_the_recipe_as_an_option_leads_to_set() {
        for (line, tip) in [
            ("calipr run a.toml --sparsity 0.5", "--set grid.sparsity='[0.5]'"),
            ("calipr run a.toml --sparsity=0.5,0.6", "--set grid.sparsity='[0.5, 0.6]'"),
            ("calipr run --sparsity 2:4 a.toml", "--set grid.sparsity='[\"2:4\"]'"),
            ("calipr plan a.toml --method wanda", "--set grid.method='[\"wanda\"]'"),
            ("calipr run a.toml --model hf:a/b", "--set model.source=hf:a/b"),
            ("calipr run a.toml --dtype bf16", "--set model.dtype=bf16"),
            ("calipr bench a.toml --device", "--set model.device=VALUE"),
            ("calipr run a.toml --seed 1", "--set seed=1"),
            ("calipr run a.toml --sparsity_ratio 0.5", "--set grid.sparsity='[0.5]'"),
            ("calipr run a.toml grid.sparsity=[0.5]", "--set grid.sparsity='[0.5]'"),
            ("calipr run a.toml seed=1", "--set seed=1"),
            ("calipr study.toml", "`calipr run study.toml`"),
            ("calipr quickstart", "`calipr run quickstart`"),
            ("calipr rnu a.toml", "did you mean `calipr run`?"),
            ("calipr Plan a.toml", "did you mean `calipr plan`?"),
            ("calipr repport a", "report"),
            ("calipr run a.toml --quite", "--quiet"),
            ("calipr run a.toml --threads 0", "the least is 1"),
        ] {
            assert!(said(line).contains(tip), "{line}: {}", said(line));
        }
        assert!(said("calipr run a.toml --xyzzy 1").contains("--xyzzy"));
        assert!(!said("calipr run a.toml --sparsity 0.5").contains("similar argument"));
    }
}
