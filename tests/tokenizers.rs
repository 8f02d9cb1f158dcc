//! Chat templates, special tokens and classes of tokenizers against transformers: `scripts/chat_templates.py`,
//! `scripts/special_tokens.py` and `scripts/tokenizer_classes.py` wrote what it makes of them.

use serde_json::{Map, Value};

use calipr::internals::{Conversation, ModelFiles};

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

/// What `AutoTokenizer` makes of a folder: where it makes nothing, or another thing each time, calipr refuses the folder.
#[test]
fn a_tokenizer_is_rebuilt_by_the_class_that_auto_tokenizer_takes() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/tokenizer_classes.json")).unwrap();
    let texts: Vec<&str> = fixture["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let mut wrong = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let (file, kind) = (case[0].as_str().unwrap(), &case[1]);
        let config = &fixture["configs"][case[2].as_u64().unwrap() as usize];
        let outcome = &fixture["outcomes"][case[3].as_u64().unwrap() as usize];
        let dir = folder(fixture["template"].as_str().unwrap());
        let write = |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        write("tokenizer.json", &fixture["files"][file]);
        let mut model = config[1].clone();
        model["model_type"] = kind.clone();
        write("config.json", &model);
        match &config[0] {
            Value::Null => std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap(),
            config => write("tokenizer_config.json", config),
        }
        let place = format!("{file}, {kind}, {config}");
        let tokenizer = ModelFiles::at(dir.path()).unwrap().tokenizer();
        if outcome.is_null() {
            if tokenizer.is_ok_and(|tokenizer| texts.iter().all(|text| tokenizer.encode(text, true).is_ok())) {
                wrong.push(format!("{place}: read"));
            }
            continue;
        }
        let tokenizer = match tokenizer {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{place}: {error:#}"));
                continue;
            }
        };
        let messages = vec![serde_json::json!({"role": "user"})];
        let variables = tokenizer.chat(&Conversation { messages, ..Conversation::default() }, false).unwrap();
        let end: Vec<u32> = outcome["eos"].as_u64().map(|id| id as u32).into_iter().collect();
        if outcome["variables"] != variables || tokenizer.end() != end {
            wrong.push(format!(
                "{place}: {variables} {:?}, expected {} {end:?}",
                tokenizer.end(),
                outcome["variables"]
            ));
        }
        for (text, expected) in texts.iter().zip(outcome["texts"].as_array().unwrap()) {
            let ids = tokenizer.encode(text, true).unwrap();
            let plain = tokenizer.encode(text, false).unwrap();
            let decoded = (tokenizer.decode(&ids).unwrap(), tokenizer.decode_with_special(&ids).unwrap());
            let found = serde_json::json!([ids, plain, decoded.0, decoded.1]);
            if found != *expected {
                wrong.push(format!("{place}: {text:?}: {found}, expected {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

/// A mapping as the script writes it.
fn python(options: &Value) -> String {
    options.to_string().replace(':', ": ")
}
