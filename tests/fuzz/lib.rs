//! What the fuzz targets share.

use std::path::Path;

use calipr::internals::{Conversation, Model, ModelFiles, device};

/// Reads all of a model that a study would.
pub fn read_model(path: &Path) {
    let Ok(files) = ModelFiles::at(path) else { return };
    if let Ok(tokenizer) = files.tokenizer() {
        let _ = tokenizer.encode("Some words, 3 of them.\n", true).map(|ids| tokenizer.decode(&ids));
        let messages = vec![serde_json::json!({"role": "user", "content": "hi"})];
        let _ = tokenizer.chat(&Conversation { messages, ..Conversation::default() }, true);
    }
    let Ok(model) = device::open("cpu").and_then(|cpu| Model::open(&files, calipr::internals::Dtype::F32.into(), cpu))
    else {
        return;
    };
    let _ = model.embedding().and_then(|embedding| model.head(&embedding));
    for index in 0..model.spec.blocks.min(4) {
        let _ = model.block(index);
    }
}
