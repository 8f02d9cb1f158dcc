//! Safetensors files, in shards as transformers writes them (`save_pretrained`): of 5 GB at most, with an index.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::tensors::Planned;

/// Bytes of a shard at most, as in transformers (`max_shard_size`); a larger tensor has one of its own.
const SHARD: u64 = 5_000_000_000;

/// Writes the tensors into one file, or into several with an index.
pub fn write(dir: &Path, tensors: &[Planned], make: &mut dyn FnMut(&Planned) -> Result<Vec<u8>>) -> Result<()> {
    let shards = shards(tensors, SHARD);
    if let [only] = shards.as_slice() {
        return write_file(&dir.join("model.safetensors"), only, make);
    }
    let mut places = Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_file(&dir.join(&name), shard, make)?;
        places.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(name))));
    }
    let bytes: u64 = tensors.iter().map(Planned::bytes).sum();
    let index = json!({"metadata": {"total_size": bytes}, "weight_map": places});
    let path = dir.join("model.safetensors.index.json");
    std::fs::write(&path, serde_json::to_string_pretty(&index)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The tensors in their order, as many to a shard as it may hold.
fn shards(tensors: &[Planned], most: u64) -> Vec<Vec<&Planned>> {
    let mut shards: Vec<Vec<&Planned>> = vec![vec![]];
    let mut held = 0;
    for tensor in tensors {
        if held > 0 && held + tensor.bytes() > most {
            shards.push(vec![]);
            held = 0;
        }
        held += tensor.bytes();
        shards.last_mut().expect("there is one at least").push(tensor);
    }
    shards
}

fn write_file(path: &Path, tensors: &[&Planned], make: &mut dyn FnMut(&Planned) -> Result<Vec<u8>>) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(cannot)?);
    out.write_all(&header(tensors)).with_context(cannot)?;
    for tensor in tensors {
        let bytes = make(tensor)?;
        out.write_all(&bytes).with_context(cannot)?;
    }
    let file = out.into_inner().map_err(|error| error.into_error()).with_context(cannot)?;
    file.sync_all().with_context(cannot)
}

/// The length of the JSON that says where each tensor lies, and that JSON, filled up with spaces to a whole eight bytes.
fn header(tensors: &[&Planned]) -> Vec<u8> {
    let mut entries: Map<String, Value> = Map::new();
    entries.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        let entry = json!({"dtype": tensor.precision(), "shape": tensor.shape, "data_offsets": [at, end]});
        entries.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::tensors::Precision;
    use super::*;

    fn tensor(name: &str, count: usize) -> Planned {
        Planned { name: name.into(), shape: vec![count], precision: Precision::Of(DType::F32), parts: vec![] }
    }

    #[test]
    fn shards_are_filled_in_order_and_a_large_tensor_has_one_of_its_own() {
        let tensors = [tensor("a", 2), tensor("b", 3), tensor("c", 9), tensor("d", 1)];
        let names: Vec<Vec<&str>> =
            shards(&tensors, 20).iter().map(|shard| shard.iter().map(|t| t.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"], vec!["d"]]);
        assert_eq!(shards(&[], 20).len(), 1);
    }

    #[test]
    fn a_file_reads_back_with_the_formats_own_library() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = [tensor("first", 3), tensor("second", 2)];
        let mut make = |t: &Planned| Ok(bytemuck::cast_slice(&vec![t.shape[0] as f32; t.shape[0]]).to_vec());
        write(dir.path(), &tensors, &mut make).unwrap();
        let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let second = read.tensor("second").unwrap();
        assert_eq!(
            (second.shape(), bytemuck::pod_collect_to_vec::<u8, f32>(second.data())),
            (&[2][..], vec![2.0, 2.0])
        );
    }
}
