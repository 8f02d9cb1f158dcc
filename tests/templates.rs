//! Chat templates against transformers: `fixtures/chat_templates.py` wrote what it makes of them.

use serde_json::{Map, Value};

use calipr::model::ModelFiles;

/// A model's folder without weights, with this chat template.
fn folder(template: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("config.json", "{}");
    write(
        "tokenizer.json",
        r#"{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}}"#,
    );
    write("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": "</s>"}"#);
    write("chat_template.jinja", template);
    dir
}

#[test]
fn chat_templates_render_as_transformers_renders_them() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/chat_templates.json")).unwrap();
    let today = fixture["date"].as_str().unwrap().parse().unwrap();
    let mut wrong = Vec::new();
    for (name, template) in fixture["templates"].as_object().unwrap() {
        let dir = folder(template.as_str().unwrap());
        let tokenizer = ModelFiles::at(dir.path()).unwrap().tokenizer().unwrap().on(Some(today));
        for case in fixture["cases"].as_array().unwrap().iter().filter(|case| case[0] == **name) {
            let row: &Map<String, Value> = fixture["conversations"][case[1].as_str().unwrap()].as_object().unwrap();
            let conversation = calipr::model::Conversation::of(&row["messages"], row).unwrap();
            let text = tokenizer.chat(&conversation, case[2] == true).map_err(|error| format!("{error:#}"));
            let same = match (&text, case[3].as_str()) {
                (Ok(text), Some(expected)) => text == expected,
                (Err(_), None) => true,
                _ => false,
            };
            if !same {
                wrong.push(format!("{name}, {}:\n{text:?}\nexpected\n{:?}", case[1], case[3].as_str()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
}
