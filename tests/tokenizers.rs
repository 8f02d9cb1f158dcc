//! Chat templates and special tokens against transformers: `scripts/chat_templates.py` and `scripts/special_tokens.py` wrote
//! what it makes of them.

use serde_json::{Map, Value};

use calipr::model::{Conversation, ModelFiles};

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
            let conversation = Conversation::of(&row["messages"], row).unwrap();
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

#[test]
fn special_tokens_are_those_of_auto_tokenizer() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/special_tokens.json")).unwrap();
    let mut wrong = Vec::new();
    for case in fixture["folders"].as_array().unwrap() {
        let name = &case["name"];
        let dir = folder(fixture["template"].as_str().unwrap());
        let write = |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
        write("tokenizer.json", &fixture["bases"][python(&case["options"])]);
        case["files"].as_object().unwrap().iter().for_each(|(name, value)| write(name, value));
        let tokenizer = ModelFiles::at(dir.path()).unwrap().tokenizer().unwrap();
        let messages = vec![serde_json::json!({"role": "user"})];
        let variables = tokenizer.chat(&Conversation { messages, ..Conversation::default() }, false).unwrap();
        let end: Vec<u32> = case["eos"].as_u64().map(|id| id as u32).into_iter().collect();
        if case["variables"] != variables || tokenizer.end() != end {
            wrong.push(format!("{name}: {variables} {:?}, expected {} {end:?}", tokenizer.end(), case["variables"]));
        }
        for text in case["texts"].as_array().unwrap() {
            let ids = tokenizer.encode(text[0].as_str().unwrap(), true).unwrap();
            let decoded = tokenizer.decode(&ids).unwrap();
            if text[1] != serde_json::json!(ids) || text[2] != decoded {
                wrong.push(format!("{name}: {text}, not {ids:?} {decoded:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// A mapping as the script writes it.
fn python(options: &Value) -> String {
    options.to_string().replace(':', ": ")
}
